"""Arrays of images and masks in the layouts that others use: channels first, floats, layers of objects."""

from collections.abc import Sequence

import numpy as np

from slotlab.errors import DataError

CHANNELS = (1, 3, 4)
ROUNDING = 1e-3  # how far outside [0, 1] floats may be


def pixels_of(image: np.ndarray, name: str) -> np.ndarray:
    """The pixels uint8 [H, W, 3] of an image as it is stored.

    Args:
        image: [H, W], [H, W, C] or [C, H, W] of 1, 3 or 4 channels, of which the fourth is dropped;
            uint8, or floats in [0, 1].
        name: what error messages call it.

    Raises:
        DataError: another shape, type or range.

    Example:
        >>> pixels_of(np.full((3, 4, 6), 0.5), "image")[0, 0].tolist()
        [128, 128, 128]
    """
    shape = image.shape
    if image.ndim == 2:
        image = image[..., None]
    elif image.ndim == 3 and shape[-1] not in CHANNELS and shape[0] in CHANNELS:
        image = np.moveaxis(image, 0, -1)
    if image.ndim != 3 or image.shape[-1] not in CHANNELS or 0 in shape:
        raise DataError(f"{name}: an image of shape {list(shape)}; expected [H, W, 3], [3, H, W] or [H, W]")
    image = image[..., :3]
    if np.issubdtype(image.dtype, np.floating):
        low, high = float(image.min()), float(image.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN is in no range
            raise DataError(f"{name}: floats from {low:g} to {high:g}; expected [0, 1]: divide 0..255 by 255")
        image = np.round(image.clip(0, 1) * 255).astype(np.uint8)
    if image.dtype != np.uint8:
        raise DataError(f"{name}: values of type {image.dtype}; expected uint8, or floats in [0, 1]")
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def ids_of(mask: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """The object ids [H, W] of a mask as it is stored.

    Args:
        mask: ids [H, W], or a layer per object [K, H, W] or [H, W, K], the background first; an
            axis of length 1 may be added. Layers hold one value inside and 0 outside, or shares.
        size: (H, W) of the image.
        name: what error messages call it.

    Raises:
        DataError: another shape, values that are no ids, or pixels that are in no layer.

    Example:
        >>> ids_of(np.eye(3)[:, None] * 255, (1, 3), "mask").tolist()
        [[0, 1, 2]]
    """
    shape = mask.shape
    if mask.ndim > 2 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    if mask.ndim > 2 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim == 3 and size in (mask.shape[1:], mask.shape[:2]):
        layers = mask if mask.shape[1:] == size else np.moveaxis(mask, -1, 0)
        if not layers.any(axis=0).all():
            raise DataError(f"{name}: pixels in none of {len(layers)} layers; the first has to be the background")
        return layers.argmax(axis=0)
    if mask.shape != size:
        raise DataError(f"{name}: a mask of shape {list(shape)}, its image has {size[0]}x{size[1]} pixels")
    if mask.dtype == bool:
        return mask.astype(np.uint8)
    if not np.issubdtype(mask.dtype, np.integer):
        if not np.issubdtype(mask.dtype, np.floating) or (mask != np.round(mask)).any():
            raise DataError(f"{name}: a mask of type {mask.dtype}; expected whole numbers, or a layer per object")
        return mask.astype(np.int64)
    return mask


def stacked(objects: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The ids int32 [H, W] of objects given as bool masks [H, W]: 1, 2, ... in their order.

    Pixels in none are 0; where objects overlap, the smaller one is on top.

    Example:
        >>> stacked([np.array([[True, False, False]]), np.array([[True, True, False]])], (1, 3)).tolist()
        [[1, 2, 0]]
    """
    ids = np.zeros(size, np.int32)
    for number in sorted(range(len(objects)), key=lambda number: -objects[number].sum()):
        ids[objects[number]] = number + 1
    return ids
