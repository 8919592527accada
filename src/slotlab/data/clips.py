"""Clips: the frames of stored videos, in order, from any data set whose images are frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from slotlab.data.dataset import Opening, PixelDataset, RowsDataset, by_order, in_a_row
from slotlab.data.folders import by_numbers
from slotlab.data.sample import Batch
from slotlab.errors import ConfigError, DataError

CLIPS_FILE = "clips.json"  # in what `slotlab scenes write --frames` wrote


class Clips(RowsDataset):
    """Clips of a data set of frames: samples `image` [T, 3, H, W] and `mask` [T, H, W].

    Dataset format: one whose images are frames of videos:

    * folders of frames: `images/{clip}/{frame}.png` and `masks/{clip}/{frame}.png`, also below
      `train`, `val` and `test`; or a folder of frames alone, which is one clip. `slotlab scenes write
      --frames` writes such a folder
    * DAVIS, and MOVi as TFRecords: `clips:davis:PATH`, `clips:tfrecords:PATH`

    Frames of a clip are ordered by the numbers in their names. Splits are those of the data set; if
    they are cut by order, they are cut between clips. An object keeps its id through its clip.

    Args:
        root: a spec of the data set of frames, as for `open_data`.
        frames: frames T of a sample: a clip gives as many samples as it has room for, one after the
            other; by default the whole clip.
        stride: use every so many frames.

    Raises:
        DataError: no clip is long enough; in a batch, clips of several lengths or sizes.
    """

    kind = "clips"

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether `slotlab scenes write --frames` wrote the folder."""
        return (path / CLIPS_FILE).is_file()

    def __init__(
        self, root: str | Path, *, frames: int | None = None, stride: int = 1, **opening: Unpack[Opening]
    ) -> None:
        from slotlab.data.open import open_data

        for name, value in (("frames", frames or 1), ("stride", stride)):
            if value < 1:
                raise ConfigError(f"{name}={value}: expected a whole number, at least 1")
        inner: dict[str, Any] = {
            name: opening[name] for name in opening.keys() & {"resolution", "crop", "ignore", "mask_resolution"}
        }
        spec = f"images:{root}" if self.is_in(Path(root)) else root
        of_frames: Any = open_data(spec, split="all", **inner)
        if not isinstance(of_frames, PixelDataset):
            raise DataError(f"{root}: its images are no frames of clips; name a folder of frames, DAVIS or TFRecords")
        self.frames, self.stride, self.of_frames = frames, stride, of_frames
        clips: dict[str, list[int]] = {}
        for row in of_frames.rows:
            clips.setdefault(of_frames.clip(row), []).append(row)
        cut = of_frames.splits == by_order(len(of_frames)) or not of_frames.splits
        parts = {"all": [*clips]} if cut else {name: [] for name in of_frames.splits}
        for name, rows in {} if cut else clips.items():
            parts[next(split for split, known in of_frames.splits.items() if rows[0] in known)].append(name)
        splits = by_order(len(clips)) if cut else in_a_row({split: len(names) for split, names in parts.items()})
        ordered = [
            sorted(clips[name], key=lambda row: by_numbers(of_frames.name(row)))
            for names in parts.values()
            for name in names
        ]
        self._windows: list[list[int]] = []
        sizes = {split: len(self._windows) for split in splits}
        for split, numbers in splits.items():
            before = len(self._windows)
            for number in numbers:
                self._windows += self._windows_of(ordered[number])
            sizes[split] = len(self._windows) - before
        if not self._windows:
            longest = max(map(len, ordered))
            raise DataError(
                f"{root}: its longest clip has {longest} frames, too few for frames={frames}, stride={stride}"
            )
        super().__init__(str(of_frames.data), in_a_row(sizes), len(self._windows), **opening)
        self.has_masks = of_frames.has_masks

    def batch(self, positions: Sequence[int]) -> Batch:
        """The clips at `positions`, stacked; they must have one length and one size."""
        chosen = [self._windows[row] for row in self.at(positions)]
        lengths = sorted({len(window) for window in chosen})
        if len(lengths) > 1:
            raise DataError(f"{self.data}: clips of {lengths[0]} and {lengths[-1]} frames; pass frames={lengths[0]}")
        flat = self.of_frames.batch([row for window in chosen for row in window])
        shape = (len(chosen), lengths[0])
        batch = Batch(image=flat["image"].unflatten(0, shape), index=flat["index"].unflatten(0, shape)[:, 0])
        if "mask" in flat:
            batch["mask"] = flat["mask"].unflatten(0, shape)
        return batch

    def name(self, row: int) -> str:
        """What messages call a clip: its first frame."""
        return self.of_frames.name(self._windows[row][0])

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, with the frames of a sample and their stride."""
        return super().describe() | {"frames": self.frames, "stride": self.stride}

    def _windows_of(self, rows: list[int]) -> list[list[int]]:
        if self.frames is None:
            return [rows[:: self.stride]]
        span = (self.frames - 1) * self.stride + 1
        starts = range(0, len(rows) - span + 1, span)
        return [rows[start : start + span : self.stride] for start in starts]
