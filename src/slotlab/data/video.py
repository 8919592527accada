"""Video: films through PyAV (extra `video`), and clips, the frames of stored videos in order."""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, Unpack

import numpy as np

from slotlab.data.dataset import BrokenFile, Opening, PixelDataset, RowsDataset, by_order, in_a_row
from slotlab.data.folders import by_numbers, folders_below, split_folders
from slotlab.data.images import Decoded, check_pixels
from slotlab.data.sample import Batch
from slotlab.errors import ConfigError, DataError, needs
from slotlab.files import regular, replacing
from slotlab.progress import in_steps

CLIPS_FILE = "clips.json"  # in what `slotlab scenes write --frames` wrote
FILM_SUFFIXES = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".gif")
CONTAINERS = "mov,mp4,matroska,webm,avi,gif"  # others, such as play lists, name more files, which would be read
RATE = 12.0  # frames per second, where nothing says it
NEAR = 16  # frames: so far ahead decoding goes on, and so many of those before are kept
FEW = 10  # clips: fewer are not split, but their windows are
DECODING = Lock()


def need_video() -> Any:
    """The module `av`; ConfigError with the remedy if it is missing."""
    with needs("video", "films need"):
        import av  # pyright: ignore[reportMissingImports]
    return av


@contextmanager
def opened_film(path: Path) -> Iterator[tuple[Any, Any]]:
    """An open film and its first video stream; DataError if it is missing, damaged or too large."""
    av = need_video()
    try:
        with av.open(str(regular(path)), options={"format_whitelist": CONTAINERS}) as film:
            stream = film.streams.video[0]
            check_pixels(stream.width or 1, stream.height or 1, str(path))
            yield film, stream
    except (OSError, IndexError, ValueError) as error:  # av's errors are OSErrors and ValueErrors; no video: IndexError
        reason = "no such file" if not path.exists() else f"cannot be read as a film ({error})"
        raise DataError(f"{path}: {reason}; convert it to mp4 (H.264), or give a folder of frames") from None


def film_frames(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a film, uint8 [H, W, 3], one at a time: any length fits into memory.

    Raises:
        ConfigError: PyAV is missing.
        DataError: the file is missing, damaged, has no frames, too large ones, or some of several
            sizes.
    """
    path, size = Path(path), None
    with opened_film(path) as (film, stream):
        for frame in film.decode(stream):
            pixels = _pixels(frame, path, size)
            size = pixels.shape
            yield pixels
    if size is None:
        raise DataError(f"{path}: has no frames; give another film")


def film_rate(path: str | Path) -> tuple[float, int]:
    """Frames per second of a film, and how many it has by its header (0: unknown)."""
    with suppress(DataError), opened_film(Path(path)) as (_, stream):
        return float(stream.average_rate or RATE), int(stream.frames)
    return RATE, 0  # `film_frames` says what is wrong


def _pixels(frame: Any, path: Path, size: tuple[int, ...] | None) -> np.ndarray:
    """A frame of PyAV, turned upright, as uint8 [H, W, 3]; DataError if `size` is another."""
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    if size not in (None, pixels.shape):
        sizes = f"{size[1]}x{size[0]} and {pixels.shape[1]}x{pixels.shape[0]}"
        raise DataError(f"{path}: frames of {sizes}; convert the film to one size")
    return pixels


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


class Films(PixelDataset):
    """Films, each frame as an image without a mask; `clips:films:PATH`, or PATH alone: as clips.

    Dataset format: a film (mp4, mov, m4v, webm, mkv, avi or gif), or a folder of them at any depth,
    also `{train,val,test}/**/{name}.mp4`. All are read through once, without decoding, when they
    are opened, to find their frames. Frames are turned upright. Splits by folder, or else by order.
    Crop 1.0.
    """

    kind = "films"

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether `path` is a film, or a folder with films in it or in its folders of splits."""
        if path.is_file():
            return path.suffix.lower() in FILM_SUFFIXES
        inside = (one for pattern in ("*", "train/*", "val/*", "test/*") for one in path.glob(pattern))
        return any(one.suffix.lower() in FILM_SUFFIXES[:-1] for one in inside)  # a folder of gifs is one of images

    def __init__(self, root: str | Path, **opening: Unpack[Opening]) -> None:
        base, broken = Path(root), list[BrokenFile]()
        parts = {split: base / name for split, name in split_folders(base).items()} or {"all": base}
        self.films: list[tuple[Path, list[int]]] = []  # and the times of their frames, in units of the film
        self._starts: list[int] = []  # rows of their first frames
        total, sizes = 0, dict.fromkeys(parts, 0)
        for split, part in parts.items():
            for path in _films(part):
                try:
                    times = _times(path)
                except DataError as error:
                    if not opening.get("skip_broken"):
                        raise
                    broken.append(BrokenFile(str(path), str(error)))
                    continue
                self.films.append((path, times))
                self._starts.append(total)
                sizes[split] += len(times)
                total += len(times)
        if not total:
            raise DataError(f"{root}: no readable film here ({', '.join(FILM_SUFFIXES)}); name another folder")
        super().__init__(root, sizes, has_masks=False, **opening)
        self.broken += broken
        self._sizes, self._recent = dict[int, tuple[int, ...]](), dict[int, Any]()
        self._place: tuple[int, int] | None = None  # the process and film of the decoder
        self._decoder: Iterator[Any] = iter(())
        self._last = 0  # frame that it is at

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_place": None, "_decoder": iter(()), "_recent": {}}

    def read(self, row: int) -> Decoded:
        """Decodes a frame; those that follow it are read fastest."""
        film, number = self._frame(row)
        (path, times), here = self.films[film], (os.getpid(), film)
        with DECODING:
            if self._place != here or not (number in self._recent or 0 <= number - self._last < NEAR):
                self._decoder, self._recent, self._last = _decoded(path, times[number]), {}, number
            self._place = None  # in case of an error
            while number not in self._recent:
                frame = next(self._decoder, None)
                if frame is None:
                    raise DataError(f"{self.name(row)}: the film ends before it; copy it again")
                shown = bisect_left(times, frame.pts)
                self._recent |= {shown: frame, min(shown, number): frame}  # where a frame is hidden, the next one
                if len(self._recent) > NEAR:
                    del self._recent[min(self._recent)]
            pixels = _pixels(self._recent[number], path, self._sizes.get(film))
            self._sizes[film] = pixels.shape
            self._place, self._last = here, max(self._last, number)
        return Decoded(pixels, None, "RGB")

    def name(self, row: int) -> str:
        """The film and the number of the frame."""
        return f"{self.clip(row)}, frame {self._frame(row)[1]}"

    def clip(self, row: int) -> str:
        """The film."""
        return str(self.films[self._frame(row)[0]][0])

    def _frame(self, row: int) -> tuple[int, int]:
        """The numbers of the film and of the frame in it."""
        film = bisect_right(self._starts, row) - 1
        return film, row - self._starts[film]


def _films(place: Path) -> list[Path]:
    """The film that `place` is, or those below it, sorted."""
    if place.is_file():
        return [place]
    found = [folder / name for folder, names in folders_below(place) for name in names]
    return [path for path in found if path.suffix.lower() in FILM_SUFFIXES and not path.name.startswith(".")]


def _times(path: Path) -> list[int]:
    """When each frame of a film is shown, in units of its stream."""
    with opened_film(path) as (film, stream):
        found = {packet.pts for packet in film.demux(stream) if packet.size and not packet.is_discard}
        untimed = None in found or (film.format.name == "avi" and stream.codec_context.has_b_frames)
    if not found:
        raise DataError(f"{path}: has no frames; give another film")
    if untimed:
        raise DataError(f"{path}: does not say when its frames are shown; convert it to mp4 (H.264)")
    return sorted(found)


def _decoded(path: Path, time: int) -> Iterator[Any]:
    """Frames of PyAV from the last key frame before a time on."""
    with opened_film(path) as (film, stream):
        stream.codec_context.thread_count = 1  # threads do not survive the fork of a worker process
        film.seek(time, stream=stream)
        yield from film.decode(stream)


class Clips(RowsDataset):
    """Clips of a data set of frames: samples `image` [T, 3, H, W] and `mask` [T, H, W].

    Dataset format: one whose images are frames of videos:

    * folders of frames: `images/{clip}/{frame}.png` and `masks/{clip}/{frame}.png`, also below
      `train`, `val` and `test`; or a folder of frames alone, which is one clip.
      `slotlab scenes write --frames` writes such a folder
    * DAVIS, and MOVi as TFRecords: `clips:davis:PATH`, `clips:tfrecords:PATH`
    * films (`Films`): a film, or a folder of them

    Frames of a clip are ordered by the numbers in their names. Splits are those of the data set; if
    they are cut by order, they are cut between clips, or between samples if there are fewer than
    ten clips. An object keeps its id through its clip.

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
        from slotlab.data.open import open_data, recognise

        for name, value in (("frames", frames or 1), ("stride", stride)):
            if value < 1:
                raise ConfigError(f"{name}={value}: expected a whole number, at least 1")
        passed = {"resolution", "crop", "ignore", "mask_resolution", "skip_broken"}
        inner: dict[str, Any] = {name: opening[name] for name in opening.keys() & passed}
        spec = f"images:{root}" if self.is_in(Path(root)) else str(root)
        kind, films = recognise(spec)
        spec = films if kind == self.kind else spec
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
        sizes = {split: len(names) for split, names in parts.items()}
        splits = {"all": range(len(clips))} if cut and len(clips) < FEW else in_a_row(sizes)
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
        self.has_masks, self.broken = of_frames.has_masks, of_frames.broken

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
