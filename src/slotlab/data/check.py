"""Reading a whole data set once, to know what is in it and what is broken."""

from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slotlab.data.dataset import BrokenFile, PixelDataset
from slotlab.data.folders import ClevrTex
from slotlab.data.images import Decoded, notes_on, square, to_pixels
from slotlab.data.loading import in_order
from slotlab.data.open import open_data
from slotlab.data.packed import Packed
from slotlab.errors import DataError
from slotlab.progress import Stage, in_steps


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
        notes: images by what may have been read otherwise than was meant.
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
    notes: dict[str, int] = field(default_factory=dict)
    broken: list[BrokenFile] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything could be read."""
        return not self.broken


class _Found(NamedTuple):
    """What is kept of an image: images themselves would fill the memory."""

    broken: list[BrokenFile]
    size: str = ""  # "" if it cannot be read
    mode: str = ""
    notes: list[str] = []  # noqa: RUF012
    ids: np.ndarray | None = None  # above 0, in the mask
    cropped: np.ndarray = np.empty(0)  # and in its crop
    ignored: bool = False


@in_steps
def check_data(spec: str | Path, **options: Any) -> Generator[Stage, None, DataCheck]:
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
    opening: dict[str, Any] = {"split": "all", "skip_broken": True} | options
    dataset: Any = open_data(spec, **opening)
    dataset = getattr(dataset, "of_frames", dataset)  # each frame of clips
    splits = {name: len(rows) for name, rows in dataset.splits.items()}
    result = DataCheck(str(spec), dataset.kind, splits, len(dataset), crop=dataset.describe()["crop"])
    result.broken += dataset.broken
    if isinstance(dataset, Packed):
        result.broken += dataset.verify()
    sizes, modes, notes = Counter[str](), Counter[str](), Counter[str]()
    objects, cropped = Counter[int](), Counter[int]()
    if isinstance(dataset, PixelDataset):
        dataset.unseen = 0  # notes are counted here, not warned of
        images = _stored(dataset)
    elif dataset.has_masks or opening["split"] != "all":
        images = _batched(dataset)
    else:  # some of its splits may have masks
        parts = (open_data(spec, **dict[str, Any](opening, split=name)) for name in splits or ["all"])
        images = chain.from_iterable(map(_batched, parts))
    for done, found in enumerate(images, 1):
        yield f"reading {spec}", done, len(dataset)
        known = {file.file for file in result.broken}
        result.broken += [file for file in found.broken if file.file not in known]
        if not found.size:
            continue
        sizes[found.size] += 1
        modes[found.mode] += 1
        notes.update(found.notes)
        if found.ids is not None:
            result.masks += 1
            objects[len(found.ids)] += 1
            cropped[len(found.cropped)] += 1
            result.gaps += int(found.ids.max(initial=0)) != len(found.ids)
            result.ignored += found.ignored
    result.notes = dict(notes)
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
            return _Found([*broken, BrokenFile(dataset.name(row), str(error))])

    return in_order(read, range(len(dataset)))


def _batched(dataset: Any) -> Iterator[_Found]:
    for start in range(0, len(dataset), 64):
        batch = dataset.batch(range(start, min(start + 64, len(dataset))))
        if batch["image"].ndim == 5:  # each frame of clips
            batch |= {name: batch[name].flatten(0, 1) for name in batch.keys() & {"image", "mask"}}
        images, masks = to_pixels(batch)
        for i, image in enumerate(images):
            yield _counted(Decoded(image, None if masks is None else masks[i], "uint8"), 1.0, [])


def _counted(decoded: Decoded, crop: float, broken: list[BrokenFile]) -> _Found:
    height, width = decoded.image.shape[:2]
    found = _Found(broken, f"{width}x{height}", decoded.mode, notes_on(decoded))
    if decoded.mask is None:
        return found
    masks = (decoded.mask, np.asarray(square(decoded, crop=crop, resolution=None).mask))
    ids, cropped = (np.unique(mask[mask > 0]) for mask in masks)
    return found._replace(ids=ids, cropped=cropped, ignored=bool((decoded.mask < 0).any()))
