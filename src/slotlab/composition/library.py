"""The concept library: slots of many images grouped into concepts, saved in a folder."""

import hashlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from slotlab.composition.slots import ATTRIBUTES, COLUMNS, SlotTable, choose_by_silhouette, cluster, extract
from slotlab.data import SlotDataset, open_data
from slotlab.distributed import place_among_processes, wait_for_all
from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.files import clear_leftovers, is_free, read_json, regular, remove, replacing, write_json
from slotlab.models import Model
from slotlab.models.building import fingerprint
from slotlab.progress import in_steps
from slotlab.released import is_released, library_folder

LIBRARY_FILE, SLOTS_FILE = "library.json", "slots.safetensors"
PICTURE_FILE = "concepts.png"  # drawn by `slotlab concepts show`
FORMAT, VERSION = "slotlab-concepts", 1
BACKGROUND = 0  # the concept of the background slots


class _Attribute(BaseModel):
    purity: float
    one_concept: float = Field(alias="one concept")
    most_common: list[str | None] = Field(alias="most common")


FIELDS: dict[Any, tuple[str, ...]] = {  # what must be in library.json, by type
    str: (
        *("identity", "clusters.chosen_by", "clusters.algorithm", "clusters.scaling"),
        *("slots.fingerprint", "slots.data.data", "slots.data.split", "slots.rules.dropped"),
    ),
    int: (
        *("clusters.seed", "clusters.concepts", "slots.seed", "slots.slots_per_image"),
        *("slots.images", "slots.dropped", "slots.data.resolution"),
    ),
    float: ("clusters.inertia", "slots.data.crop"),
    dict[str, Any]: ("sources", "slots.model"),
    # these may be missing
    str | None: ("sources.model", "sources.data"),
    dict[str, Any] | None: ("sources.opening", "slots.names"),
    dict[str, float] | None: ("clusters.purity", "clusters.silhouettes"),
    dict[str, _Attribute] | None: ("clusters.attributes",),
}

Concepts = int | Literal["silhouette"] | None


@dataclass(eq=False)
class ConceptLibrary:
    """Slots and their concepts: 0 holds the background slots, 1..K-1 are clusters of the others.

    Attributes:
        table: the slots and their origin.
        concept: int64 [N], the concept of each slot.
        centroids: float32 [K, D]: the mean of the background slots, then K-means' centroids, which
            are means of their slots with `KMeans`, but not exactly with `MiniBatchKMeans`.
        facts: how it was fitted, as JSON values: `seed`, `concepts`, `chosen_by`, `algorithm`,
            `inertia`, `scaling`, `purity`, `attributes`, and `silhouettes` if they chose K.
        sources: where model and data were, as JSON values; not part of the identity.

    Example:
        >>> import slotlab
        >>> library = slotlab.load_library("scenes-64")
        >>> library.concepts, len(library.table), library.slots.shape[1]
        (7, 5581, 128)
        >>> library.table.index[library.central(concept=1, count=3)].tolist()
        [20685, 20767, 20069]
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
            table: from `extract`.
            concepts: number of concepts K, background included, at least 2; by default the model's
                number of slots, as in the report's protocol; "silhouette" tries several.
            seed: of K-means.

        Raises:
            ConfigError: `concepts` is below 2, or there are fewer object slots than clusters.
        """
        _check_number(concepts)
        background = table.background
        objects = np.ascontiguousarray(table.slots[~background])
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
        middle = table.slots[background].mean(axis=0, dtype=np.float64).astype(np.float32)
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

    @property
    def concepts(self) -> int:
        """Number of concepts K, the background included."""
        return len(self.centroids)

    @cached_property
    def sizes(self) -> list[int]:
        """Number of slots of each concept."""
        return [len(rows) for rows in self.members]

    @cached_property
    def members(self) -> list[np.ndarray]:
        """Rows of each concept's slots."""
        return [np.flatnonzero(self.concept == concept) for concept in range(self.concepts)]

    @cached_property
    def identity(self) -> str:
        """SHA-256 of all arrays of the library; `sources` and `facts` are not part of it."""
        digest = hashlib.sha256()
        for name, values in sorted(self._tensors().items()):
            digest.update(f"{name} {values.dtype.str} {list(values.shape)}".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """The library in a protocol, as JSON values."""
        return {
            "identity": self.identity,
            "slots": len(self.table),
            **{key: self.table.facts[key] for key in ("data", "seed", "images", "dropped")},
            **{key: self.facts[key] for key in ("concepts", "chosen_by", "algorithm", "scaling")},
            "clustering_seed": self.facts["seed"],
        }

    def central(self, concept: int, count: int) -> np.ndarray:
        """Rows of the `count` members nearest to a concept's centroid, the nearest first."""
        rows = self.members[concept]
        distance = ((self.slots[rows] - self.centroids[concept]) ** 2).sum(axis=1)
        return rows[np.argsort(distance, kind="stable")[:count]]

    def members_of(self, concept: int) -> np.ndarray:
        """Rows of a concept's slots; ConfigError if there is no such concept."""
        if not 0 <= concept < self.concepts:
            numbered = f"there are {self.concepts}, numbered 0 (the background) to {self.concepts - 1}"
            raise ConfigError(f"there is no concept {concept}; {numbered}")
        return self.members[concept]

    def draw(self, concept: int, generator: torch.Generator) -> Tensor:
        """A member [D] of a concept, drawn uniformly; ConfigError as `members_of`."""
        rows = self.members_of(concept)
        return torch.tensor(self.slots[rows[int(torch.randint(len(rows), (), generator=generator))]])

    def check(self, model: Model) -> None:
        """Raises CheckpointError if the slots are not those of `model`."""
        found, wanted = fingerprint(model), self.table.facts["fingerprint"]
        if found != wanted:
            was = f" ({self.sources['model']} when the library was fitted)" if self.sources.get("model") else ""
            raise CheckpointError(
                f"the library holds slots of model {wanted[:12]}, but this model is {found[:12]}; use that model{was}, "
                "or fit a library to this one with: slotlab concepts fit RUN --data DATA --out LIBRARY"
            )

    def dataset(self, data: str | None = None) -> SlotDataset:
        """Opens the library's data, from `data` if it has moved; DataError if it is missing."""
        spec = data or self.sources.get("data")
        if spec is None:
            raise DataError("the library does not say where its data is")
        try:
            return open_data(spec, resolution=self.table.facts["data"]["resolution"], **self.sources.get("opening", {}))
        except (DataError, TypeError) as error:  # TypeError: an unknown argument
            raise DataError(f"{error}. The library was fitted to {spec}, which is needed to show its slots") from error

    def rounded(self) -> "ConceptLibrary":
        """A copy with slots rounded to float16, which `save` writes in half the size."""
        if np.abs(self.slots).max() >= np.finfo(np.float16).max:
            raise CheckpointError("slots: some values are not finite in float16")
        return replace(self, table=replace(self.table, slots=self.slots.astype(np.float16).astype(np.float32)))

    def save(self, folder: str | Path) -> None:
        """Writes `slots.safetensors` and `library.json` into `folder`, each whole or not at all."""
        folder, tensors = Path(folder), self._tensors()
        with np.errstate(over="ignore"):
            halves = self.slots.astype(np.float16)
        if np.array_equal(halves, self.slots):
            tensors["slots"] = halves
        content = {"format": FORMAT, "version": VERSION, "identity": self.identity, "sources": self.sources}
        content |= {"sizes": self.sizes, "clusters": self.facts, "slots": self.table.facts}
        write_json(folder / LIBRARY_FILE, content)  # first: it marks the folder as a library's
        with replacing(folder / SLOTS_FILE) as path:
            path.write_bytes(save(tensors))  # save_file would make it readable by its owner only

    @classmethod
    def load(cls, folder: str | Path, model: Model | None = None) -> "ConceptLibrary":
        """Reads a library; with `model`, checks that the slots are that model's."""
        folder = Path(folder)
        remedy = f"make a library with: slotlab concepts fit RUN --data DATA --out {folder}"
        content = read_json(folder / LIBRARY_FILE, remedy)
        kind, version = content.get("format"), content.get("version")
        if (kind, version) != (FORMAT, VERSION):
            message = f"{kind} version {version}; this slotlab reads {FORMAT} version {VERSION}, fit the library again"
            raise CheckpointError(f"{folder / LIBRARY_FILE}: {message}")
        try:
            _check_fields(content)
            tensors = load_file(regular(folder / SLOTS_FILE))
            tensors["slots"] = tensors["slots"].astype(np.float32, copy=False)
            table = SlotTable(**{name: tensors[name] for name in COLUMNS if name in tensors}, facts=content["slots"])
            library = cls(table, tensors["concept"], tensors["centroids"], content["clusters"], content["sources"])
            if library.identity != content["identity"]:
                raise ValueError(f"{SLOTS_FILE} is not the file that {LIBRARY_FILE} describes")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}: damaged concept library ({error}); fit it again") from None
        if model is not None:
            library.check(model)
        return library

    def _tensors(self) -> dict[str, np.ndarray]:
        columns = {**self.table.columns(), "concept": self.concept, "centroids": self.centroids}
        return {name: np.ascontiguousarray(values) for name, values in columns.items()}


def load_library(name: str | Path, model: Model | None = None) -> ConceptLibrary:
    """Loads a concept library.

    Args:
        name: its folder, or a name that `slotlab.load` takes, for the library of that model.
        model: if given, the library must be this model's.

    Raises:
        CheckpointError: an unknown name, or the library is missing, damaged, newer than this
            slotlab, or another model's.
    """
    return ConceptLibrary.load(library_folder(name), model)


@in_steps
def fit_library(
    model: Model,
    dataset: SlotDataset,
    out: str | Path,
    *,
    concepts: Concepts = None,
    batch_size: int = 32,
    seed: int = 0,
    sources: dict[str, Any] | None = None,
) -> Generator[int, None, ConceptLibrary]:
    """Collects the slots of a data set, groups them, and saves the library in the folder `out`.

    Args:
        model: any model with slots.
        dataset: from `slotlab.open_data`, at the model's resolution.
        out: a new or empty folder, or that of a library, which is replaced.
        concepts: as in `ConceptLibrary.fit`.
        batch_size: images at a time.
        seed: of the initial slots and of K-means.
        sources: where model and data are, to be kept in the library: `model`, `data`, and
            `opening`, the arguments of `open_data`.

    Raises:
        CheckpointError: as `extract`.
        ConfigError: `out` holds something else, or as `ConceptLibrary.fit`.
    """
    _check_number(concepts)  # before the long work
    out = Path(out)
    if is_released(out.parent):
        raise ConfigError(f"{out}: belongs to a released model, which does not change; name a new folder")
    if not is_free(out) and not (out / LIBRARY_FILE).is_file():
        raise ConfigError(f"{out}: holds something else than a concept library; name a new folder")
    table = yield from extract.steps(model, dataset, batch_size=batch_size, seed=seed)
    if place_among_processes().is_first:
        library = ConceptLibrary.fit(table, concepts=concepts, seed=seed)
        library.sources = sources or {}
        clear_leftovers(out)
        remove(out / PICTURE_FILE)  # of the replaced library
        library.save(out)
    wait_for_all()
    return ConceptLibrary.load(out)


def _check_fields(content: Mapping[str, Any]) -> None:
    """Raises ValueError if a field of `library.json` is missing or of another type."""
    for kind, names in FIELDS.items():
        for name in names:
            value: Any = content
            for key in name.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            try:
                TypeAdapter(kind).validate_python(value, strict=True)
            except ValidationError as error:
                raise ValueError(f"{LIBRARY_FILE}: {name}: {error.errors()[0]['msg']}") from None


def _check_number(concepts: Concepts) -> None:
    if concepts not in (None, "silhouette") and not (isinstance(concepts, int) and concepts >= 2):
        raise ConfigError(f"concepts: must be a number of at least 2, or silhouette, not {concepts!r}")


def _purity(table: SlotTable) -> dict[str, float] | None:
    """How well slots match true segments; None without true masks."""
    if table.truth is None or table.truth_share is None:
        return None
    found = {
        "background slots mostly on true background": table.truth[table.background] == 0,
        "object slots mostly on a true object": table.truth[~table.background] != 0,
        "share of a slot's pixels in its main true segment": table.truth_share,
    }
    return {name: float(np.mean(values)) for name, values in found.items()}


def _attributes(table: SlotTable, concept: np.ndarray, concepts: int) -> dict[str, Any]:
    """The most common shape and material of each concept, and the purity of the object concepts.

    Purity is the share of slots on true objects whose attribute is the most common one of their
    concept (Manning et al. 2008, section 16.3); "one concept" is the purity if all were in one.
    """
    found = {}
    for attribute in ATTRIBUTES:
        codes = getattr(table, attribute)
        if codes is None:
            continue
        names = table.facts["names"][attribute]
        counted = (codes >= 0) & (concept != BACKGROUND)
        counts = np.zeros((concepts, len(names)), dtype=np.int64)
        np.add.at(counts, (concept[counted], codes[counted]), 1)
        if counts.sum():
            found[attribute] = {
                "purity": float(counts.max(axis=1).sum() / counts.sum()),
                "one concept": float(counts.sum(axis=0).max() / counts.sum()),
                "most common": [names[row.argmax()] if row.sum() else None for row in counts],
            }
    return found
