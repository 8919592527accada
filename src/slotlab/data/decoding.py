"""From stored pixels to tensors: the only place that decodes, crops and resizes images and masks.

Images become 8-bit RGB by their Pillow mode:

    * RGB: as it is (of a 16-bit RGB file Pillow keeps the high byte); RGBA: the first three channels, alpha is dropped,
      as the published CLEVRTex loader does, never blended with a background colour.
    * L, LA, 1: grey repeated three times. P: its palette's colours.
    * I;16 (and I within 0..65535): scaled, `round(value * 255 / 65535)`. F, and I beyond that: an error.
    * CMYK, YCbCr, LAB, HSV: Pillow's `convert("RGB")`, without a colour profile.

Pixels of a data set are taken in stored order: EXIF orientation is ignored, because masks know nothing of it. Single
images that come without masks are turned upright (`given.py`, `slotlab.segmenting`).
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from slotlab.data.sample import Batch
from slotlab.errors import ConfigError, DataError

GREY_MODES = ("L", "LA", "La", "1")
DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
ID_MODES = ("P", "L", "1", *DEEP_MODES)
SKIP_REMEDY = "replace the file, or pass skip_broken=True (--skip-broken) to use the next readable picture instead"


class Picture(NamedTuple):
    """Decoded pixels: `image` uint8 [H, W, 3], `mask` integer ids [H, W] or None, `mode` the image's stored mode."""

    image: np.ndarray
    mask: np.ndarray | None
    mode: str


@contextmanager
def _naming(name: str, source: Path | bytes) -> Iterator[None]:
    """Turns whatever Pillow raises on a bad file into a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{name}: the file is missing; put it back, or {SKIP_REMEDY.split(', or ')[1]}") from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        empty = (source.is_file() and source.stat().st_size == 0) if isinstance(source, Path) else not source
        reason = "the file is empty (0 bytes)" if empty else f"it cannot be decoded ({error})"
        raise DataError(f"{name}: {reason}; {SKIP_REMEDY}") from error


def _open(source: Path | bytes) -> Image.Image:
    return Image.open(source if isinstance(source, Path) else io.BytesIO(source))


def decode_image(source: Path | bytes, name: str, *, upright: bool = False) -> tuple[np.ndarray, str]:
    """Reads an image file (or its bytes) as uint8 [H, W, 3]; also returns its stored Pillow mode.

    Pixels are in stored order or, with `upright`, turned as the EXIF orientation says.

    Raises:
        DataError: if the file is missing, empty, truncated, not an image, or has values with no known range.
    """
    with _naming(name, source), _open(source) as image:
        return rgb_pixels(ImageOps.exif_transpose(image) if upright else image, name), image.mode


def rgb_pixels(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of an opened image as uint8 [H, W, 3], by its mode as this file's docstring says.

    Raises:
        DataError: if its values have no known range; `name` is what the message calls it.
    """
    if image.mode in ("RGB", "RGBA"):
        return np.asarray(image)[..., :3]
    if image.mode in DEEP_MODES:
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise DataError(f"{name}: 32-bit values outside 0..65535; save the image with 8 or 16 bits a channel")
        grey = ((grey * 255 + 32767) // 65535).astype(np.uint8)
    elif image.mode in GREY_MODES:
        grey = np.asarray(image.convert("L"))
    elif image.mode == "F":
        raise DataError(f"{name}: float values have no known range; save the image with 8 or 16 bits a channel")
    else:
        return np.asarray(image.convert("RGB"))
    return np.repeat(grey[..., None], 3, axis=2)


def decode_mask(source: Path | bytes, name: str, *, palette_only: bool = False) -> np.ndarray:
    """Reads a mask file as ids [H, W]: 0 = background. Ids are kept as they are, with their gaps.

    Palette indices are the ids; they are never converted to colours. Unless `palette_only`, grey files (8 or 16 bits)
    hold ids too, and so does an RGB file whose three channels agree.

    Raises:
        DataError: if the file is missing or broken, or holds colours instead of ids.
    """
    with _naming(name, source), _open(source) as image:
        if image.format in ("JPEG", "MPO"):
            raise DataError(f"{name}: a lossy format does not keep object ids; make the mask again as a PNG")
        if palette_only and image.mode != "P":
            raise DataError(
                f"{name}: mode {image.mode} instead of a palette image ('P') whose pixel values are object ids; "
                "do not convert CLEVRTex masks, take the file as published (grey ids: use the layout images/ + masks/)"
            )
        # Pillow keeps the high byte of these, and no longer knows it once the pixels are there.
        deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        ids = np.asarray(image)
        if image.mode in ("RGB", "RGBA"):
            if deep:
                raise DataError(
                    f"{name}: 16 bits a channel in colours, of which ids would lose the low byte; "
                    "save the mask as a grey PNG of 8 or 16 bits"
                )
            if (ids[..., 0] != ids[..., 1]).any() or (ids[..., 0] != ids[..., 2]).any():
                raise DataError(
                    f"{name}: a mask in colours; expected one object id a pixel (palette or grey PNG, 0 = background). "
                    "Convert it: np.unique(colours.reshape(-1, 3), axis=0, return_inverse=True), background first"
                )
            ids = ids[..., 0]
        elif image.mode not in ID_MODES:
            raise DataError(f"{name}: mode {image.mode} holds no object ids; save the mask as a palette or grey PNG")
        if ids.dtype == bool:
            ids = ids.astype(np.uint8)
        return ids


def check_sizes(image: np.ndarray, mask: np.ndarray, image_name: str, mask_name: str) -> None:
    """Raises DataError, naming both, unless image and mask have the same height and width."""
    if image.shape[:2] != mask.shape[:2]:
        raise DataError(
            f"{mask_name}: {mask.shape[1]}x{mask.shape[0]} pixels, but its image {image_name} has "
            f"{image.shape[1]}x{image.shape[0]}; make the mask again at the image's size (resize with NEAREST)"
        )


def check_ids(mask: np.ndarray, name: str) -> None:
    """Raises DataError, naming the picture, unless all object ids are in 0..2**31 - 1."""
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high >= 2**31:
        raise DataError(f"{name}: object ids from {low} to {high}; they must be 0 (background) or more, below 2**31")


def check_geometry(crop: float, resolution: int | None) -> None:
    """Raises ConfigError unless 0 < crop <= 1 and resolution is a positive integer or None."""
    if not isinstance(crop, int | float) or not 0 < crop <= 1:
        raise ConfigError(f"crop={crop!r}: expected a fraction of the shorter side, 0 < crop <= 1")
    if resolution is not None and (not isinstance(resolution, int) or resolution < 1):
        raise ConfigError(f"resolution={resolution!r}: expected a whole number of pixels, at least 1")


def square(picture: Picture, *, crop: float, resolution: int | None) -> Picture:
    """Cuts the centred square of side `int(crop * min(width, height))`, then resizes it to `resolution`.

    The image is resized with Pillow's BILINEAR (which averages when it shrinks), the mask with NEAREST; neither is
    touched when the square already has the size, or when `resolution` is None.
    """
    image, mask, mode = picture
    height, width = image.shape[:2]
    side = max(1, int(crop * min(width, height)))
    top, left = (height - side) // 2, (width - side) // 2
    window = np.s_[top : top + side, left : left + side]
    image, mask = image[window], None if mask is None else mask[window]
    if resolution is not None and resolution != side:
        size = (resolution, resolution)
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        if mask is not None:
            ids = Image.fromarray(mask if mask.dtype == np.uint8 else mask.astype(np.int32))
            mask = np.asarray(ids.resize(size, Image.Resampling.NEAREST))
    return Picture(image, mask, mode)


def to_batch(images: np.ndarray, masks: np.ndarray | None, indices: Sequence[int] | np.ndarray) -> Batch:
    """Stacked uint8 pixels [B, H, W, 3] and ids [B, H, W] as a Batch: values / 255, channels first, contiguous."""
    # NumPy moves the bytes before torch widens them: the fastest of six ways measured on one core.
    image = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(torch.float32).div_(255)
    batch = Batch(image=image, index=torch.as_tensor(np.asarray(indices, dtype=np.int64)))
    if masks is not None:
        batch["mask"] = torch.from_numpy(masks.astype(np.int64))
    return batch


def to_pixels(batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
    """The reverse of `to_batch`: uint8 [B, H, W, 3], rounded, and ids [B, H, W]."""
    image = batch["image"].detach().cpu().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    mask: Any = batch.get("mask")
    return image.permute(0, 2, 3, 1).contiguous().numpy(), None if mask is None else mask.cpu().numpy()
