"""What all readers of stored images share: splits, crop and resize, batches, broken files."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from slotlab.data.images import Decoded, check_geometry, check_ids, square, to_batch
from slotlab.data.sample import Batch, SlotDataset
from slotlab.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}


MOST_BROKEN_IN_A_ROW = 100


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


def in_a_row(sizes: Mapping[str, int]) -> dict[str, range]:
    """The rows of splits of these sizes that follow one another.

    Example:
        >>> in_a_row({"train": 3, "val": 2})
        {'train': range(0, 3), 'val': range(3, 5)}
    """
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


def choose(splits: Mapping[str, range], split: str, total: int, data: str) -> tuple[range, str]:
    """The rows of a split, and its name; a data set without splits is used whole, as "all".

    Raises:
        ConfigError: `split` is not train, val, test or all.
        DataError: the data set has no such split, or the split is empty.
    """
    if split not in (*SPLITS, "all"):
        raise ConfigError(f"split={split!r}: expected one of {', '.join((*SPLITS, 'all'))}")
    if split == "all" or not splits:
        return range(total), "all"
    if not splits.get(split):
        found = ", ".join(f"{name} {len(rows)}" for name, rows in splits.items())
        problem = "is empty" if split in splits else "does not exist"
        raise DataError(f"{data}: split {split!r} {problem} ({found}); add images, or take another split or 'all'")
    return splits[split], split


def first_rows(rows: range, count: int | None) -> range:
    """The first `count` of `rows`, or all; ConfigError if `count` is below 1."""
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ConfigError(f"count={count!r}: expected a whole number, at least 1")
    return rows[:count]


def checked_position(position: int, length: int) -> int:
    """`position` as an int; IndexError outside 0..length-1."""
    position = operator.index(position)
    if not 0 <= position < length:
        raise IndexError(f"position {position} outside 0..{length - 1}")
    return position


class PixelDataset(SlotDataset, ABC):
    """A data set of stored images; each format gives `read`, `name` and the splits.

    Attributes:
        has_masks: whether every sample has a mask.
        splits: rows of each split; empty if the data set has none.
        total: number of images in all splits.
        broken: the unreadable images found so far, with `skip_broken`; otherwise the first raises.
    """

    kind: str
    default_crop = 1.0

    def __init__(
        self,
        *,
        data: str,
        root: Path | None,
        total: int,
        splits: Mapping[str, range],
        has_masks: bool,
        split: str = "train",
        resolution: int | None = None,
        crop: float | None = None,
        count: int | None = None,
        skip_broken: bool = False,
    ) -> None:
        self.data, self.root, self.total, self.splits, self.has_masks = data, root, total, dict(splits), has_masks
        rows, self.split = choose(self.splits, split, total, data)
        self.rows = first_rows(rows, count)
        self.crop = self.default_crop if crop is None else crop
        check_geometry(self.crop, resolution)
        self.resolution, self.skip_broken = resolution, skip_broken
        self.broken: list[BrokenFile] = []

    @abstractmethod
    def read(self, row: int) -> Decoded:
        """The image and mask of a row as stored; DataError if they are broken."""

    @abstractmethod
    def name(self, row: int) -> str:
        """What messages call this row's image."""

    def number(self, row: int) -> int:
        """The sample's number in its data set."""
        return row

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, position: int) -> Decoded:
        """The image at `position`, cropped and resized; DataError if it is broken."""
        row = self.rows[checked_position(position, len(self))]
        return square(self.checked(row), crop=self.crop, resolution=self.resolution)

    def checked(self, row: int) -> Decoded:
        """`read`, whose mask holds object ids; DataError if it is broken."""
        image = self.read(row)
        if image.mask is not None:
            check_ids(image.mask, self.name(row))
        return image

    def batch(self, positions: Sequence[int]) -> Batch:
        """The samples at `positions`, stacked; they must come out in one size."""
        found = [self._readable(position) for position in positions]
        sizes: dict[tuple[int, ...], str] = {}
        for row, image in found:
            height, width = image.image.shape[:2]
            sizes.setdefault((height, width), f"{self.name(row)} gives {width}x{height}")
        if len(sizes) > 1:
            raise DataError(
                f"{self.data}: images of mixed sizes: {', '.join(list(sizes.values())[:2])}; pass resolution= to resize"
            )
        masks = [image.mask for _, image in found if image.mask is not None]
        return to_batch(
            np.stack([image.image for _, image in found]),
            np.stack(masks) if self.has_masks else None,
            [self.number(row) for row, _ in found],
        )

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        return {
            "data": self.data,
            "kind": self.kind,
            "split": self.split,
            "crop": self.crop,
            "resolution": self.resolution,
            "count": len(self),
        } | ({"broken": len(self.broken)} if self.skip_broken else {})

    def _readable(self, position: int) -> tuple[int, Decoded]:
        """The row and image at `position`; with `skip_broken` the next readable one, cyclically."""
        position = checked_position(position, len(self))
        for step in range(min(len(self), MOST_BROKEN_IN_A_ROW)):
            candidate = (position + step) % len(self)
            try:
                return self.rows[candidate], self.pixels(candidate)
            except DataError as error:
                if self.root is not None and not self.root.exists():
                    raise DataError(f"{self.root}: the data set is gone; restore it and use --resume") from error
                if not self.skip_broken:
                    raise
                self.note_broken(self.name(self.rows[candidate]), str(error))
        raise DataError(
            f"{self.data}: {min(len(self), MOST_BROKEN_IN_A_ROW)} images in a row are broken, the first is "
            f"{self.name(self.rows[position])}; run `slotlab data check` on it"
        )

    def note_broken(self, file: str, reason: str) -> None:
        """Adds an image to `broken`, once."""
        if all(file != known.file for known in self.broken):
            self.broken.append(BrokenFile(file, reason))
