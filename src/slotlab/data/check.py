"""Reading a whole data set once, to know what is in it and what is broken."""

from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from slotlab.data.dataset import BrokenFile, PixelDataset
from slotlab.data.folders import ClevrTex
from slotlab.data.images import Decoded, square, to_pixels
from slotlab.data.loading import in_order
from slotlab.data.open import open_data
from slotlab.data.packed import Packed
from slotlab.errors import DataError
from slotlab.progress import Stage, finish


@dataclass
class DataCheck:
    """What `check_data` found.

    Attributes:
        splits: images in each split; empty if the data set has none.
        masks: images that have a mask.
        sizes: images by their stored size, such as "40x30".
        modes: images by Pillow's name for how they store pixels.
        objects: images by their number of distinct ids above 0.
        objects_cropped: the same after the crop.
        gaps: masks whose ids are not 1..n, which is allowed.
        ignored: masks with pixels to be ignored.
    """

    data: str
    kind: str
    splits: dict[str, int]
    count: int
    masks: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    crop: float = 1.0
    objects: dict[int, int] = field(default_factory=dict)
    objects_cropped: dict[int, int] = field(default_factory=dict)
    gaps: int = 0
    ignored: int = 0
    broken: list[BrokenFile] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything could be read."""
        return not self.broken

    def as_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self) | {"broken": [file._asdict() for file in self.broken], "ok": self.ok}


_Found = tuple[list[BrokenFile], Decoded | None, np.ndarray, np.ndarray]  # of an image: ids, ids in its crop


def check_data(spec: str | Path, **options: Any) -> DataCheck:
    """Reads every image and mask of a data set, and reports what is there.

    Args:
        spec: as for `open_data`.
        **options: for `open_data`.

    Raises:
        DataError: there is no data set at all; broken images are listed, they do not raise.

    Example:
        >>> found = check_data("scenes:plain", count=2, resolution=32)
        >>> found.count, found.masks, found.sizes, found.ok
        (6, 6, {'32x32': 6}, True)
    """
    return finish(check_data_steps(spec, **options))


def check_data_steps(spec: str | Path, **options: Any) -> Generator[Stage, None, DataCheck]:
    """The generator twin of `check_data`: yields stages as `slotlab.progress.stage` does."""
    opening: dict[str, Any] = {"split": "all", "skip_broken": True} | options
    dataset: Any = open_data(spec, **opening)
    splits = {name: len(rows) for name, rows in dataset.splits.items()}
    result = DataCheck(str(spec), dataset.kind, splits, len(dataset), crop=dataset.describe()["crop"])
    result.broken += dataset.broken
    if isinstance(dataset, Packed):
        result.broken += dataset.verify()
    sizes, modes, objects, cropped = Counter[str](), Counter[str](), Counter[int](), Counter[int]()
    if isinstance(dataset, PixelDataset):
        images = _stored(dataset)
    elif dataset.has_masks or opening["split"] != "all":
        images = _batched(dataset)
    else:  # some of its splits may have masks
        parts = (open_data(spec, **dict[str, Any](opening, split=name)) for name in splits or ["all"])
        images = chain.from_iterable(map(_batched, parts))
    for done, (broken, decoded, ids, cropped_ids) in enumerate(images, 1):
        yield f"reading {spec}", done, len(dataset)
        known = {file.file for file in result.broken}
        result.broken += [file for file in broken if file.file not in known]
        if decoded is None:
            continue
        sizes[f"{decoded.image.shape[1]}x{decoded.image.shape[0]}"] += 1
        modes[decoded.mode] += 1
        if decoded.mask is not None:
            result.masks += 1
            objects[len(ids)] += 1
            cropped[len(cropped_ids)] += 1
            result.gaps += int(ids.max(initial=0)) != len(ids)
            result.ignored += bool((decoded.mask < 0).any())
    result.sizes, result.modes = dict(sizes.most_common()), dict(modes.most_common())
    result.objects, result.objects_cropped = dict(sorted(objects.items())), dict(sorted(cropped.items()))
    return result


def _stored(dataset: PixelDataset) -> Iterator[_Found]:
    def read(position: int) -> _Found:
        row = dataset.rows[position]
        broken: list[BrokenFile] = []
        if isinstance(dataset, ClevrTex) and (metadata := dataset.paths[row].with_suffix(".json")).exists():
            try:
                dataset.metadata(position)
            except DataError as error:
                broken.append(BrokenFile(str(metadata), str(error)))
        try:
            return _counted(dataset.checked(row), dataset.crop, broken)
        except DataError as error:
            nothing = np.empty(0)
            return [*broken, BrokenFile(dataset.name(row), str(error))], None, nothing, nothing

    return in_order(read, range(len(dataset)))


def _batched(dataset: Any) -> Iterator[_Found]:
    for start in range(0, len(dataset), 64):
        images, masks = to_pixels(dataset.batch(range(start, min(start + 64, len(dataset)))))
        for i, image in enumerate(images):
            yield _counted(Decoded(image, None if masks is None else masks[i], "uint8"), 1.0, [])


def _counted(decoded: Decoded, crop: float, broken: list[BrokenFile]) -> _Found:
    """Finds the ids above 0, in the image and in what the crop leaves of it."""
    whole, inside = (
        np.unique(mask[mask > 0]) if mask is not None else np.empty(0)
        for mask in (decoded.mask, square(decoded, crop=crop, resolution=None).mask)
    )
    return broken, decoded, whole, inside
