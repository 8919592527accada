"""What all readers of stored images share: splits, crop and resize, batches, broken files."""

import operator
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from slotlab.data.images import Decoded, check_geometry, check_ids, notes_on, square, to_batch
from slotlab.data.sample import IGNORED, Batch, SlotDataset
from slotlab.errors import ConfigError, DataError, MissingSplit

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}


ORIGINAL, LARGEST_MASK = "original", 4096  # `mask_resolution`
MOST_BROKEN_IN_A_ROW = 100
EXAMINED = 16  # images of which notes become warnings; `check_data` examines all


class BrokenFile(NamedTuple):
    """An image that could not be read, and why."""

    file: str
    reason: str


class Opening(TypedDict, total=False):
    """Arguments that every data set of stored images takes, see `slotlab.open_data`."""

    split: str
    resolution: int | None
    crop: float | None
    count: int | None
    skip_broken: bool
    ignore: int | None
    mask_resolution: int | str | None
    every_mask: bool


def split_of(name: str) -> str:
    """The split that the words of a file's name say, or "all".

    Example:
        >>> split_of("instances_val2017"), split_of("movi_c-train.tfrecord-00000-of-01024"), split_of("scenes")
        ('val', 'train', 'all')
    """
    words = set(re.findall("[a-z]+", name.lower()))
    return next((split for split, names in SPLIT_NAMES.items() if words & {*names}), "all")


def files_by_split(files: Sequence[Path], split: str) -> dict[str, list[Path]]:
    """Files of each split by their names, or of `split` alone if it has some; one file is "all"."""
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(split_of(file.stem) if len(files) > 1 else "all", []).append(file)
    return {split: found[split]} if split in found else found


def in_a_row(sizes: Mapping[str, int]) -> dict[str, range]:
    """The rows of splits of these sizes that follow one another; "all" alone is split by order.

    Example:
        >>> in_a_row({"train": 3, "val": 2})
        {'train': range(0, 3), 'val': range(3, 5)}
    """
    if set(sizes) == {"all"}:
        return by_order(sizes["all"])
    ends = accumulate(sizes.values())
    return {name: range(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}


def by_order(total: int) -> dict[str, range]:
    """The published CLEVRTex splits of sorted rows: test [0, 10 %), val [10, 20 %), train the rest.

    Example:
        >>> by_order(50)
        {'test': range(0, 5), 'val': range(5, 10), 'train': range(10, 50)}
    """
    tenth, fifth = total // 10, total // 5
    return {"test": range(tenth), "val": range(tenth, fifth), "train": range(fifth, total)}


class RowsDataset(SlotDataset):
    """A data set whose samples are rows, and whose splits are ranges of rows.

    Attributes:
        data: what messages and protocols call it.
        splits: rows of each split; empty if the data set has none.
        rows, split: the chosen rows, and the name of their split; a data set without splits is used
            whole, as "all".
        broken: the unreadable images found so far, if they are skipped.

    Raises:
        ConfigError: `split` is not train, val, test or all, or `count` is below 1.
        MissingSplit: the data set has no such split, or the split is empty.
    """

    kind: ClassVar[str]
    default_crop = 1.0

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether a file or folder holds such a data set, by its content."""
        return False

    def __init__(
        self,
        data: str,
        splits: dict[str, range],
        total: int,
        *,
        split: str = "train",
        resolution: int | None = None,
        crop: float | None = None,
        count: int | None = None,
        skip_broken: bool = False,
        ignore: int | None = None,
        mask_resolution: int | str | None = None,
        every_mask: bool = False,
    ) -> None:
        if split not in (*SPLITS, "all"):
            raise ConfigError(f"split={split!r}: expected one of {', '.join((*SPLITS, 'all'))}")
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ConfigError(f"count={count!r}: expected a whole number, at least 1")
        self.data, self.splits, self.split = data, splits, split if splits else "all"
        rows = range(total) if self.split == "all" else splits.get(split)
        if rows is None or (not rows and self.split != "all"):
            found = ", ".join(f"{name} {len(rows)}" for name, rows in splits.items())
            problem = "is empty" if split in splits else "does not exist"
            remedy = "add images, or take another split or 'all'"
            raise MissingSplit(f"{data}: split {split!r} {problem} ({found}); {remedy}")
        self.rows = rows[:count]
        self.crop = self.default_crop if crop is None else crop
        check_geometry(self.crop, resolution)
        self.resolution, self.skip_broken, self.ignore = resolution, skip_broken, ignore
        side = mask_resolution
        if side not in (None, ORIGINAL) and not (isinstance(side, int) and 1 <= side <= LARGEST_MASK):
            raise ConfigError(
                f"mask_resolution={side!r}: expected a whole number of pixels from 1 to {LARGEST_MASK:,}, or {ORIGINAL}"
            )
        self.mask_resolution, self.every_mask = mask_resolution, every_mask
        self.broken: list[BrokenFile] = []

    def check_mask_resolution(self) -> None:
        """ConfigError if another size of masks is asked for, where images and masks have one."""
        if self.mask_resolution not in (None, ORIGINAL, self.resolution):
            raise ConfigError(
                f"mask_resolution={self.mask_resolution}: the masks of {self.data} have {self.resolution} pixels a "
                f"side, as its images; leave it out, or name a data set of stored images"
            )
        if self.mask_resolution == ORIGINAL:
            self.mask_resolution = self.resolution

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, positions: Sequence[int]) -> list[int]:
        """The rows at `positions`; IndexError outside 0..len-1."""
        for position in map(operator.index, positions):
            if not 0 <= position < len(self):
                raise IndexError(f"position {position} outside 0..{len(self) - 1}")
        return [self.rows[position] for position in positions]

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        facts = {"data": self.data, "kind": self.kind, "split": self.split, "crop": self.crop}
        facts |= {"resolution": self.resolution, "count": len(self)}
        facts |= {} if self.mask_resolution is None else {"mask_resolution": self.mask_resolution}
        return facts | ({} if self.ignore is None else {"ignore": self.ignore})


class PixelDataset(RowsDataset, ABC):
    """A data set of stored images; each format gives `read`, `name` and the sizes of its splits.

    Args:
        source: its file or folder, or its name on the hub.
        sizes: rows of each split, one after the other; "all" alone is split by order.
        has_masks: whether every sample has a mask.
        whole: use all rows for any split.
    """

    def __init__(
        self,
        source: str | Path,
        sizes: Mapping[str, int],
        has_masks: bool = True,
        *,
        whole: bool = False,
        **opening: Unpack[Opening],
    ) -> None:
        super().__init__(str(source), {} if whole else in_a_row(sizes), sum(sizes.values()), **opening)
        self.root, self.has_masks = Path(source) if Path(source).exists() else None, has_masks
        self.unseen, self._warned = EXAMINED, set[str]()

    @abstractmethod
    def read(self, row: int) -> Decoded:
        """The image and mask of a row as stored; DataError if they are broken."""

    @abstractmethod
    def name(self, row: int) -> str:
        """What messages call this row's image."""

    def number(self, row: int) -> int:
        """The sample's number in its data set."""
        return row

    def clip(self, row: int) -> str:
        """What this row is a frame of, if images are frames: by default the folder in its name."""
        return self.name(row).rpartition("/")[0]

    def pixels(self, row: int) -> Decoded:
        """The image of a row, cropped and resized; DataError if it is broken."""
        read, side = self.checked(row), self.mask_resolution
        seen = square(read, crop=self.crop, resolution=self.resolution)
        if side is None:
            return seen
        truth = square(read, crop=self.crop, resolution=side if isinstance(side, int) else None)
        return seen._replace(mask=truth.mask, more=truth.more)

    def checked(self, row: int) -> Decoded:
        """`read`, whose mask holds ids, -1 for those to ignore; DataError if it is broken."""
        image = self.read(row)
        if self.unseen > 0:
            self.unseen -= 1
            for note in {*notes_on(image)} - self._warned:
                self._warned.add(note)
                warnings.warn(f"{self.name(row)}: {note}", stacklevel=2)
        if image.mask is not None:
            check_ids(image.mask, self.name(row))
            if self.ignore is not None:
                image = image._replace(mask=np.where(image.mask == self.ignore, np.int32(IGNORED), image.mask))
        return image

    def batch(self, positions: Sequence[int]) -> Batch:
        """The samples at `positions`, stacked; they must come out in one size."""
        found = [self._readable(row) for row in self.at(positions)]
        sizes: dict[tuple[int, ...], str] = {}
        for row, image in found:
            height, width = (image.image if image.mask is None else image.mask).shape[:2]
            sizes.setdefault((*image.image.shape, height, width), f"{self.name(row)} gives {width}x{height}")
        if len(sizes) > 1:
            raise DataError(
                f"{self.data}: images of mixed sizes: {', '.join(list(sizes.values())[:2])}; pass resolution= to resize"
            )
        masks = [image.mask for _, image in found if image.mask is not None]
        batch = to_batch(
            np.stack([image.image for _, image in found]),
            np.stack(masks) if self.has_masks else None,
            [self.number(row) for row, _ in found],
        )
        for name in found[0][1].more if found else ():
            ids = [torch.from_numpy(image.more[name].astype(np.int64)) for _, image in found]
            batch[name] = pad_sequence(ids, batch_first=True, padding_value=IGNORED)  # of annotators
        return batch

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        return super().describe() | ({"broken": len(self.broken)} if self.skip_broken else {})

    def _readable(self, row: int) -> tuple[int, Decoded]:
        """The row and its image; with `skip_broken` the next readable one, cyclically."""
        position, tried = row - self.rows.start, min(len(self), MOST_BROKEN_IN_A_ROW)
        for step in range(tried):
            candidate = self.rows[(position + step) % len(self)]
            try:
                return candidate, self.pixels(candidate)
            except DataError as error:
                if self.root is not None and not self.root.exists():
                    raise DataError(f"{self.root}: the data set is gone; restore it and use --resume") from error
                if not self.skip_broken:
                    raise
                if all(self.name(candidate) != known.file for known in self.broken):
                    self.broken.append(BrokenFile(self.name(candidate), str(error)))
        raise DataError(
            f"{self.data}: {tried} images in a row are broken, the first is {self.name(row)}; "
            "run `slotlab data check` on it"
        )
