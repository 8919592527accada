"""From an image of any size to the square that a model takes, and from what it finds there back to the image."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from slotlab.errors import ConfigError, nearest

FITS = ("letterbox", "stretch", "crop")
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Fitting:
    """Where the pixels of an image lie in a model's square. Boxes are (left, top, right, bottom).

    Attributes:
        size: (width, height) of the image.
        resolution: side of the square.
        seen: the box of the image that the model sees.
        place: the box of the square where it lies; around it the outermost pixels are repeated.
    """

    size: tuple[int, int]
    resolution: int
    seen: Box
    place: Box

    def into_square(self, pixels: np.ndarray) -> np.ndarray:
        """What the model sees of the image's pixels uint8 [H, W, 3]: uint8 [R, R, 3].

        Resized with Pillow's BILINEAR (which averages when it shrinks), as the readers of data sets do it: of a square
        image the model sees the same.
        """
        left, top, right, bottom = self.seen
        shown = pixels[top:bottom, left:right]
        left, top, right, bottom = self.place
        if shown.shape[:2] != (bottom - top, right - left):
            resized = Image.fromarray(shown).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
            shown = np.asarray(resized)
        around = ((top, self.resolution - bottom), (left, self.resolution - right), (0, 0))
        return np.pad(shown, around, mode="edge")

    def onto_image(self, plane: Tensor) -> Tensor:
        """Values [R, R] of the square at the size of the image, [H, W], resized bilinearly; 0 where not seen."""
        left, top, right, bottom = self.place
        width, height = self.seen[2] - self.seen[0], self.seen[3] - self.seen[1]
        shown = F.interpolate(
            plane[None, None, top:bottom, left:right].float(), (height, width), mode="bilinear", antialias=True
        )[0, 0]
        if (width, height) == self.size:
            return shown
        left, top, right, bottom = self.seen
        return F.pad(shown, (left, self.size[0] - right, top, self.size[1] - bottom))


def fitting(fit: str, size: tuple[int, int], resolution: int) -> Fitting:
    """How an image of `size` (width, height) goes into a square of side `resolution`.

    Args:
        fit: "letterbox" keeps the proportions and shows the whole image, its longer side as long as the square;
            "stretch" resizes it to the square; "crop" shows the centred square of its shorter side.
        size: of the image.
        resolution: of the model.

    Raises:
        ConfigError: no such fit.
    """
    check_fit(fit)
    width, height = size
    seen, place = (0, 0, width, height), (0, 0, resolution, resolution)
    if fit == "crop":
        side = min(size)
        left, top = (width - side) // 2, (height - side) // 2
        seen = (left, top, left + side, top + side)
    elif fit == "letterbox":
        wide, high = (max(1, round(one * resolution / max(size))) for one in size)
        left, top = (resolution - wide) // 2, (resolution - high) // 2
        place = (left, top, left + wide, top + high)
    return Fitting(size, resolution, seen, place)


def check_fit(fit: str) -> None:
    """Raises a ConfigError unless there is such a fit."""
    if fit not in FITS:
        raise ConfigError(f"fit: unknown {fit!r}{nearest(fit, FITS)}")
