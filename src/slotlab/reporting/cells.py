"""The pictures inside a grid, each from tensors of one image: photographs, label maps, cut-outs and heat maps."""

from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slotlab.reporting.colours import Colours, palette_colour

CELL = 128
CHECKER = (250, 226)
OUTLINE = (255, 255, 255)
DIMMING = 0.45


def cell_size(picture: Tensor, cell: int = CELL) -> tuple[int, int]:
    """(width, height) in pixels at which an image or label map [..., H, W] has a longer side of `cell`."""
    height, width = picture.shape[-2:]
    scale = cell / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def photograph(image: Tensor, size: tuple[int, int]) -> Image.Image:
    """An image [3, H, W] in [0, 1] (clamped; NaN is black) as RGB, smoothly resized to `size` (width, height)."""
    return _resized(_levels(image), size, Image.Resampling.BICUBIC)


def label_map(segmentation: Tensor, colours: Colours, size: tuple[int, int]) -> Image.Image:
    """A segmentation [H, W] in flat colours with hard edges; every pixel shows, so no lines are drawn between them."""
    return Image.fromarray(_painted(_enlarged(segmentation, size), colours))


def overlay(
    image: Tensor, segmentation: Tensor, colours: Colours, size: tuple[int, int], opacity: float = 0.5
) -> Image.Image:
    """A segmentation [H, W] blended over its image [3, H, W], with thin outlines; `opacity` in [0, 1] of the colour."""
    labels = _enlarged(segmentation, size)
    return laid_over(photograph(image, size), labels, Image.fromarray(_painted(labels, colours)), opacity)


def laid_over(photo: Image.Image, labels: np.ndarray, painted: Image.Image, opacity: float = 0.5) -> Image.Image:
    """The painted `labels` [h, w] blended over a photograph of the same size, with thin outlines."""
    blended = np.array(Image.blend(photo, painted, opacity))
    blended[_edges(labels)] = OUTLINE
    return Image.fromarray(blended)


def palette_map(labels: np.ndarray, colours: Colours | None = None) -> Image.Image:
    """Labels uint8 [h, w] as a palette image: its values are the labels, its colours those of `palette_colour`.

    `colours` gives some labels another colour.
    """
    picture = Image.fromarray(labels)
    levels = [level for label in range(256) for level in (colours or {}).get(label, palette_colour(label))]
    picture.putpalette(levels)
    return picture


def cut_out(image: Tensor, mask: Tensor, size: tuple[int, int], *, soft: bool = True) -> Image.Image:
    """An image [3, H, W] seen through a mask [H, W] in [0, 1], over a light checker that stands for "nothing here".

    Args:
        image: the picture.
        mask: how much of it to show at each pixel.
        size: (width, height) of the result.
        soft: resize the mask smoothly; otherwise keep the edges of its pixels.
    """
    method = Image.Resampling.BILINEAR if soft else Image.Resampling.NEAREST
    return Image.composite(photograph(image, size), _checker(size), _resized(_levels(mask), size, method))


def heat_map(values: Tensor, size: tuple[int, int], top: float = 1.0) -> Image.Image:
    """Values [H, W] from 0 (black) to `top` and above (bright yellow) on the "inferno" colour scale."""
    return Image.fromarray(inferno()[np.asarray(_resized(_levels(values, top), size, Image.Resampling.NEAREST))])


def glow(image: Tensor, values: Tensor, size: tuple[int, int], top: float = 1.0) -> Image.Image:
    """Values [H, W] from 0 to `top` as heat over the dimmed, grey image [3, H, W], covering it where high."""
    levels = np.asarray(_resized(_levels(values, top), size, Image.Resampling.BICUBIC))
    dimmed = DIMMING * np.asarray(photograph(image, size).convert("L"), dtype=np.float32)[..., None]
    strength = np.minimum(1.0, 1.6 * levels[..., None] / 255)
    return Image.fromarray(((1 - strength) * dimmed + strength * inferno()[levels]).astype(np.uint8))


@lru_cache(maxsize=1)
def inferno() -> np.ndarray:
    """The colour scale of heat maps: uint8 [256, 3], dark to bright."""
    from matplotlib import colormaps

    return (255 * np.asarray(colormaps["inferno"](np.arange(256)))[:, :3]).round().astype(np.uint8)


def _levels(values: Tensor, top: float = 1.0) -> Image.Image:
    """Values [H, W] or [3, H, W] as a grey or RGB picture: 0 to `top` becomes 0 to 255; NaN is 0."""
    numbers = np.nan_to_num(values.detach().float().cpu().numpy(), nan=0.0)
    levels = np.rint(255 * (numbers / top).clip(0, 1)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)) if levels.ndim == 3 else levels)


def _resized(image: Image.Image, size: tuple[int, int], method: Image.Resampling) -> Image.Image:
    if image.size == size:
        return image
    shrinking = size[0] < image.width
    return image.resize(size, Image.Resampling.LANCZOS if shrinking and method != Image.Resampling.NEAREST else method)


def _enlarged(segmentation: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Labels int64 [h, w] at (w, h) = `size`: each pixel takes its nearest label."""
    height, width = segmentation.shape
    rows = (torch.arange(size[1]) * 2 + 1) * height // (2 * size[1])
    columns = (torch.arange(size[0]) * 2 + 1) * width // (2 * size[0])
    return segmentation.detach().cpu()[rows][:, columns].numpy()


def _painted(labels: np.ndarray, colours: Colours) -> np.ndarray:
    present, places = np.unique(labels, return_inverse=True)
    return np.array([colours[int(label)] for label in present], dtype=np.uint8)[places.reshape(labels.shape)]


def _edges(labels: np.ndarray) -> np.ndarray:
    """Where a label differs from the one to its right or below: one pixel wide, bool [h, w]."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def _checker(size: tuple[int, int], square: int = 8) -> Image.Image:
    rows, columns = np.indices((size[1], size[0])) // square
    levels = np.where((rows + columns) % 2 == 0, *CHECKER).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")
