"""Films: frames of mp4, mov, webm and gif files through PyAV (extra `video`), and back."""

from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from slotlab.errors import DataError, needs
from slotlab.files import regular, replacing
from slotlab.progress import in_steps

FILM_SUFFIXES = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".gif")
RATE = 12.0  # frames per second, where nothing says it


def need_video() -> Any:
    """The module `av`; ConfigError with the remedy if it is missing."""
    with needs("video", "films need"):
        import av  # pyright: ignore[reportMissingImports]
    return av


def film_frames(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a film, uint8 [H, W, 3], one at a time: any length fits into memory.

    Raises:
        ConfigError: PyAV is missing.
        DataError: the file is missing, damaged, has no frames, or frames of several sizes.
    """
    av, path, size = need_video(), Path(path), None
    try:
        with av.open(str(regular(path))) as film:
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
    av = need_video()
    try:
        with av.open(str(regular(Path(path)))) as film:
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
