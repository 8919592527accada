"""Video: films through PyAV (extra `video`), and clips, the frames of stored videos in order."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from slotlab.data.dataset import Opening, PixelDataset, RowsDataset, by_order, in_a_row
from slotlab.data.folders import by_numbers
from slotlab.data.images import check_pixels
from slotlab.data.sample import Batch
from slotlab.errors import ConfigError, DataError, needs
from slotlab.files import regular, replacing
from slotlab.progress import in_steps

CLIPS_FILE = "clips.json"  # in what `slotlab scenes write --frames` wrote
FILM_SUFFIXES = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".gif")
CONTAINERS = "mov,mp4,matroska,webm,avi,gif"  # others, such as play lists, name more files, which would be read
RATE = 12.0  # frames per second, where nothing says it


def need_video() -> Any:
    """The module `av`; ConfigError with the remedy if it is missing."""
    with needs("video", "films need"):
        import av  # pyright: ignore[reportMissingImports]
    return av


def _opened(path: Path) -> Any:
    return need_video().open(str(regular(path)), options={"format_whitelist": CONTAINERS})


def film_frames(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a film, uint8 [H, W, 3], one at a time: any length fits into memory.

    Raises:
        ConfigError: PyAV is missing.
        DataError: the file is missing, damaged, has no frames, too large ones, or some of several
            sizes.
    """
    path, size = Path(path), None
    try:
        with _opened(path) as film:
            check_pixels(film.streams.video[0].width or 1, film.streams.video[0].height or 1, str(path))
            for frame in film.decode(video=0):
                pixels = frame.to_ndarray(format="rgb24")
                if size not in (None, pixels.shape):
                    sizes = f"{size[1]}x{size[0]} and {pixels.shape[1]}x{pixels.shape[0]}"
                    raise DataError(f"{path}: frames of {sizes}; convert the film to one size")
                size = pixels.shape
                yield pixels
    except (OSError, IndexError, ValueError) as error:  # av's errors are OSErrors and ValueErrors; no video: IndexError
        reason = "no such file" if not path.exists() else f"cannot be read as a film ({error})"
        raise DataError(f"{path}: {reason}; convert it to mp4 (H.264), or give a folder of frames") from None
    if size is None:
        raise DataError(f"{path}: has no frames; give another film")


def film_rate(path: str | Path) -> tuple[float, int]:
    """Frames per second of a film, and how many it has by its header (0: unknown)."""
    try:
        with _opened(Path(path)) as film:
            stream = film.streams.video[0]
            return float(stream.average_rate or RATE), int(stream.frames)
    except (OSError, IndexError, ValueError):
        return RATE, 0  # `film_frames` says what is wrong


@in_steps
def write_film(path: str | Path, frames: Iterable[np.ndarray], rate: float = RATE) -> Generator[int, None, None]:
    """Writes frames, uint8 [H, W, 3] of one size, as an mp4 (H.264), whole or not at all.

    An odd last row or column is repeated, as the format takes even sizes only. `write_film.steps`
    yields the number of frames written.
    """
    from fractions import Fraction

    av = need_video()
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as film:
        stream: Any = None
        for number, pixels in enumerate(frames, 1):
            pixels = np.pad(pixels, [(0, side % 2) for side in pixels.shape[:2]] + [(0, 0)], mode="edge")
            if stream is None:
                stream = film.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            yield number
        if stream is not None:
            film.mux(stream.encode())


class Clips(RowsDataset):
    """Clips of a data set of frames: samples `image` [T, 3, H, W] and `mask` [T, H, W].

    Dataset format: one whose images are frames of videos:

    * folders of frames: `images/{clip}/{frame}.png` and `masks/{clip}/{frame}.png`, also below
      `train`, `val` and `test`; or a folder of frames alone, which is one clip.
      `slotlab scenes write --frames` writes such a folder
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
