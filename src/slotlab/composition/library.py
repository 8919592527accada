"""The concept library: slots of many images, grouped into concepts, in a folder that knows its model."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from slotlab.composition.slots import ATTRIBUTES, COLUMNS, OPTIONAL, SlotTable, extract
from slotlab.data import SlotDataset, open_data
from slotlab.distributed import place_among_processes, wait_for_all
from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.files import remove, replacing
from slotlab.models import Model
from slotlab.models.fingerprint import fingerprint
from slotlab.released import library_folder

MOST_FOR_KMEANS = 50_000
SILHOUETTE_SAMPLE = 4_000
CANDIDATES = (2, 3, 4, 6, 8, 12, 16, 24)


@dataclass(frozen=True)
class Clusters:
    """K-means of N slots: `labels` int64 [N], `centroids` float32 [K, D], the largest cluster first, and the inertia.

    `inertia` is the sum of squared distances to the centroids, `algorithm` the estimator that found them.
    """

    labels: np.ndarray
    centroids: np.ndarray
    inertia: float
    algorithm: str


def cluster(slots: np.ndarray, count: int, seed: int) -> Clusters:
    """Groups slots into clusters; they are taken as they are, not whitened.

    Scikit-learn's `KMeans` (10 starts) up to 50,000 slots, above `MiniBatchKMeans` (3 starts, batches of 4,096, until
    50 in a row bring nothing), both with k-means++ and `seed`.

    Args:
        slots: float32 [N, D].
        count: number of clusters, at least 1.
        seed: 0 or more; with the same slots it gives the same clusters.

    Raises:
        ConfigError: fewer slots, or fewer different ones, than clusters.
    """
    import warnings

    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    if not len(slots):
        raise ConfigError("concepts: there is no object slot, only background; take a model that was trained longer")
    if len(slots) < count:
        raise ConfigError(
            f"concepts: {len(slots)} object slots are too few for {count} clusters; lower --concepts to at most "
            f"{len(slots) + 1} (background included), or take more images"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few different slots: an error of our own, below
        if len(slots) <= MOST_FOR_KMEANS:
            found = KMeans(count, n_init=10, random_state=seed).fit(slots)  # pyright: ignore[reportArgumentType]
            algorithm = "KMeans, k-means++, 10 starts"
        else:
            options: dict[str, Any] = {"n_init": 3, "batch_size": 4096, "max_no_improvement": 50}
            found = MiniBatchKMeans(count, random_state=seed, **options).fit(slots)
            algorithm = "MiniBatchKMeans, k-means++, 3 starts, batches of 4096"
    sizes = np.bincount(np.asarray(found.labels_), minlength=count)
    if not sizes.all():
        raise ConfigError(
            f"concepts: {count} clusters of {len(slots)} slots leave {np.sum(sizes == 0)} empty, as the slots are too "
            f"much alike; lower --concepts"
        )
    order = np.argsort(-sizes, kind="stable")
    rank = np.argsort(order)
    return Clusters(
        labels=rank[found.labels_].astype(np.int64),
        centroids=np.asarray(found.cluster_centers_)[order].astype(np.float32),
        inertia=float(found.inertia_ or 0),
        algorithm=algorithm,
    )


def choose_by_silhouette(
    slots: np.ndarray, seed: int, candidates: Sequence[int] = CANDIDATES
) -> tuple[int, dict[int, float]]:
    """The number of clusters with the highest mean silhouette, and the silhouette of each number tried.

    Measured on a random subsample of at most 4,000 slots, which is clustered anew for each number.

    Args:
        slots: float32 [N, D].
        seed: of the subsample and the clusters.
        candidates: the numbers to try; those that leave too few slots are not.

    Raises:
        ConfigError: fewer than three slots.
    """
    from sklearn.metrics import silhouette_score

    if len(slots) > SILHOUETTE_SAMPLE:
        rows = np.random.default_rng(seed).choice(len(slots), SILHOUETTE_SAMPLE, replace=False)
        slots = slots[np.sort(rows)]
    scores: dict[int, float] = {}
    for count in candidates:
        if count < len(slots):
            labels = cluster(slots, count, seed).labels
            scores[count] = float(silhouette_score(slots, labels))
    if not scores:
        raise ConfigError(f"concepts: {len(slots)} object slots are too few to choose by silhouette; give a number")
    return max(scores, key=lambda count: scores[count]), scores


LIBRARY_FILE, SLOTS_FILE = "library.json", "slots.safetensors"
PICTURE_FILE = "concepts.png"  # drawn by `slotlab concepts show`
FORMAT, VERSION = "slotlab-concepts", 1
BACKGROUND = 0  # the concept of the background slots

Concepts = int | Literal["silhouette"] | None


@dataclass(eq=False)
class ConceptLibrary:
    """Slots and the concept of each: concept 0 holds the background slots, 1..K-1 are clusters of the object slots.

    Attributes:
        table: the slots and where they come from.
        concept: int64 [N], the concept of each slot.
        centroids: float32 [K, D], mean of each concept's slots (as K-means found it).
        facts: how it was fitted, as JSON values: `seed`, `concepts`, `chosen_by`, `algorithm`, `inertia`, `scaling`,
            `purity`, `attributes`, and `silhouettes` where these chose.
        sources: where model and data lay, as JSON values, for `slotlab concepts show`; not part of the identity.
    """

    table: SlotTable
    concept: np.ndarray
    centroids: np.ndarray
    facts: dict[str, Any]
    sources: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(cls, table: SlotTable, *, concepts: Concepts = None, seed: int = 0) -> "ConceptLibrary":
        """Groups the slots of a table.

        Args:
            table: what `extract` returned.
            concepts: number of concepts K with the background's, at least 2; by default the model's number of slots,
                as in the report's protocol; "silhouette" tries a few.
            seed: of K-means.

        Raises:
            ConfigError: `concepts` is out of its range, or there are fewer object slots than clusters.
        """
        _check_concepts(concepts)
        background = np.asarray(table.background)
        objects = np.ascontiguousarray(np.asarray(table.slots)[~background])
        facts: dict[str, Any] = {"seed": seed, "chosen_by": "given"}
        if concepts == "silhouette":
            best, scores = choose_by_silhouette(objects, seed)
            count = best + 1
            facts |= {"chosen_by": "silhouette", "silhouettes": {str(k + 1): score for k, score in scores.items()}}
        elif concepts is None:
            count = max(2, int(table.facts["slots_per_image"]))
            facts["chosen_by"] = "number of slots"
        else:
            count = int(concepts)
        clusters = cluster(objects, count - 1, seed)
        concept = np.zeros(len(table), dtype=np.int64)
        concept[~background] = clusters.labels + 1
        middle = np.asarray(table.slots)[background].mean(axis=0, dtype=np.float64).astype(np.float32)
        facts |= {
            "concepts": count,
            "algorithm": clusters.algorithm,
            "inertia": clusters.inertia,
            "scaling": "none: slots as the model gives them",
            "purity": _purity(table),
            "attributes": _attributes(table, concept, count),
        }
        return cls(table, concept, np.concatenate([middle[None], clusters.centroids]), facts)

    @property
    def slots(self) -> np.ndarray:
        """The slots, float32 [N, D]."""
        return self.table.slots

    def rounded(self) -> "ConceptLibrary":
        """The same with slots rounded to what float16 holds; `save` writes such slots in half the size.

        Raises:
            CheckpointError: a slot is beyond what float16 holds.
        """
        slots = _halves(self.slots).astype(np.float32)
        if not np.isfinite(slots).all():
            raise CheckpointError("slots: hold values that are not finite in float16")
        return replace(self, table=replace(self.table, slots=slots))

    @property
    def concepts(self) -> int:
        """Number of concepts K, the background's included."""
        return len(self.centroids)

    @cached_property
    def sizes(self) -> list[int]:
        """How many slots each concept has."""
        return np.bincount(self.concept, minlength=self.concepts).tolist()

    @cached_property
    def members(self) -> list[np.ndarray]:
        """The rows of each concept's slots."""
        return [np.flatnonzero(self.concept == concept) for concept in range(self.concepts)]

    @cached_property
    def identity(self) -> str:
        """SHA-256 over all numbers of the library; `sources` play no part."""
        digest = hashlib.sha256()
        for name, values in sorted(self._tensors().items()):
            digest.update(f"{name} {values.dtype.str} {list(values.shape)}".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        return {
            "identity": self.identity,
            "slots": len(self.table),
            **{key: self.table.facts[key] for key in ("data", "seed", "images", "dropped")},
            **{key: self.facts[key] for key in ("concepts", "chosen_by", "algorithm", "scaling")},
            "clustering_seed": self.facts["seed"],
        }

    def central(self, concept: int, count: int) -> np.ndarray:
        """The rows of the `count` members of a concept that are nearest to its centroid, the nearest first."""
        rows = self.members[concept]
        distance = ((np.asarray(self.table.slots[rows]) - self.centroids[concept]) ** 2).sum(axis=1)
        return rows[np.argsort(distance, kind="stable")[:count]]

    def check(self, model: Model) -> None:
        """Raises CheckpointError if `model` is not the one whose slots these are."""
        found, wanted = fingerprint(model), self.table.facts["fingerprint"]
        if found != wanted:
            raise CheckpointError(
                f"the library holds slots of model {wanted[:12]}, but this model is {found[:12]}; take that model"
                f"{_where(self.sources)}, or fit a library to this one with: "
                "slotlab concepts fit RUN --data DATA --out LIBRARY"
            )

    def dataset(self, data: str | None = None) -> SlotDataset:
        """What the library was fitted to, opened in the same way, from `data` if it lies elsewhere now.

        Raises:
            DataError: it is not there, or the library does not say where it is.
        """
        spec = data or self.sources.get("data")
        if spec is None:
            raise DataError("the library does not say where its data is")
        try:
            return open_data(spec, resolution=self.table.facts["data"]["resolution"], **self.sources.get("opening", {}))
        except DataError as error:
            raise DataError(
                f"{error}. The library was fitted to {spec}; it has to be there to show its slots"
            ) from error

    def save(self, folder: str | Path) -> None:
        """Writes `slots.safetensors` and `library.json` into `folder`, each whole or not at all."""
        folder = Path(folder)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "identity": self.identity,
            "sources": self.sources,
            "sizes": self.sizes,
            "clusters": self.facts,
            "slots": self.table.facts,
        }
        with replacing(folder / SLOTS_FILE) as path:
            tensors = self._tensors()
            halves = _halves(tensors["slots"])
            # save_file would let nobody but the owner read it
            path.write_bytes(save(tensors | {"slots": halves} if np.array_equal(halves, tensors["slots"]) else tensors))
        with replacing(folder / LIBRARY_FILE) as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, model: Model | None = None) -> "ConceptLibrary":
        """Reads a library and, if `model` is given, makes sure that its slots are that model's.

        Raises:
            CheckpointError: no library, a damaged one, one of a newer version, or one of another model.
        """
        folder = Path(folder)
        content = _read_settings(folder / LIBRARY_FILE)
        try:
            tensors = load_file(folder / SLOTS_FILE)
            names = [name for name in COLUMNS if name not in OPTIONAL or name in tensors]
            tensors["slots"] = tensors["slots"].astype(np.float32, copy=False)
            table = SlotTable(**{name: tensors[name] for name in names}, facts=content["slots"])
            library = cls(table, tensors["concept"], tensors["centroids"], content["clusters"], content["sources"])
            whole = library.identity == content["identity"]
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{folder}: a damaged concept library ({error}); fit it again") from None
        if not whole:
            raise CheckpointError(f"{folder}: {SLOTS_FILE} is not the one that {LIBRARY_FILE} describes; fit it again")
        if model is not None:
            library.check(model)
        return library

    def _tensors(self) -> dict[str, np.ndarray]:
        columns = {**self.table.columns(), "concept": self.concept, "centroids": self.centroids}
        return {name: np.ascontiguousarray(values) for name, values in columns.items()}


def _halves(slots: np.ndarray) -> np.ndarray:
    """Slots in float16, infinite where that is too small for them."""
    with np.errstate(over="ignore"):
        return slots.astype(np.float16)


def load_library(name: str | Path, model: Model | None = None) -> ConceptLibrary:
    """A concept library.

    Args:
        name: its folder; or what `slotlab.load` takes, for the library that came with that model.
        model: if given, the library must be of it.

    Raises:
        CheckpointError: an unknown name, or as `ConceptLibrary.load`.
    """
    return ConceptLibrary.load(library_folder(name), model)


def fit_library(
    model: Model,
    dataset: SlotDataset,
    out: str | Path,
    *,
    concepts: Concepts = None,
    batch_size: int = 32,
    seed: int = 0,
    sources: dict[str, Any] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> ConceptLibrary:
    """Extracts the slots of a data set, groups them, and saves the library in the folder `out`.

    Memory grows with the number of slots (4 bytes a number, twice while they are grouped), not with the images.

    Args:
        model: whose slots.
        dataset: from `slotlab.open_data`, at the model's resolution.
        out: the library's folder, new, empty, or of a library, which is replaced; until the new one is complete its
            slots lie in a hidden folder in it.
        concepts: as in `ConceptLibrary.fit`.
        batch_size: images at a time.
        seed: of the initial slots and of K-means.
        sources: where model and data lie, to be kept in the library.
        on_batch: told the number of images after each batch.

    Raises:
        CheckpointError, ConfigError, DataError: as `extract` and `ConceptLibrary.fit`; ConfigError also if `out` holds
            something else.
    """
    _check_concepts(concepts)  # before the long work
    out = Path(out)
    slots = out / ".slots"
    if out.exists() and not (out.is_dir() and ((out / LIBRARY_FILE).is_file() or {*out.iterdir()} <= {slots})):
        raise ConfigError(f"{out}: holds something else than a concept library; name a new folder")
    place = place_among_processes()
    try:
        table = extract(model, dataset, slots, batch_size=batch_size, seed=seed, on_batch=on_batch)
        if place.is_first:
            library = ConceptLibrary.fit(table, concepts=concepts, seed=seed)
            library.sources = sources or {}
            remove(out / PICTURE_FILE)  # of the library that this one replaces
            library.save(out)
        wait_for_all()
    finally:
        if place.is_first:
            remove(slots)
    return ConceptLibrary.load(out)


def _check_concepts(concepts: Concepts) -> None:
    if isinstance(concepts, str) and concepts != "silhouette":
        raise ConfigError(f"concepts: a number of at least 2, or 'silhouette', not {concepts!r}")
    if isinstance(concepts, int) and concepts < 2:
        raise ConfigError(f"concepts: at least 2 (the background and one of objects), not {concepts}")


def _purity(table: SlotTable) -> dict[str, float] | None:
    """How well slots keep to true segments; None without true masks."""
    if table.truth is None or table.truth_share is None:
        return None
    background = np.asarray(table.background)
    found = {
        "background slots mostly on true background": table.truth[background] == 0,
        "object slots mostly on a true object": table.truth[~background] != 0,
        "share of a slot's pixels in its main true segment": table.truth_share,
    }
    return {name: float(np.mean(values)) for name, values in found.items()}


def _attributes(table: SlotTable, concept: np.ndarray, concepts: int) -> dict[str, Any]:
    """For shape and material, where known: each concept's most common one, and the purity of the object concepts.

    Purity is the share of the slots on true objects whose attribute is the most common one of their concept (Manning et
    al. 2008, section 16.3); "one concept" is what it would be if all were in one.
    """
    found = {}
    for attribute in ATTRIBUTES:
        codes = getattr(table, attribute)
        if codes is None:
            continue
        names = table.facts["names"][attribute]
        counted = (np.asarray(codes) >= 0) & (concept != BACKGROUND)
        counts = np.zeros((concepts, len(names)), dtype=np.int64)
        np.add.at(counts, (concept[counted], np.asarray(codes)[counted]), 1)
        if counts.sum():
            found[attribute] = {
                "purity": float(counts.max(axis=1).sum() / counts.sum()),
                "one concept": float(counts.sum(axis=0).max() / counts.sum()),
                "most common": [names[row.argmax()] if row.sum() else None for row in counts],
            }
    return found


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind, version = content["format"], content["version"]
    except OSError:
        raise CheckpointError(
            f"{path}: missing; make a library with: slotlab concepts fit RUN --data DATA --out {path.parent}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a concept library ({error}); fit it again") from None
    if (kind, version) != (FORMAT, VERSION):
        raise CheckpointError(
            f"{path}: {kind} version {version}; this slotlab reads {FORMAT} version {VERSION}, fit it again"
        )
    return content


def _where(sources: dict[str, Any]) -> str:
    return f" ({sources['model']} when the library was fitted)" if sources.get("model") else ""
