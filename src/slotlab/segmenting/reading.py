"""Images as people have them: any file that Pillow opens, turned upright."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from slotlab.data.decoding import rgb_pixels
from slotlab.errors import DataError

MOST_PIXELS = 2**26  # 8192 x 8192: a small file can unpack to more than memory holds


def upright_pixels(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of an opened image, uint8 [H, W, 3], turned as its EXIF orientation says.

    Modes become RGB as in `slotlab.data.decoding`: alpha is dropped, 16 bits become 8.

    Raises:
        DataError: more than 2**26 pixels, none at all, or values with no known range.
    """
    if not 0 < image.width * image.height <= MOST_PIXELS:
        raise DataError(f"{name}: {image.width}x{image.height} pixels, more than {MOST_PIXELS:,}; make it smaller")
    return rgb_pixels(ImageOps.exif_transpose(image), name)


def read_upright(path: Path) -> np.ndarray:
    """`upright_pixels` of an image file.

    Raises:
        DataError: the file is missing, cannot be decoded, or is too large; the message names it.
    """
    try:
        with Image.open(path) as image:
            return upright_pixels(image, str(path))
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file") from None
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        raise DataError(f"{path}: it cannot be decoded ({error})") from error
