"""One image of any size taken apart into its objects, in memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from slotlab.data.images import read_upright, to_batch, upright_pixels
from slotlab.errors import CheckpointError, ConfigError, nearest
from slotlab.figures.grid import laid_over, palette_map
from slotlab.models import Model, SlotModel, with_slots
from slotlab.models.building import evaluating
from slotlab.models.output import chosen_source
from slotlab.models.randomness import seeded_generator

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


NO_SLOT = 255  # of pixels that the model did not see
NO_SLOT_COLOUR = (0, 0, 0)


@dataclass(frozen=True, eq=False)
class Parts:
    """What a model sees in the square it is shown of an image; all on the CPU.

    Attributes:
        slots: [K, D].
        masks: [K, R, R] in [0, 1], sums to 1 over K.
        reconstruction: [3, R, R] in [0, 1].
        poses: [K, 4], where slots have a relative frame.
    """

    slots: Tensor
    masks: Tensor
    reconstruction: Tensor
    poses: Tensor | None


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """An image of W x H pixels taken apart; all on the CPU.

    Attributes:
        masks: float32 [K, H, W] in [0, 1]; sums to 1 over K, or to 0 where the model did not see the pixel.
        segmentation: int64 [H, W], the slot that owns each pixel; 255 where the model did not see it.
        reconstruction: float32 [3, H, W] in [0, 1], black where the model did not see the pixel.
        overlay: the upright image with the slots' colours laid over it.
        slots: [K, D].
        poses: [K, 4], each slot's x, y in [-1, 1] and scales, where slots have a relative frame.
    """

    masks: Tensor
    segmentation: Tensor
    reconstruction: Tensor
    overlay: Image.Image
    slots: Tensor
    poses: Tensor | None


def segment_image(
    model: Model,
    image: Image.Image | str | Path,
    *,
    fit: str = "letterbox",
    mask_source: str | None = None,
    seed: int = 0,
) -> SegmentedImage:
    """Takes one image apart and brings everything to the image's own size.

    Args:
        model: with slots, from `slotlab.load`; put into evaluation mode for the time.
        image: of any size and mode, or the path of an image file. It is turned upright as its EXIF orientation says.
        fit: how it becomes the square that the model takes: "letterbox", "stretch" or "crop", see
            `slotlab.segmenting.image`.
        mask_source: "masks" (of the decoder; slot diffusion's are cross-attention), "attention" (of slot attention) or
            "posterior" (the decoder's, corrected by the pixel's colour); by default the model's finest: attention for
            slot diffusion, for others the posterior where the model has it.
        seed: of the initial slots, and of the noise of samples.

    Raises:
        CheckpointError: a model without slots, or whose slots are not finite.
        ConfigError: an unknown fit or mask source.
        DataError: the file cannot be read, or has more than 2**26 pixels.
    """
    slot_model = with_slots(model)
    source = checked_source(slot_model, mask_source, fit)
    pixels = upright_pixels(image, "image") if isinstance(image, Image.Image) else read_upright(Path(image))
    fitted = fitting(fit, (pixels.shape[1], pixels.shape[0]), model.resolution)
    (parts,) = take_apart(slot_model, fitted.into_square(pixels)[None], source, seed)
    masks = torch.stack([fitted.onto_image(mask) for mask in parts.masks])
    owners = owners_of(masks)
    return SegmentedImage(
        masks=masks,
        segmentation=torch.from_numpy(owners).long(),
        reconstruction=torch.stack([fitted.onto_image(plane) for plane in parts.reconstruction]),
        overlay=overlay_picture(pixels, owners),
        slots=parts.slots,
        poses=parts.poses,
    )


@torch.no_grad()
def take_apart(model: SlotModel, squares: np.ndarray, mask_source: str, seed: int) -> list[Parts]:
    """What the model sees in each of the squares uint8 [B, R, R, 3].

    What is random in an image depends on `seed` alone: neither on its place in the batch nor on the other images.
    """
    images = to_batch(squares, None, range(len(squares)))["image"].to(next(model.parameters()).device)
    with evaluating(model):
        output = model(images, [seeded_generator(seed) for _ in images])
    if not bool(torch.isfinite(output.slots).all()):
        raise CheckpointError("the model's slots are not finite; its training diverged, take an earlier checkpoint")
    masks = output.soft_masks(mask_source)
    poses = [None] * len(images) if output.poses is None else output.poses.cpu()
    painted = output.reconstruction.clamp(0, 1).cpu()
    return [Parts(*one) for one in zip(output.slots.cpu(), masks.float().cpu(), painted, poses, strict=True)]


def checked_source(model: SlotModel, mask_source: str | None, fit: str) -> str:
    """The source of masks to use; ConfigError for an unknown one, or an unknown fit."""
    check_fit(fit)
    if fit == "crop" and model.slots > NO_SLOT:
        raise ConfigError(f"fit: crop leaves pixels without a slot, and {model.slots} slots leave no number for them")
    return chosen_source(mask_source, model.describe()["mask_sources"], model.finer_masks)


def owners_of(masks: Iterable[Tensor]) -> np.ndarray:
    """The slot that owns each pixel, uint8 [H, W], by masks [H, W] that come one by one; 255 where all are 0.

    Faster than `argmax` over the first dimension on a CPU, and only one mask need be in memory.
    """
    owners = best = None
    for slot, mask in enumerate(masks):
        if owners is None or best is None:
            owners, best = torch.full(mask.shape, NO_SLOT, dtype=torch.uint8), torch.zeros_like(mask)
        owners.masked_fill_(mask > best, slot)
        best = torch.maximum(best, mask)
    assert owners is not None
    return owners.numpy()


def palette_picture(owners: np.ndarray) -> Image.Image:
    """Numbers of slots uint8 [H, W] as a palette image; 255, where the model did not see the pixel, is black."""
    return palette_map(owners, {NO_SLOT: NO_SLOT_COLOUR})


def overlay_picture(pixels: np.ndarray, owners: np.ndarray) -> Image.Image:
    """The colours of the slots `owners` uint8 [H, W] over an image's pixels uint8 [H, W, 3]."""
    return laid_over(Image.fromarray(pixels), owners, palette_picture(owners).convert("RGB"))
