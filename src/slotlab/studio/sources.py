"""Where a picture comes from: rendered by the studio, with ground truth, or given by the user."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slotlab.data.decoding import Picture, square, to_batch
from slotlab.scenes import render

SCENES = 10_000  # scenes 0 to 9,999 are those that no preset trains on


@dataclass(frozen=True)
class RenderedScene:
    """A scene of the renderer, known by its numbers."""

    variant: str = "plain"
    objects: int = 5
    seed: int = 3

    @property
    def title(self) -> str:
        """What the page calls it."""
        return f"{self.variant} scene {self.seed}, {self.objects} objects"

    def at(self, resolution: int) -> tuple[Tensor, Tensor | None]:
        """The image [3, R, R] in [0, 1] and its true mask, int64 [R, R]."""
        scene = render(
            [self.seed],
            variant=self.variant,
            resolution=resolution,
            min_objects=self.objects,
            max_objects=self.objects,
            supersample=1 if self.variant == "plain" else 2,  # a fine texture needs them
        )
        return scene.image[0], scene.mask[0]


@dataclass(frozen=True, eq=False)
class GivenPicture:
    """A picture that the user gave: uint8 [H, W, 3]; only its centred square is looked at."""

    pixels: np.ndarray
    title: str = "your picture"

    def at(self, resolution: int) -> tuple[Tensor, Tensor | None]:
        """The image [3, R, R] in [0, 1]; the true mask is not known."""
        cut = square(Picture(self.pixels, None, "RGB"), crop=1.0, resolution=resolution)
        return to_batch(np.ascontiguousarray(cut.image)[None], None, [0])["image"][0], None

    def shrunk(self, longest: int = 1024) -> "GivenPicture":
        """The same, no larger than models need: a session keeps its picture in memory."""
        side = min(self.pixels.shape[:2])
        cut = square(Picture(self.pixels, None, "RGB"), crop=1.0, resolution=min(side, longest))
        return GivenPicture(np.ascontiguousarray(cut.image), self.title)


Source = RenderedScene | GivenPicture


def thumbnail(source: Source, side: int = 96) -> Tensor:
    """A small picture [3, side, side] of a source."""
    return torch.as_tensor(source.at(side)[0])
