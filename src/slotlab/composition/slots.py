"""From images to a table of their slots on disk, a batch at a time."""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.data import SlotDataset, evaluation_batches
from slotlab.data.sample import KnowsObjects
from slotlab.distributed import place_among_processes, wait_for_all
from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.files import remove, replacing
from slotlab.models import Model, SlotDiffusion, SlotModel, with_slots
from slotlab.models.building import evaluating
from slotlab.models.fingerprint import fingerprint
from slotlab.models.randomness import seeded_generator


def background_rank(owned: Tensor, kept: Tensor) -> Tensor:
    """How much each slot looks like the background: pixels owned in the outermost rows and columns, then in all.

    Args:
        owned: bool or int [B, K, H, W], the pixels that each slot owns.
        kept: bool [B, K]; the others rank last.

    Returns:
        int64 [B, K]; the background is the slot of the largest rank.
    """
    pixels, inner = owned.sum(dim=(2, 3)), owned[:, :, 1:-1, 1:-1].sum(dim=(2, 3))
    rank = (pixels - inner) * (owned.shape[2] * owned.shape[3] + 1) + pixels
    return rank.masked_fill(~kept, -1)


@dataclass(frozen=True)
class Seen:
    """Slots [B, K, D], the finest masks [B, K, H, W] (sum to 1 over K), and poses [B, K, 4] if slots have them."""

    slots: Tensor
    masks: Tensor
    poses: Tensor | None

    @property
    def owners(self) -> Tensor:
        """The slot that owns each pixel, int64 [B, H, W]: `SlotOutput.segmentation(model.finer_masks)`."""
        return self.masks.argmax(dim=1)


@torch.no_grad()
def see(model: SlotModel, images: Tensor, generators: Sequence[torch.Generator]) -> Seen:
    """Slots and masks of images [B, 3, R, R] in [0, 1], which are brought to the model's device.

    The masks are of the source that fits objects best (`model.finer_masks`). For slot diffusion that is slot attention,
    so that nothing has to be denoised. The slots are those of `model(images, generators)`.

    Args:
        model: in evaluation mode.
        images: of the model's resolution.
        generators: one per image, on which alone what is random depends.
    """
    images = images.to(next(model.parameters()).device)
    if isinstance(model, SlotDiffusion):
        encoded = model.encoder(images, generators)
        soft = encoded.attention[:, -1].float().unflatten(2, encoded.attention_grid)
        side = (model.resolution, model.resolution)
        return Seen(encoded.slots, F.interpolate(soft, size=side, mode="bilinear", align_corners=False), None)
    output = model(images, generators)
    return Seen(output.slots, output.soft_masks(model.finer_masks), output.poses)


TABLE_FILE = "slots.json"
COLUMNS: dict[str, str] = {
    "slots": "<f4",
    "position": "<i8",
    "index": "<i8",
    "number": "<i8",
    "area": "<f4",
    "centre": "<f4",
    "background": "|b1",
    "poses": "<f4",
    "truth": "<i8",
    "truth_share": "<f4",
    "shape": "<i8",
    "material": "<i8",
}
ATTRIBUTES = ("shape", "material")
OPTIONAL = ("poses", "truth", "truth_share", *ATTRIBUTES)


@dataclass(eq=False)
class SlotTable:
    """N slots of the images of a data set, in the order of the images; slots that own next to nothing are left out.

    Attributes:
        slots: float32 [N, D].
        position: int64 [N], the image's place in the data set as it was opened.
        index: int64 [N], the image's number in its data set (`Sample["index"]`).
        number: int64 [N], which of its image's slots, 0..K-1.
        area: float32 [N] in (0, 1], share of the pixels that the slot owns (argmax of the masks).
        centre: float32 [N, 2] in [-1, 1], x to the right and y down: mean place of the pixels owned.
        background: bool [N], true for exactly one slot of each image.
        poses: float32 [N, 4], where slots have a relative frame.
        truth: int64 [N], the id of the true segment that most of the slot's pixels lie in; where there are true masks.
        truth_share: float32 [N] in (0, 1], the share of the slot's pixels that do.
        shape: int64 [N], place in `facts["names"]["shape"]` of the true object's shape, -1 for the background; where
            the data set knows its objects.
        material: int64 [N], the same of its material.
        facts: where the slots come from, as JSON values: `model`, `fingerprint`, `data`, `seed`, `slots_per_image`,
            `images`, `dropped`, `rules`, and `names` of shapes and materials.
    """

    slots: np.ndarray
    position: np.ndarray
    index: np.ndarray
    number: np.ndarray
    area: np.ndarray
    centre: np.ndarray
    background: np.ndarray
    poses: np.ndarray | None = None
    truth: np.ndarray | None = None
    truth_share: np.ndarray | None = None
    shape: np.ndarray | None = None
    material: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.slots)

    def columns(self) -> dict[str, np.ndarray]:
        """The columns that there are, by name."""
        return {name: getattr(self, name) for name in COLUMNS if getattr(self, name) is not None}

    @classmethod
    def open(cls, folder: str | Path) -> "SlotTable":
        """Opens what `extract` wrote; the columns are memory maps, read when they are used.

        Raises:
            CheckpointError: a file is missing or of another length; the message names it.
        """
        folder = Path(folder)
        try:
            content = json.loads((folder / TABLE_FILE).read_text(encoding="utf-8"))
            rows, widths = content["rows"], content["columns"]
            columns = {
                name: np.memmap(folder / f"{name}.raw", COLUMNS[name], "r", shape=(rows, *width))
                for name, width in widths.items()
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder}: not a whole folder of slots ({error}); extract them again into a new folder"
            ) from None
        return cls(**columns, facts=content["facts"])


Names = dict[str, list[str]]
SMALLEST_SHARE = 0.002
RULES = {
    "dropped": f"slots that own less than {SMALLEST_SHARE:.1%} of the pixels",
    "background": "of an image's other slots, the one that owns the most pixels of the picture's outermost rows and "
    "columns; of equals the largest",
    "owner of a pixel": "argmax of the masks",
    "centre": "mean place of the pixels owned",
}


def extract(
    model: Model,
    dataset: SlotDataset,
    folder: str | Path,
    *,
    batch_size: int = 32,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> SlotTable:
    """Writes the slots of all images of `dataset` into `folder` and opens them; memory holds one batch.

    The folder appears when it is complete: an interrupted extraction leaves nothing. It holds `slots.json` and one
    file `<column>.raw` of numbers, little-endian and row after row, for each column of `SlotTable`. Of several
    processes each takes its share of the images, and the first joins them to the table that one would have written.

    Args:
        model: whose slots; put into evaluation mode for the time.
        dataset: from `slotlab.open_data`, at the model's resolution.
        folder: new, empty, or an earlier extraction, which is replaced.
        batch_size: images at a time.
        seed: of the initial slots, which depend on it and the image alone, as in `slotlab.evaluate`.
        on_batch: told the number of images after each batch.

    Raises:
        ConfigError: `folder` holds something else.
        CheckpointError: the model has no slots, or gives slots that are not finite.
        DataError: an image cannot be read.
        ValueError: images of another size than the model's.
    """
    folder = Path(folder)
    slot_model = with_slots(model)
    if folder.exists() and not (folder / TABLE_FILE).is_file() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: holds something else; name a new folder for the slots")
    place = place_among_processes()
    parts = [folder.with_name(f".{folder.name}.part-{rank}") for rank in range(place.count)]
    try:
        with evaluating(model), replacing(parts[place.rank]) as part:
            _write_part(slot_model, dataset, part, batch_size, seed, on_batch)
        wait_for_all()
        if place.is_first:
            facts = {
                "model": model.describe(),
                "fingerprint": fingerprint(model),
                "data": dataset.describe(),
                "seed": seed,
                "slots_per_image": slot_model.slots,
                "rules": RULES,
            }
            with replacing(folder) as temporary:
                _join(parts, temporary, facts)
        wait_for_all()
    finally:
        remove(parts[place.rank])
    return SlotTable.open(folder)


def _write_part(
    model: SlotModel,
    dataset: SlotDataset,
    folder: Path,
    batch_size: int,
    seed: int,
    on_batch: Callable[[int], None] | None,
) -> None:
    """Writes the slots of this process's share of the images: a file for each column, and `TABLE_FILE`."""
    place = place_among_processes()
    share = place.share(len(dataset))
    images, rows, widths = 0, 0, {}
    knowing = dataset if isinstance(dataset, KnowsObjects) else None
    names: Names | None = None if knowing is None else {name: [] for name in ATTRIBUTES}
    folder.mkdir()
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for batch in evaluation_batches(dataset, batch_size=batch_size, rank=place.rank, world_size=place.count):
            index: Tensor = batch["index"].cpu()
            first = share.start + images
            seen = see(model, batch["image"], [seeded_generator(seed, int(one)) for one in index])
            columns = _columns(seen, first, index, batch.get("mask"))
            if "truth" in columns and knowing is not None and names is not None:
                names = _add_attributes(columns, knowing, names)
            for name, values in columns.items():
                if name not in files:
                    files[name] = stack.enter_context((folder / f"{name}.raw").open("wb"))
                    widths[name] = list(values.shape[1:])
                files[name].write(np.ascontiguousarray(values, COLUMNS[name]).tobytes())
            images, rows = images + len(index), rows + len(columns["slots"])
            if on_batch is not None:
                on_batch(len(index))
    content = {"rows": rows, "images": images, "columns": widths, "names": names}
    (folder / TABLE_FILE).write_text(json.dumps(content), encoding="utf-8")


def _join(parts: list[Path], folder: Path, facts: dict[str, Any]) -> None:
    """One table of the parts that the processes wrote, in the order of the images."""
    found = [json.loads((part / TABLE_FILE).read_text(encoding="utf-8")) for part in parts]
    rows, images = (sum(part[key] for part in found) for key in ("rows", "images"))
    widths: dict[str, Any] = {name: width for part in found for name, width in part["columns"].items()}
    names: Names | None = {name: [] for name in ATTRIBUTES}
    if any(part["names"] is None for part in found):  # the metadata may have ended in the middle of the data
        names = None
        widths = {name: width for name, width in widths.items() if name not in ATTRIBUTES}
    folder.mkdir()
    for name in widths:
        with (folder / f"{name}.raw").open("wb") as whole:
            for part, content in zip(parts, found, strict=True):
                if name not in content["columns"]:
                    continue  # a process without images
                if names is not None and name in names:
                    codes = np.fromfile(part / f"{name}.raw", COLUMNS[name])
                    whole.write(_recoded(codes, content["names"][name], names[name]).astype(COLUMNS[name]).tobytes())
                else:
                    with (part / f"{name}.raw").open("rb") as piece:
                        shutil.copyfileobj(piece, whole)
    facts |= {"images": images, "dropped": images * facts["slots_per_image"] - rows}
    facts |= {"names": names} if names else {}
    content = {"rows": rows, "columns": widths, "facts": facts}
    (folder / TABLE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _recoded(codes: np.ndarray, names: list[str], known: list[str]) -> np.ndarray:
    """Codes into `names` as codes into `known`, which learns the names it lacks; -1, none, stays."""
    known += [name for name in names if name not in known]
    return np.array([*(known.index(name) for name in names), -1])[codes]


def _columns(seen: Seen, first: int, index: Tensor, mask: Tensor | None) -> dict[str, np.ndarray]:
    """The rows of one batch, whose first image is at position `first`."""
    batch, slots = seen.slots.shape[:2]
    height, width = seen.masks.shape[-2:]
    if not bool(torch.isfinite(seen.slots).all()):
        raise CheckpointError("the model's slots are not finite; its training diverged, take an earlier checkpoint")
    owned = F.one_hot(seen.owners, slots).permute(0, 3, 1, 2)  # [B, K, H, W]
    pixels = owned.sum(dim=(2, 3))
    kept = pixels >= SMALLEST_SHARE * height * width
    background = F.one_hot(background_rank(owned, kept).argmax(dim=1), slots).bool()
    columns = {
        "slots": seen.slots.float(),
        "position": torch.arange(first, first + batch)[:, None].expand(-1, slots),
        "index": index[:, None].expand(-1, slots),
        "number": torch.arange(slots).expand(batch, -1),
        "area": pixels / (height * width),
        "centre": _centres(owned.float()),
        "background": background,
    }
    if seen.poses is not None:
        columns["poses"] = seen.poses.float()
    if mask is not None:
        columns["truth"], columns["truth_share"] = _truth(seen.owners.cpu(), mask.cpu(), slots)
    rows = kept.cpu()
    return {name: values.cpu()[rows].numpy() for name, values in columns.items()}


def _add_attributes(columns: dict[str, np.ndarray], dataset: KnowsObjects, names: Names) -> Names | None:
    """Adds the shape and material of each slot's true object; None if the data has no such metadata after all."""
    numbers = np.unique(columns["index"]).tolist()
    try:
        objects = dict(zip(numbers, dataset.objects(numbers), strict=True))
    except DataError:
        return None
    for attribute, known in names.items():
        codes = np.full(len(columns["truth"]), -1, dtype=np.int64)
        for row, (number, truth) in enumerate(zip(columns["index"], columns["truth"], strict=True)):
            if 0 < truth <= len(objects[number]) and attribute in objects[number][truth - 1]:
                name = str(objects[number][truth - 1][attribute])
                if name not in known:
                    known.append(name)
                codes[row] = known.index(name)
        columns[attribute] = codes
    return names


def _centres(masks: Tensor) -> Tensor:
    """Mean x and y in [-1, 1] of masks [B, K, H, W]: [B, K, 2]."""
    weights = masks / masks.sum(dim=(2, 3), keepdim=True).clamp(min=1e-12)
    y, x = (((torch.arange(side, device=masks.device) + 0.5) / side * 2 - 1) for side in masks.shape[-2:])
    return torch.stack([weights.sum(dim=2) @ x, weights.sum(dim=3) @ y], dim=-1)


def _truth(owners: Tensor, mask: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """The true id [B, K] that each slot shares the most pixels with, and the share of its pixels [B, K]."""
    ids, shares = [], []
    for owner, true in zip(owners, mask, strict=True):
        labels, places = true.unique(return_inverse=True)
        table = torch.bincount((owner * len(labels) + places).flatten(), minlength=slots * len(labels))
        most, place = table.view(slots, -1).max(dim=1)
        ids.append(labels[place])
        shares.append(most / table.view(slots, -1).sum(dim=1).clamp(min=1))
    return torch.stack(ids), torch.stack(shares)
