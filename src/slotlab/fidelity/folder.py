"""Pictures of a folder, read in order, checked, and resized for a feature net in batches."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slotlab.data.image_folder import image_files
from slotlab.errors import DataError
from slotlab.fidelity.resize import clean_resize

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Picture:
    """One picture, ready for a feature net: `pixels` float32 [3, S, S] in [0, 255], and what it was as a file."""

    pixels: Tensor
    size: tuple[int, int]
    jpeg: bool


def list_images(folder: str | Path) -> list[Path]:
    """The image files in a folder and below it, sorted, without hidden ones.

    Raises:
        DataError: if the folder does not exist, holds no image, or holds the masks of a data set too.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        raise DataError(f"{folder}: masks are no pictures to compare; name {folder / 'images'}")
    found = [path for path in image_files(folder, nested=True) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        raise DataError(f"{folder}: no images; looked for {', '.join(SUFFIXES)} in it and below")
    masks = [path for path in found if path.name.endswith("_flat.png")]
    if masks:
        raise DataError(f"{masks[0]} is a mask: give a folder of pictures alone, cropped and resized as in training")
    return found


def read_picture(path: Path, side: int) -> Picture:
    """Reads one file as RGB and resizes it to `side`.

    Raises:
        DataError: if it cannot be read, or has more than 8 bits per channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path}: {image.mode} pixels; write it with 8 bits per channel")
            pixels = np.asarray(image.convert("RGB"))
            jpeg = image.format in ("JPEG", "MPO")
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        raise DataError(f"{path}: cannot be read as an image ({error}); delete it or write it again") from error
    return Picture(torch.from_numpy(clean_resize(pixels, side)), (pixels.shape[1], pixels.shape[0]), jpeg)


def read_batches(paths: list[Path], side: int, batch_size: int, workers: int) -> Iterator[list[Picture]]:
    """Reads pictures in order, in batches, one batch ahead on `workers` threads; memory holds two batches."""
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        waiting = [pool.submit(read_picture, path, side) for path in batches[0]]
        for following in [*batches[1:], []]:
            coming = [pool.submit(read_picture, path, side) for path in following]
            yield [picture.result() for picture in waiting]
            waiting = coming
