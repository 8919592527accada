"""Pictures that users give: read with limits, refused in one clear sentence."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from slotlab.errors import DataError
from slotlab.segmenting.reading import upright_pixels

MOST_BYTES = 20 * 2**20
MOST_PIXELS = 24_000_000
LONGEST, SHORTEST = 8_000, 16
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def take_upload(path: str | Path) -> np.ndarray:
    """The pixels of an uploaded file, which is removed at once, whether it can be read or not.

    Raises:
        DataError: as `read_picture`.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(_too_large(path.stat().st_size))
        return read_picture(path.read_bytes())
    finally:
        path.unlink(missing_ok=True)


def read_picture(content: bytes) -> np.ndarray:
    """The pixels of a picture file, upright, uint8 [H, W, 3]; none is decoded before their number is known.

    Raises:
        DataError: too many bytes or pixels, too small, animated, of an unknown format, or broken.
    """
    if len(content) > MOST_BYTES:
        raise DataError(_too_large(len(content)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limits below are stricter
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height, frames = *image.size, getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise DataError(
            f"This picture has far more than the {MOST_PIXELS // 10**6} million pixels that can be read here: make it "
            f"smaller first."
        ) from error
    except Exception as error:  # Pillow's plugins raise many kinds of errors on broken files
        raise DataError(
            f"This file is not a picture that can be read. Take a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file."
        ) from error
    if width * height > MOST_PIXELS or max(width, height) > LONGEST:
        raise DataError(
            f"This picture has {width:,} × {height:,} pixels. At most {LONGEST:,} on a side and "
            f"{MOST_PIXELS // 10**6} million in all can be read here: make it smaller first."
        )
    if min(width, height) < SHORTEST:
        raise DataError(
            f"This picture has {width:,} × {height:,} pixels. That is too small to find objects in: take one of at "
            f"least {SHORTEST} on a side."
        )
    if frames > 1:
        raise DataError(f"This picture is an animation of {frames} frames. Save one frame as a PNG and take that.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return upright_pixels(image, "This picture")
    except Exception as error:
        raise DataError(f"This picture is broken: it cannot be decoded ({error}). Take another file.") from error


def _too_large(size: int) -> str:
    return (
        f"This file has {size / 2**20:.0f} MiB; at most {MOST_BYTES // 2**20} can be read here. Make it smaller first."
    )
