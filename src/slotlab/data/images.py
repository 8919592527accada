"""Pictures that users give: read with limits, refused in one clear sentence."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

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


MOST_PIXELS = 2**26  # 8192 x 8192: a small file can unpack to more than memory holds


def upright_pixels(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of an opened image, uint8 [H, W, 3], turned as its EXIF orientation says.

    Modes become RGB as in `slotlab.data.images`: alpha is dropped, 16 bits become 8.

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


MOST_BYTES = 20 * 2**20
UPLOAD_PIXELS = 24_000_000
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
            f"This picture has far more than the {UPLOAD_PIXELS // 10**6} million pixels that can be read here: make "
            f"it smaller first."
        ) from error
    except Exception as error:  # Pillow's plugins raise many kinds of errors on broken files
        raise DataError(
            f"This file is not a picture that can be read. Take a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file."
        ) from error
    if width * height > UPLOAD_PIXELS or max(width, height) > LONGEST:
        raise DataError(
            f"This picture has {width:,} × {height:,} pixels. At most {LONGEST:,} on a side and "
            f"{UPLOAD_PIXELS // 10**6} million in all can be read here: make it smaller first."
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
