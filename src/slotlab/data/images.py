"""Reading images and masks: for data sets, and for the images that a user gives."""

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from slotlab.data.sample import IGNORED, Batch, only
from slotlab.errors import ConfigError, DataError

AnyImage = Tensor | np.ndarray | Image.Image | bytes | str | Path
# By content, whatever the name says: Pillow knows others, and for EPS it starts Ghostscript.
IMAGE_FORMATS = ("PNG", "JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "TGA", "PPM")
DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
ROUNDING = 1e-3  # how far outside [0, 1] the values of a tensor may be
LOSSY = "a lossy format does not keep object ids; make the mask again as a PNG"
LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "AVIF")
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp", "tiff_sgilog", "tiff_sgilog24")
FIRST_PAGE = "only the first of several pages or frames is read"
DARK = "16-bit values below 4096 come out nearly black; if they have 12 bits, multiply them by 16"
SPECKLED = "the mask has many isolated pixels, as if its ids came from a lossy or blended picture; make it again"
SKIP_REMEDY = "replace the file, or pass skip_broken=True (--skip-broken) to use the next readable image instead"


class Limits(NamedTuple):
    """What is read of a user's image: a small file can unpack to more pixels than memory holds."""

    pixels: int = 2**26  # most, in all
    longest: int = 2**26  # most pixels on a side
    shortest: int = 1  # fewest pixels on a side
    size: int = 2**40  # most bytes
    formats: tuple[str, ...] = IMAGE_FORMATS
    animations: bool = True  # whether the first frame of an animation is taken


LIMITS = Limits()
UPLOAD_LIMITS = Limits(24_000_000, 8_000, 16, 20 * 2**20, ("PNG", "JPEG", "WEBP", "GIF", "BMP"), animations=False)


class Decoded(NamedTuple):
    """A decoded image uint8 [H, W, 3], and its mask of ids [H, W] (0 = background) if it has one.

    `mode` and `format` are Pillow's names for how the file stores its pixels and for its kind.
    `notes` say what may have been read otherwise than was meant. `more` holds other masks of the
    image, int [..., H, W].
    """

    image: np.ndarray
    mask: np.ndarray | None = None
    mode: str = "RGB"
    format: str | None = None
    notes: tuple[str, ...] = ()
    more: Mapping[str, np.ndarray] = MappingProxyType({})


# --- decoding -------------------------------------------------------------------------------------


@contextmanager
def opened(source: Path | bytes, name: str, limits: Limits, remedy: str) -> Iterator[Image.Image]:
    """Opens an image file or its bytes; whatever Pillow raises becomes a DataError."""
    size = 1
    try:
        size = source.stat().st_size if isinstance(source, Path) else len(source)
        if size > limits.size:
            raise DataError(f"{name}: {size >> 20} MiB; at most {limits.size >> 20} can be read, make it smaller")
        if isinstance(source, Path) and not source.is_file():
            raise DataError(f"{name}: not a regular file; {remedy}")
        Image.init()
        formats = [known for known in limits.formats if known in Image.OPEN]
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=formats) as image:
            _check_limits(image, name, limits)
            yield image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{name}: the file is missing; {remedy}") from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"it is not a file of {', '.join(limits.formats)}" if unknown else error
        said = f"it cannot be decoded ({reason})" if size else "the file is empty (0 bytes)"
        raise DataError(f"{name}: {said}; {remedy}") from error


def _check_limits(image: Image.Image, name: str, limits: Limits) -> None:
    check_pixels(*image.size, name, limits)
    if not limits.animations and _frames(image) > 1:
        raise DataError(f"{name}: an animation of {_frames(image)} frames; save one frame as a PNG and use that")


def check_pixels(width: int, height: int, name: str, limits: Limits = LIMITS) -> None:
    """Raises DataError if an image has too many pixels, or too few."""
    if width * height > limits.pixels or max(width, height) > limits.longest:
        side = f"{limits.longest:,} on a side and " if limits.longest < limits.pixels else ""
        said = f"at most {side}{limits.pixels:,} in all can be read, make it smaller"
    elif min(width, height) < limits.shortest:
        said = f"at least {limits.shortest} on a side are needed"
    else:
        return
    raise DataError(f"{name}: {width:,}x{height:,} pixels; {said}")


def _frames(image: Image.Image) -> int:
    return getattr(image, "n_frames", 1) if image.format != "MPO" else 1  # a photograph and its preview


def decode_image(
    source: Path | bytes, name: str, *, upright: bool = False, limits: Limits = LIMITS, remedy: str = SKIP_REMEDY
) -> Decoded:
    """Reads an image file, or its bytes.

    Grey is repeated, alpha is dropped without blending, a palette becomes its colours, and 16 bits
    are scaled to 8.

    Args:
        source: the file.
        name: what error messages call it.
        upright: turn the image as its EXIF orientation says.
        limits: refuse larger images before they are decoded.
        remedy: ends the error message about a broken file.

    Raises:
        DataError: the file is missing, broken, too large, or has values of unknown range.
    """
    with opened(source, name, limits, remedy) as image:
        notes = (FIRST_PAGE,) if _frames(image) > 1 else ()
        decoded = _decoded(image, name, upright)
        return decoded._replace(format=image.format, notes=notes + decoded.notes)


def _decoded(image: Image.Image, name: str, upright: bool) -> Decoded:
    """The pixels of an opened image."""
    mode = image.mode
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise DataError(f"{name}: float values have no known range; save the image with 8 or 16 bits a channel")
    if image.mode in ("RGB", "RGBA"):
        return Decoded(np.asarray(image)[..., :3], None, mode)
    if image.mode not in DEEP_MODES:
        image = image.convert("LA") if image.mode == "La" else image  # Pillow converts it no further
        return Decoded(np.asarray(image.convert("RGB")), None, mode)
    grey = np.asarray(image)
    if image.mode == "I" and (grey.min() < 0 or grey.max() > 65535):
        raise DataError(f"{name}: 32-bit values outside 0..65535; save the image with 8 or 16 bits a channel")
    notes = (DARK,) if 0 < grey.max() < 4096 else ()
    grey = (grey // 257 + (grey % 257 > 128)).astype(np.uint8)  # round(255 * grey / 65535) in 16 bits
    return Decoded(np.repeat(grey[..., None], 3, axis=2), None, mode, notes=notes)


def decode_mask(
    source: Path | bytes, name: str, *, palette_only: bool = False, remedy: str = SKIP_REMEDY
) -> np.ndarray:
    """Reads a mask file, or its bytes, as ids [H, W]: 0 = background; ids may have gaps.

    Palette indices are the ids; they are never converted to colours. Unless `palette_only`, grey
    files of 8 or 16 bits hold ids too, and so does an RGB file whose three channels agree.

    Raises:
        DataError: the file is missing, broken or too large, or holds colours instead of ids.
    """
    with opened(source, name, LIMITS, remedy) as image:
        if _is_lossy(image, source):
            raise DataError(f"{name}: {LOSSY}")
        if palette_only and image.mode != "P":
            raise DataError(
                f"{name}: mode {image.mode} instead of a palette image ('P') whose pixel values are object ids; "
                "take the published file (grey ids: use the layout images/ + masks/)"
            )
        # Pillow keeps the high byte of these, and no longer knows it once the pixels are there.
        deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        ids = np.asarray(image)
        if image.mode in ("P", "L", "1", *DEEP_MODES):
            return ids.astype(np.uint8) if ids.dtype == bool else ids
        if image.mode not in ("RGB", "RGBA"):
            raise DataError(f"{name}: mode {image.mode} holds no object ids; save the mask as a palette or grey PNG")
        if deep:
            raise DataError(f"{name}: 16 bits a channel in colours; save the mask as a grey PNG of 8 or 16 bits")
        if (ids[..., 1:3] != ids[..., :1]).any():
            raise DataError(
                f"{name}: a mask in colours; expected one object id a pixel (palette or grey PNG, 0 = background). "
                "Convert it: np.unique(colours.reshape(-1, 3), axis=0, return_inverse=True), background first"
            )
        return ids[..., 0]


def _is_lossy(image: Image.Image, source: Path | bytes) -> bool:
    """Whether the codec of an opened file changes values, whatever its name."""
    if image.format != "WEBP":
        return image.format in LOSSY_FORMATS or image.info.get("compression") in LOSSY_TIFF
    content, place = source if isinstance(source, bytes) else source.read_bytes(), 12
    while content[place : place + 4] not in (b"VP8L", b"VP8 ", b""):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 24 if content[place : place + 4] == b"ANMF" else 8 + size + size % 2  # a frame has chunks inside
    return content[place : place + 4] != b"VP8L"


def notes_on(decoded: Decoded) -> list[str]:
    """What may have been read otherwise than was meant, of image and mask.

    A mask that was stored with loss, or resized other than with NEAREST, has single pixels of ids
    of their own: 1 to 10 % of its pixels were measured, and at most 0.01 % in true masks.
    """
    if decoded.mask is None:
        return [*decoded.notes]
    around = np.pad(decoded.mask, 1, mode="edge")
    isolated = np.ones(decoded.mask.shape, bool)
    for neighbour in (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]):
        isolated &= neighbour != decoded.mask
    return [*decoded.notes, *([SPECKLED] if isolated.sum() > max(10, isolated.size / 1000) else [])]


# --- checks, crop and resize ----------------------------------------------------------------------


def with_mask(decoded: Decoded, mask: np.ndarray, image_name: str, mask_name: str) -> Decoded:
    """The image with its mask; a DataError names both if they differ in height or width."""
    (height, width), (mask_height, mask_width) = decoded.image.shape[:2], mask.shape
    if (height, width) != (mask_height, mask_width):
        raise DataError(
            f"{mask_name}: {mask_width}x{mask_height} pixels, but its image {image_name} has {width}x{height}; "
            "make the mask again at the image's size (resize with NEAREST)"
        )
    return decoded._replace(mask=mask)


def check_ids(mask: np.ndarray, name: str) -> None:
    """Raises a DataError that names the image unless all object ids are in -1..2**31 - 1."""
    low, high = int(mask.min()), int(mask.max())
    if low < IGNORED or high >= 2**31:
        raise DataError(
            f"{name}: object ids from {low} to {high}; they must be -1 (ignored), 0 (background) or more, below 2**31"
        )


def check_geometry(crop: float, resolution: int | None) -> None:
    """Raises a ConfigError unless 0 < crop <= 1 and resolution is a positive integer or None."""
    if not isinstance(crop, int | float) or not 0 < crop <= 1:
        raise ConfigError(f"crop={crop!r}: expected a fraction of the shorter side, 0 < crop <= 1")
    if resolution is not None and (not isinstance(resolution, int) or resolution < 1):
        raise ConfigError(f"resolution={resolution!r}: expected a whole number of pixels, at least 1")


def square(decoded: Decoded, *, crop: float = 1.0, resolution: int | None) -> Decoded:
    """Cuts out the centred square of side `int(crop * shorter side)`, and resizes it if needed.

    The image is resized with Pillow's BILINEAR, which averages when it shrinks, the mask with
    NEAREST.

    Example:
        >>> image = np.zeros((30, 40, 3), np.uint8)
        >>> square(Decoded(image), crop=0.8, resolution=None).image.shape
        (24, 24, 3)
        >>> square(Decoded(image), resolution=16).image.shape
        (16, 16, 3)
    """
    image, mask = decoded.image, decoded.mask
    height, width = image.shape[:2]
    side = max(1, int(crop * min(width, height)))
    top, left = (height - side) // 2, (width - side) // 2
    window = np.s_[top : top + side, left : left + side]
    image, mask = image[window], None if mask is None else mask[window]
    cut = decoded._replace(image=image, mask=mask, more={name: one[..., *window] for name, one in decoded.more.items()})
    return cut if resolution is None else resized(cut, resolution, resolution)


def resized(decoded: Decoded, height: int, width: int) -> Decoded:
    """The image resized with Pillow's BILINEAR and its masks with NEAREST, if need be."""
    image, size = decoded.image, (width, height)
    if image.shape[:2] == (height, width):
        return decoded

    def resized_ids(ids: np.ndarray) -> np.ndarray:
        if ids.ndim > 2:
            return np.stack([resized_ids(one) for one in ids])
        stored = Image.fromarray(ids if ids.dtype == np.uint8 else ids.astype(np.int32))
        return np.asarray(stored.resize(size, Image.Resampling.NEAREST))

    return decoded._replace(
        image=np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)),
        mask=None if decoded.mask is None else resized_ids(decoded.mask),
        more={name: resized_ids(one) for name, one in decoded.more.items()},
    )


def to_batch(images: np.ndarray, masks: np.ndarray | None, indices: Sequence[int] | np.ndarray) -> Batch:
    """A Batch, in [0, 1], of stacked pixels uint8 [B, ..., H, W, 3] and ids [B, ..., H, W]."""
    # NumPy moves the bytes before torch widens them: the fastest of six ways measured on one core.
    image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3))).to(torch.float32).div_(255)
    batch = Batch(image=image, index=torch.as_tensor(np.asarray(indices, dtype=np.int64)))
    if masks is not None:
        batch["mask"] = torch.from_numpy(masks.astype(np.int64))
    return batch


def to_pixels(batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
    """The reverse of `to_batch`: uint8 [B, ..., H, W, 3], rounded, and ids [B, ..., H, W]."""
    image = batch["image"].detach().cpu().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    mask: Any = batch.get("mask")
    return image.movedim(-3, -1).contiguous().numpy(), None if mask is None else mask.cpu().numpy()


# --- a user's own images --------------------------------------------------------------------------


def read_image(
    source: AnyImage, *, name: str | None = None, upright: bool = True, limits: Limits = LIMITS
) -> np.ndarray:
    """The pixels of any image that a user gives, uint8 [H, W, 3].

    Args:
        source: a tensor [3, H, W] in [0, 1], an array uint8 [H, W, 3], a Pillow image, an image
            file or its bytes.
        name: what error messages call it; by default the file's path, or "image".
        upright: turn files and Pillow images as their EXIF orientation says.
        limits: what is refused, such as `UPLOAD_LIMITS`.

    Raises:
        DataError: the file is missing, broken or beyond the limits.
        ValueError: a tensor or array of another shape, type or range.

    Example:
        >>> read_image(torch.full((3, 4, 6), 0.5))[0, 0].tolist()
        [128, 128, 128]
        >>> read_image(Image.new("L", (6, 4), 9)).shape
        (4, 6, 3)
    """
    if isinstance(source, Tensor):
        if source.ndim != 3 or source.shape[0] != 3:
            raise ValueError(f"image: expected [3, H, W], got {list(source.shape)}")
        if not source.is_floating_point():
            raise ValueError(f"image: expected floats in [0, 1], got {source.dtype}; divide by 255")
        low, high = (float(value) for value in source.detach().float().aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN is in no range
            raise ValueError(
                f"image: expected values in [0, 1], got {low:g} to {high:g}; clamp it, or divide 0..255 by 255"
            )
        return to_pixels({"image": source[None], "index": torch.zeros(1)})[0][0]
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
            raise ValueError(f"image: expected uint8 [H, W, 3], got {source.dtype} {list(source.shape)}")
        return source
    if isinstance(source, Image.Image):
        _check_limits(source, name or "image", limits)
        return _decoded(source, name or "image", upright).image
    if not isinstance(source, bytes):
        source = Path(source)
        if source.is_dir():
            raise DataError(f"{name or source}: a folder; name an image file in it")
        if not source.is_file():
            raise DataError(f"{name or source}: no such image file")
        name = name or str(source)
    decoded = decode_image(source, name or "image", upright=upright, limits=limits, remedy="give another file")
    for note in decoded.notes:
        warnings.warn(f"{name or 'image'}: {note}", stacklevel=2)
    return decoded.image


def prepared(
    image: AnyImage, mask: Any = None, *, resolution: int | Callable[[int, int], tuple[int, int]], crop: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """The image as a model takes it, float32 [3, R, R] in [0, 1], and its mask int64 [R, R].

    Args:
        image: as for `read_image`. It is cropped and resized as data sets do it (`square`). A
            tensor [3, R, R] with a mask [R, R] or none is used unchanged, whatever `crop` is.
        mask: its true mask: integers [H, W] or a mask file, of the image's size; 0 = background.
            With a mask the image is not turned upright, because the mask has no EXIF orientation.
        resolution: side R; or the size (height, width) to which an image of a height and width is
            resized, which is then used whole.
        crop: side of the square as a fraction of the shorter side, above 0, at most 1.

    Raises:
        ConfigError: `crop` is out of range.
        DataError: a file is missing or broken, or image and mask differ in size.
        ValueError: a tensor or array of another shape, type or range.

    Example:
        >>> pixels, ids = np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40), int)
        >>> image, mask = prepared(pixels, ids, resolution=16)
        >>> tuple(image.shape), tuple(mask.shape), mask.dtype
        ((3, 16, 16), (16, 16), torch.int64)
    """
    check_geometry(crop, None if callable(resolution) else resolution)
    decoded = Decoded(read_image(image, upright=mask is None))
    if mask is not None:
        names = [str(one) if isinstance(one, str | Path) else kind for one, kind in ((image, "image"), (mask, "mask"))]
        ids = _ids(mask)
        check_ids(ids, names[1])
        decoded = with_mask(decoded, ids, *names)
    exact = image if isinstance(image, Tensor) and image.shape == (3, resolution, resolution) else None
    if callable(resolution):
        cut = resized(decoded, *resolution(*decoded.image.shape[:2]))
    else:
        cut = decoded if exact is not None else square(decoded, crop=crop, resolution=resolution)
    sample = only(to_batch(cut.image[None], None if cut.mask is None else cut.mask[None], [0]))
    return sample["image"] if exact is None else exact.detach().cpu().float(), sample.get("mask")


def _ids(mask: Any) -> np.ndarray:
    if isinstance(mask, str | Path):
        return decode_mask(Path(mask), str(mask), remedy="give another file")
    ids = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    if ids.ndim != 2 or ids.dtype.kind not in "iub":
        raise ValueError(f"mask: expected whole numbers [H, W], got {ids.dtype} {list(ids.shape)}")
    return ids
