"""What the readers of stored pictures share: splits, crop and resize, batches, and the skipping of broken files."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slotlab.data.images import Decoded, check_geometry, check_ids, square, to_batch
from slotlab.data.sample import Batch, Sample, only
from slotlab.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}


def by_order(total: int) -> dict[str, range]:
    """The published CLEVRTex rule, on rows in sorted order: test [0, 10 %), val [10, 20 %), train [20, 100 %)."""
    tenth, fifth = total // 10, total // 5
    return {"test": range(tenth), "val": range(tenth, fifth), "train": range(fifth, total)}


def choose(splits: Mapping[str, range], split: str, total: int, data: str) -> tuple[range, str]:
    """The rows of `split`, and the name to report for them.

    A data set with no splits at all (empty `splits`) is used whole under every name, and reported as "all".

    Raises:
        ConfigError: if `split` is not one of train, val, test, all.
        DataError: if the data set has no such split, or nothing in it.
    """
    if split not in (*SPLITS, "all"):
        raise ConfigError(f"split={split!r}: expected one of {', '.join((*SPLITS, 'all'))}")
    if split == "all" or not splits:
        return range(total), "all"
    if split not in splits:
        raise DataError(f"{data}: no split {split!r}; it has {', '.join(splits)}: ask for one of these, or for 'all'")
    rows = splits[split]
    if not rows:
        filled = ", ".join(f"{name} {len(r)}" for name, r in splits.items())
        raise DataError(f"{data}: split {split!r} is empty ({filled}); add images, or ask for split 'all'")
    return rows, split


MOST_BROKEN_IN_A_ROW = 100


class BrokenFile(NamedTuple):
    """A picture that could not be read, and why."""

    file: str
    reason: str


def first_rows(rows: range, count: int | None) -> range:
    """The first `count` of `rows` (all of them if `count` is None); ConfigError if `count` is below 1."""
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ConfigError(f"count={count!r}: expected a whole number, at least 1")
    return rows[:count]


def checked_position(position: int, length: int) -> int:
    """`position` as an int; IndexError outside 0..length-1."""
    position = operator.index(position)
    if not 0 <= position < length:
        raise IndexError(f"position {position} outside 0..{length - 1}")
    return position


class PixelDataset(ABC):
    """A data set of stored pictures; each format gives `read`, `name` and the splits.

    Attributes:
        has_masks: whether every sample has a mask.
        splits: rows of each split, over all pictures of the data set; empty if it has none and is used whole.
        total: number of pictures in all splits together.
        broken: the pictures found unreadable so far (with `skip_broken`; otherwise the first one raises).
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
        split: str,
        resolution: int | None,
        crop: float | None,
        count: int | None,
        skip_broken: bool,
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
        """The picture of a row of the whole data set as stored, before crop and resize; DataError if it is broken."""

    @abstractmethod
    def name(self, row: int) -> str:
        """What messages call this row's picture."""

    def number(self, row: int) -> int:
        """The sample's number in its data set."""
        return row

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Sample:
        return only(self.batch([position]))

    def pixels(self, position: int) -> Decoded:
        """The picture at `position`, cropped and resized; DataError if it is broken, whatever `skip_broken` says."""
        row = self.rows[checked_position(position, len(self))]
        return square(self.checked(row), crop=self.crop, resolution=self.resolution)

    def checked(self, row: int) -> Decoded:
        """`read`, whose mask holds object ids; DataError if it is broken."""
        picture = self.read(row)
        if picture.mask is not None:
            check_ids(picture.mask, self.name(row))
        return picture

    def batch(self, positions: Sequence[int]) -> Batch:
        """The samples at `positions`, stacked; they must come out in one size."""
        found = [self._readable(position) for position in positions]
        first_row, first = found[0]
        for row, picture in found:
            if picture.image.shape != first.image.shape:
                sizes = [
                    f"{self.name(r)} gives {p.image.shape[1]}x{p.image.shape[0]}"
                    for r, p in ((first_row, first), (row, picture))
                ]
                raise DataError(
                    f"{self.data}: images of mixed sizes: {', '.join(sizes)}; pass resolution= to bring all to one size"
                )
        masks = [picture.mask for _, picture in found if picture.mask is not None]
        return to_batch(
            np.stack([picture.image for _, picture in found]),
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
        """The row and picture at `position`, or with `skip_broken` the next one that can be read.

        After the last comes the first, so the same broken files always give the same samples.
        """
        position = checked_position(position, len(self))
        for step in range(min(len(self), MOST_BROKEN_IN_A_ROW)):
            candidate = (position + step) % len(self)
            try:
                return self.rows[candidate], self.pixels(candidate)
            except DataError as error:
                if self.root is not None and not self.root.exists():
                    raise DataError(
                        f"{self.root}: the data set is gone; put it back and go on with --resume"
                    ) from error
                if not self.skip_broken:
                    raise
                self.note_broken(self.name(self.rows[candidate]), str(error))
        raise DataError(
            f"{self.data}: {min(len(self), MOST_BROKEN_IN_A_ROW)} pictures in a row are broken, the first "
            f"being {self.name(self.rows[position])}; run `slotlab data check` on it"
        )

    def note_broken(self, file: str, reason: str) -> None:
        """Adds a picture to `broken`, once."""
        if all(file != known.file for known in self.broken):
            self.broken.append(BrokenFile(file, reason))
