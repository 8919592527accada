"""One picture as a model sees it: what the studio shows, a figure for notebooks, and its scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from slotlab.data.given import AnyImage, prepared
from slotlab.metrics.functional import (
    adjusted_rand_index,
    mean_best_overlap,
    mean_iou,
    peak_signal_to_noise_ratio,
    squared_error,
)
from slotlab.models import Model, SlotOutput, with_slots
from slotlab.models.evaluating import evaluating
from slotlab.models.randomness import seeded_generator
from slotlab.reporting.figures import attention_grid, reconstruction_grid, slot_grid

DEFAULT_MODEL = "scenes-64"


@dataclass(frozen=True, eq=False)
class Look:
    """What a model with slots makes of one picture; all on the CPU.

    Attributes:
        image: [3, R, R] in [0, 1], as the model sees it.
        output: of a batch with this image alone.
        mask: its true mask, int64 [R, R], 0 = background; None where nobody knows.
        finer: which source of masks fits objects best, of `slotlab.models.output.MASK_SOURCES`.
    """

    image: Tensor
    output: SlotOutput
    mask: Tensor | None = None
    finer: str = "masks"

    def owners(self) -> Tensor:
        """The slot that owns each pixel by the finest masks, int64 [R, R]."""
        return self.output.segmentation(self.finer)[0]

    def segmentations(self) -> dict[str, Tensor]:
        """The slot that owns each pixel, int64 [R, R], by the title of each source of masks."""
        return {title: owners[0] for title, owners in self.output.segmentations().items()}

    def scores(self) -> dict[str, dict[str, float]]:
        """ARI, FG-ARI, mIoU ("clevrtex") and mBO of each kind of masks; empty without a true mask."""
        if self.mask is None:
            return {}
        true, found = self.mask[None], {}
        for name, segmentation in self.segmentations().items():
            predicted = segmentation[None]
            found[name] = {
                "ARI": float(adjusted_rand_index(predicted, true)),
                "FG-ARI": float(adjusted_rand_index(predicted, true, foreground_only=True)),
                "mIoU": float(mean_iou(predicted, true)),
                "mBO": float(mean_best_overlap(predicted, true)),
            }
        return found

    def errors(self) -> dict[str, float]:
        """How far the reconstruction is from the picture: MSE as sum and as mean, and PSNR in dB."""
        painted, image = self.output.reconstruction.clamp(0, 1), self.image[None]
        return {
            "MSE (sum)": float(squared_error(painted, image)),
            "MSE (mean)": float(squared_error(painted, image, "mean")),
            "PSNR (dB)": float(peak_signal_to_noise_ratio(painted, image)),
        }

    def figure(self, *, cell: int = 128) -> Image.Image:
        """Picture, reconstruction, error and segmentations with scores; the slots; and attention by iteration.

        Args:
            cell: side of a picture in pixels.
        """
        mask = None if self.mask is None else self.mask[None]
        return _stacked(
            reconstruction_grid(self.image[None], self.output, mask, cell=cell),
            slot_grid(self.image, self.output, mask=self.mask, cell=cell),
            attention_grid(self.image, self.output, mask=self.mask, cell=cell),
        )


@torch.inference_mode()
def look(model: Model, image: AnyImage, mask: Any = None, *, seed: int = 0, crop: float = 1.0) -> Look:
    """Takes one picture apart; the slots have the numbers of `slotlab.composition.scene_pictures.read_scene`.

    Args:
        model: with slots; put into evaluation mode for the time.
        image: a file, a tensor [3, H, W] in [0, 1], pixels, or a Pillow picture; see `slotlab.data.given.prepared`.
        mask: the true mask, integers [H, W] or a mask file, of the same size; 0 = background.
        seed: of the initial slots, and of the noise of samples.
        crop: side of the square as a fraction of the shorter side, above 0, at most 1.

    Raises:
        CheckpointError: a model without slots.
        ConfigError: a crop out of range.
        DataError: a file is missing or broken, or image and mask differ in size.
        ValueError: an array of another shape.
    """
    model = with_slots(model)
    picture, true = prepared(image, mask, resolution=model.resolution, crop=crop)
    with evaluating(model):
        output = model(picture[None].to(next(model.parameters()).device), seeded_generator(seed))
    return Look(picture, output.cpu(), true, model.finer_masks)


def show(
    image: AnyImage,
    model: Model | str | Path = DEFAULT_MODEL,
    mask: Any = None,
    *,
    seed: int = 0,
    crop: float = 1.0,
    cell: int = 128,
) -> Image.Image:
    """A figure of one picture as a model sees it: the headless form of the studio's Look view.

    In a notebook the figure shows itself: `slotlab.show("photo.png", model="runs/first")`.

    Args:
        image: as for `look`.
        model: a model with slots, or what `slotlab.load` takes.
        mask: the true mask, if known: then colours are matched to it, and the scores of this one picture are shown.
        seed: of the initial slots, and of the noise of samples.
        crop: side of the centred square as a fraction of the shorter side.
        cell: side of a picture in pixels.

    Raises:
        CheckpointError: there is no such model.
        ConfigError, DataError, ValueError: as `look`.
    """
    if isinstance(model, (str, Path)):
        from slotlab.hub import load

        model = load(model)
    return look(model, image, mask, seed=seed, crop=crop).figure(cell=cell)


def _stacked(*pictures: Image.Image) -> Image.Image:
    """Pictures one below the other, on white."""
    page = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), "white")
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height
    return page
