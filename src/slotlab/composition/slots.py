"""The slots of all images of a data set, collected in a table; clusters of slots."""

import warnings
from collections.abc import Generator
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.data import SlotDataset
from slotlab.data.sample import Batch, KnowsObjects
from slotlab.distributed import from_all, place_among_processes
from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.evaluation import outputs
from slotlab.models import Model, SlotOutput, that_paints
from slotlab.models.building import fingerprint
from slotlab.progress import in_steps

SMALLEST_SHARE = 0.002
RULES = {
    "dropped": f"slots that own less than {SMALLEST_SHARE:.1%} of the pixels",
    "background": "the kept slot that owns the most pixels of the image's border; if several do, the largest of them",
    "owner of a pixel": "argmax of the masks",
    "centre": "mean position of the pixels owned",
}
ATTRIBUTES = ("shape", "material")


@dataclass(eq=False)
class SlotTable:
    """N slots in the order of their images, without those that own less than 0.2 % of an image.

    Attributes:
        slots: float32 [N, D].
        position: int64 [N], the image's position in the data set as it was opened.
        index: int64 [N], the image's number in its data set (`Sample["index"]`).
        number: int64 [N], the number of the slot in its image, 0..K-1.
        area: float32 [N] in (0, 1], the share of the image's pixels that the slot owns.
        centre: float32 [N, 2] in [-1, 1], mean x (right) and y (down) of these pixels.
        background: bool [N], true for one slot of each image.
        fill: float32 [N] in (0, 1], the share of the slot's mask that lies on the pixels it owns:
            near 1 for a whole object, less for a fragment; None in libraries of version 0.1.
        truth: int64 [N], the id of the true segment that shares the most pixels with the slot; None
            for data without true masks.
        truth_share: float32 [N] in [0, 1], the share of the slot's pixels inside that segment.
        shape: int64 [N], index into `facts["names"]["shape"]` of the true object's shape, -1 for
            the background; None for data that does not describe its objects.
        material: int64 [N], its material in the same form.
        facts: origin of the slots, as JSON values: `model`, `fingerprint`, `data`, `seed`,
            `slots_per_image`, `rules`, `images`, `dropped`, and `names` of shapes and materials.
    """

    slots: np.ndarray
    position: np.ndarray
    index: np.ndarray
    number: np.ndarray
    area: np.ndarray
    centre: np.ndarray
    background: np.ndarray
    fill: np.ndarray | None = None
    truth: np.ndarray | None = None
    truth_share: np.ndarray | None = None
    shape: np.ndarray | None = None
    material: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.slots)

    def columns(self) -> dict[str, np.ndarray]:
        """The columns that are not None, by name."""
        return {name: getattr(self, name) for name in COLUMNS if getattr(self, name) is not None}


COLUMNS = tuple(column.name for column in fields(SlotTable) if column.name != "facts")


@in_steps
def extract(
    model: Model, dataset: SlotDataset, *, batch_size: int = 32, seed: int = 0
) -> Generator[int, None, SlotTable]:
    """Collects the slots of all images of a data set.

    An image's initial slots depend on `seed` and its index only, as in `slotlab.evaluate`. Several
    processes share the images and all return the whole table. It is held in memory: 56 MB for
    10,000 images of 11 slots of width 128.

    Raises:
        CheckpointError: the model has no slots, or its slots are not finite.
        DataError: an image cannot be read, or the data set holds clips.

    Example:
        >>> import slotlab
        >>> from slotlab.composition import extract
        >>> data = slotlab.open_data("scenes:plain", resolution=64, count=3, max_objects=6)
        >>> table = extract(slotlab.load("scenes-64"), data)
        >>> table.slots.shape, table.background.sum().item()
        ((19, 128), 3)
        >>> table.facts["images"], table.facts["dropped"]
        (3, 2)
    """
    slot_model = that_paints(model)
    check_still(dataset)
    position = first = place_among_processes().share(len(dataset)).start
    parts: list[dict[str, np.ndarray]] = []
    for batch, output in outputs(slot_model, dataset, batch_size=batch_size, seed=seed, segment_only=True):
        parts.append(_rows(output, output.soft_masks(slot_model.finer_masks).float(), batch, position, dataset))
        position += len(batch["index"])
        yield len(batch["index"])
    images = sum(from_all([position - first]))
    parts = from_all(parts)
    columns = {
        name: np.concatenate([part[name] for part in parts])
        for name in COLUMNS
        if all(name in part for part in parts)  # metadata may be missing for some images
    }
    names = {one: [*dict.fromkeys(filter(None, columns[one].tolist()))] for one in ATTRIBUTES if one in columns}
    for attribute, known in names.items():
        codes = {"": -1, **{name: code for code, name in enumerate(known)}}
        columns[attribute] = np.array([codes[name] for name in columns[attribute].tolist()], dtype=np.int64)
    facts = {
        "model": slot_model.describe(),
        "fingerprint": fingerprint(slot_model),
        "data": dataset.describe(),
        "seed": seed,
        "slots_per_image": slot_model.slots,
        "rules": RULES,
        "images": images,
        "dropped": images * slot_model.slots - len(columns["slots"]),
        **({"names": names} if names else {}),
    }
    return SlotTable(**columns, facts=facts)


def check_still(dataset: SlotDataset) -> None:
    """Raises DataError if a data set holds clips."""
    if dataset[0]["image"].ndim == 4:
        data = dataset.describe()["data"]
        raise DataError(f"{data}: holds clips; concepts and compositions are of still images, such as scenes:plain")


def background_rank(owned: Tensor, kept: Tensor) -> Tensor:
    """How much each slot looks like the background: border pixels owned, then pixels owned in all.

    Args:
        owned: bool or int [B, K, H, W], the pixels that each slot owns.
        kept: bool [B, K]; the other slots rank last, at -1.

    Returns:
        int64 [B, K]; the slot of the largest rank is the background.
    """
    pixels, inner = owned.sum(dim=(2, 3)), owned[:, :, 1:-1, 1:-1].sum(dim=(2, 3))
    rank = (pixels - inner) * (owned.shape[2] * owned.shape[3] + 1) + pixels
    return rank.masked_fill(~kept, -1)


def _rows(
    output: SlotOutput, masks: Tensor, batch: Batch, position: int, dataset: SlotDataset
) -> dict[str, np.ndarray]:
    """The rows of one batch, whose first image is at `position`; `masks` are [B, K, H, W]."""
    count, slots, height, width = masks.shape
    if not bool(torch.isfinite(output.slots).all()):
        raise CheckpointError("the model's slots are not finite: its training diverged; use an earlier checkpoint")
    owners = masks.argmax(dim=1)
    owned = F.one_hot(owners, slots).permute(0, 3, 1, 2)  # [B, K, H, W]
    pixels = owned.sum(dim=(2, 3))
    kept = pixels >= SMALLEST_SHARE * height * width
    columns = {
        "slots": output.slots.float(),
        "position": torch.arange(position, position + count)[:, None].expand(-1, slots),
        "index": batch["index"][:, None].expand(-1, slots),
        "number": torch.arange(slots).expand(count, -1),
        "area": pixels / (height * width),
        "centre": _centres(owned.float()),
        "background": F.one_hot(background_rank(owned, kept).argmax(dim=1), slots).bool(),
        "fill": (masks * owned).sum(dim=(2, 3)) / masks.sum(dim=(2, 3)).clamp(min=1e-12),
    }
    if "mask" in batch:
        columns["truth"], columns["truth_share"] = _truth(owners.cpu(), batch["mask"].cpu(), slots)
    rows = {name: values.cpu()[kept.cpu()].numpy() for name, values in columns.items()}
    if "truth" in rows and isinstance(dataset, KnowsObjects):
        rows |= _attributes(rows["index"].tolist(), rows["truth"].tolist(), dataset)
    return rows


def _attributes(index: list[int], truth: list[int], dataset: KnowsObjects) -> dict[str, np.ndarray]:
    """Shape and material of each slot's true object, "" for none; empty without such metadata."""
    numbers = sorted({*index})
    try:
        objects = dict(zip(numbers, dataset.objects(numbers), strict=True))
    except DataError:
        return {}
    true = [dict(enumerate(objects[number], start=1)).get(one, {}) for number, one in zip(index, truth, strict=True)]
    return {name: np.array([str(one.get(name, "")) for one in true]) for name in ATTRIBUTES}


def _centres(masks: Tensor) -> Tensor:
    """Mean x and y in [-1, 1] of masks [B, K, H, W]: [B, K, 2]."""
    weights = masks / masks.sum(dim=(2, 3), keepdim=True).clamp(min=1e-12)
    y, x = (((torch.arange(side, device=masks.device) + 0.5) / side * 2 - 1) for side in masks.shape[-2:])
    return torch.stack([weights.sum(dim=2) @ x, weights.sum(dim=3) @ y], dim=-1)


def _truth(owners: Tensor, mask: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """The true id [B, K] that shares the most pixels with each slot, and their share [B, K]."""
    ids, shares = [], []
    for owner, true in zip(owners, mask, strict=True):
        labels, places = true.clamp(min=0).unique(return_inverse=True)
        cells, counted = owner * len(labels) + places, (true >= 0).double()  # below 0: ignored
        shared = torch.bincount(cells.flatten(), counted.flatten(), slots * len(labels))
        most, place = shared.view(slots, -1).max(dim=1)
        ids.append(labels[place])
        shares.append((most / shared.view(slots, -1).sum(dim=1).clamp(min=1)).float())
    return torch.stack(ids), torch.stack(shares)


MOST_FOR_KMEANS = 50_000
SILHOUETTE_SAMPLE = 4_000
SILHOUETTE_COUNTS = (2, 3, 4, 6, 8, 12, 16, 24)  # numbers of clusters to try


class Clusters(NamedTuple):
    """K-means of N slots: labels int64 [N], centroids float32 [K, D], the largest cluster first.

    `inertia` is the sum of squared distances to the centroids.
    """

    labels: np.ndarray
    centroids: np.ndarray
    inertia: float
    algorithm: str


def cluster(slots: np.ndarray, count: int, seed: int) -> Clusters:
    """Groups slots [N, D] into clusters by their Euclidean distance, without rescaling.

    Scikit-learn's `KMeans` (10 starts) for up to 50,000 slots, `MiniBatchKMeans` (3 starts, batches
    of 4,096) above; both with k-means++. The same slots and seed give the same clusters.

    Raises:
        ConfigError: fewer different slots than clusters.

    Example:
        >>> import numpy as np
        >>> from slotlab.composition.slots import cluster
        >>> slots = np.array([[0, 0], [9, 9], [9, 8], [8, 9]], dtype=np.float32)
        >>> cluster(slots, 2, seed=0).labels.tolist()
        [1, 0, 0, 0]
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    if not len(slots):
        raise ConfigError("concepts: every slot is a background slot; use a model that was trained for longer")
    if len(slots) < count:
        most = f"lower --concepts to at most {len(slots) + 1} (background included), or use more images"
        raise ConfigError(f"concepts: {len(slots)} object slots are too few for {count} clusters; {most}")
    kind, algorithm = KMeans, "KMeans, k-means++, 10 starts"
    options: dict[str, Any] = {"n_init": 10}
    if len(slots) > MOST_FOR_KMEANS:
        kind, algorithm = MiniBatchKMeans, "MiniBatchKMeans, k-means++, 3 starts, batches of 4096"
        options = {"n_init": 3, "batch_size": 4096, "max_no_improvement": 50}
    estimator = kind(count, random_state=seed, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of slots too much alike
        estimator.fit(slots)
    labels = np.asarray(estimator.labels_)
    sizes = np.bincount(labels, minlength=count)
    if not sizes.all():
        raise ConfigError(f"concepts: the {len(slots)} slots are too much alike for {count} clusters; lower --concepts")
    order = np.argsort(-sizes, kind="stable")
    return Clusters(
        labels=np.argsort(order)[labels].astype(np.int64),
        centroids=np.asarray(estimator.cluster_centers_)[order].astype(np.float32),
        inertia=float(estimator.inertia_ or 0),
        algorithm=algorithm,
    )


def choose_by_silhouette(slots: np.ndarray, seed: int) -> tuple[int, dict[int, float]]:
    """The number of clusters with the highest mean silhouette, and the silhouettes of all tried.

    They are of a random sample of at most 4,000 slots [N, D].
    """
    from sklearn.metrics import silhouette_score

    if len(slots) > SILHOUETTE_SAMPLE:
        rows = np.random.default_rng(seed).choice(len(slots), SILHOUETTE_SAMPLE, replace=False)
        slots = slots[np.sort(rows)]
    different = len(np.unique(slots, axis=0))
    scores = {
        count: float(silhouette_score(slots, cluster(slots, count, seed).labels))
        for count in SILHOUETTE_COUNTS
        if count < len(slots) and count <= different
    }
    if not scores:
        raise ConfigError(
            f"concepts: {different} different object slots are too few to choose by silhouette; give a number"
        )
    return max(scores, key=lambda count: scores[count]), scores
