"""Single pictures that a user gives, in any usual form, made ready for a model."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from slotlab.data.decoding import (
    SKIP_REMEDY,
    Picture,
    check_ids,
    check_sizes,
    decode_image,
    decode_mask,
    rgb_pixels,
    square,
    to_batch,
)
from slotlab.errors import ConfigError, DataError

ROUNDING = 1e-3  # how far outside 0..1 the values of a tensor may be
AnyImage = Tensor | np.ndarray | Image.Image | str | Path


def prepared(image: AnyImage, mask: Any = None, *, resolution: int, crop: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """The image [3, R, R] in [0, 1] that a model takes, and the mask int64 [R, R], if one is given.

    Args:
        image: a tensor [3, H, W] in [0, 1], an array uint8 [H, W, 3], a Pillow picture, or an image file. As the reader
            of image folders does it, the centred square of side `int(crop * shorter side)` is cut out and resized in
            8 bits. A file or Pillow picture is first turned upright (EXIF), unless there is a mask, which knows nothing
            of that. A tensor of the right size, with a mask of that size or none, is taken as it is, whatever `crop`.
        mask: its true mask, integers [H, W] or a mask file, of the image's size; 0 = background.
        resolution: side R.
        crop: side of the square as a fraction of the shorter side, above 0, at most 1.

    Raises:
        ConfigError: a crop out of range.
        DataError: a file is missing or broken, or image and mask differ in size.
        ValueError: a tensor or array of another shape, type or range.
    """
    if not 0 < crop <= 1:
        raise ConfigError(f"crop: must be above 0 and at most 1, not {crop!r}")
    try:
        pixels, ids = _pixels(image, upright=mask is None), _ids(mask)
    except DataError as error:
        raise DataError(str(error).replace(SKIP_REMEDY, "give another file")) from error
    if ids is not None:
        check_sizes(pixels, ids, _name(image, "image"), _name(mask, "mask"))
        check_ids(ids, _name(mask, "mask"))
    if isinstance(image, Tensor) and image.shape == (3, resolution, resolution):
        return image.detach().cpu().float(), None if ids is None else torch.from_numpy(ids.astype(np.int64))
    cut = square(Picture(pixels, ids, "RGB"), crop=crop, resolution=resolution)
    batch = to_batch(cut.image[None], None if cut.mask is None else cut.mask[None], [0])
    return batch["image"][0], batch["mask"][0] if "mask" in batch else None


def _pixels(image: AnyImage, upright: bool) -> np.ndarray:
    """uint8 [H, W, 3]."""
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"image: expected [3, H, W], got {list(image.shape)}")
        if not image.is_floating_point():
            raise ValueError(f"image: expected floats in [0, 1], got {image.dtype}; divide by 255")
        low, high = (float(value) for value in image.detach().float().aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN is in no range
            raise ValueError(
                f"image: expected values in [0, 1], got {low:g} to {high:g}; clamp it, or divide 0..255 by 255"
            )
        return (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    if isinstance(image, Image.Image):
        return rgb_pixels(ImageOps.exif_transpose(image) if upright else image, "image")
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        return image
    if not Path(image).is_file():
        raise DataError(f"{image}: no such image file")
    return decode_image(Path(image), str(image), upright=upright)[0]


def _ids(mask: Any) -> np.ndarray | None:
    """Integers [H, W]."""
    if isinstance(mask, (str, Path)):
        return decode_mask(Path(mask), str(mask))
    if mask is None:
        return None
    ids = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    if ids.ndim != 2 or ids.dtype.kind not in "iub":
        raise ValueError(f"mask: expected whole numbers [H, W], got {ids.dtype} {list(ids.shape)}")
    return ids


def _name(given: Any, otherwise: str) -> str:
    return str(given) if isinstance(given, (str, Path)) else otherwise
