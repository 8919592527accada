"""Segments one image of any size, in memory; says whether a model knows images like it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from slotlab.checkpoints import load
from slotlab.composition.library import SLOTS_FILE
from slotlab.data.images import AnyImage, read_image, to_batch
from slotlab.errors import CheckpointError, ConfigError, DataError, nearest
from slotlab.figures.grid import laid_over, palette_map
from slotlab.files import read_json
from slotlab.models import FeatureGrouping, FeatureOutput, Model, SlotModel, merge_slots, with_slots
from slotlab.models.building import evaluating
from slotlab.models.output import chosen_source
from slotlab.models.sampling import seeded_generator
from slotlab.released import LIBRARY_FOLDER, WEIGHTS

FITS = ("letterbox", "stretch", "crop")
WHOLE = "whole"  # of models for images of any size
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Fitting:
    """How an image fits into what a model takes. Boxes are (left, top, right, bottom)."""

    size: tuple[int, int]  # (width, height) of the image
    shape: tuple[int, int]  # (height, width) of what the model takes: a square, but for models of any size
    seen: Box  # of the image: what the model sees
    place: Box  # of that in `shape`; around it the outermost pixels are repeated

    def shown(self, pixels: np.ndarray) -> np.ndarray:
        """What the model sees, uint8 [*shape, 3], of an image's pixels uint8 [H, W, 3].

        Resized with Pillow's BILINEAR, as data sets are read: a square image gives the same pixels.
        """
        left, top, right, bottom = self.seen
        shown = pixels[top:bottom, left:right]
        left, top, right, bottom = self.place
        resized = Image.fromarray(shown).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        around = ((top, self.shape[0] - bottom), (left, self.shape[1] - right), (0, 0))
        return np.pad(np.asarray(resized), around, mode="edge")

    def onto_image(self, plane: Tensor) -> Tensor:
        """Values [*shape] resized to the image's [H, W]; 0 where it was not seen."""
        left, top, right, bottom = self.place
        width, height = self.seen[2] - self.seen[0], self.seen[3] - self.seen[1]
        placed = plane[None, None, top:bottom, left:right].float()
        shown = F.interpolate(placed, (height, width), mode="bilinear", antialias=True)[0, 0]
        left, top, right, bottom = self.seen
        return F.pad(shown, (left, self.size[0] - right, top, self.size[1] - bottom))


def fitting(fit: str, size: tuple[int, int], resolution: int) -> Fitting:
    """How an image goes into a square.

    Args:
        fit: "letterbox" shows the whole image with its proportions, its longer side as long as the
            square; "stretch" resizes it to the square; "crop" shows the centred square of its
            shorter side.
        size: (width, height) of the image.
        resolution: side of the square.

    Raises:
        ConfigError: an unknown fit.

    Example:
        >>> fitted = fitting("letterbox", (200, 100), 64)
        >>> fitted.place
        (0, 16, 64, 48)
        >>> fitted.onto_image(torch.ones(64, 64)).shape
        torch.Size([100, 200])
    """
    if fit not in FITS:
        raise ConfigError(f"fit: unknown {fit!r}{nearest(fit, FITS)}")
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
    return Fitting(size, (resolution, resolution), seen, place)


def fitting_of(model: SlotModel, fit: str | None, size: tuple[int, int]) -> Fitting:
    """How an image of `size` (width, height) goes into a model; of squares by "letterbox".

    A model for images of any size sees the whole image; ConfigError for another fit.
    """
    image_model = getattr(model, "image_model", model)
    if not isinstance(image_model, FeatureGrouping):
        return fitting(fit or FITS[0], size, model.resolution)
    if fit not in (None, WHOLE, *FITS):
        raise ConfigError(f"fit: unknown {fit!r}{nearest(fit, FITS)}")
    if fit not in (None, WHOLE):
        raise ConfigError(f"fit: {fit} makes squares, and this model takes the whole image; leave it out")
    height, width = image_model.working_size(size[1], size[0])
    return Fitting(size, (height, width), (0, 0, *size), (0, 0, width, height))


NO_SLOT = 255  # of pixels that the model did not see


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """An image of W x H pixels and its objects; all on the CPU."""

    masks: Tensor  # float32 [K, H, W] in [0, 1]; sums to 1 over K, or to 0 where the model saw nothing
    segmentation: Tensor  # int64 [H, W], the slot that owns each pixel; 255 where the model saw nothing
    reconstruction: Tensor | None  # float32 [3, H, W] in [0, 1], black where the model saw nothing, if it paints
    overlay: Image.Image  # the upright image with the slots' colours laid over it
    slots: Tensor  # [K, D]


def segment_image(
    model: Model | str | Path,
    image: AnyImage,
    *,
    fit: str | None = None,
    mask_source: str | None = None,
    seed: int = 0,
    merge: bool = False,
) -> SegmentedImage:
    """Segments one image into objects, at the image's own size.

    Args:
        model: any model with slots, or the name or folder of one, as `slotlab.load` takes it.
        image: a file or its bytes, a PIL image, or an array or tensor as `slotlab.show` takes it,
            of any size. It is turned upright by its EXIF orientation.
        fit: how it becomes a square: "letterbox" (the default), "stretch" or "crop", see `fitting`.
            `photos` sees the whole image and takes none.
        mask_source: "masks" (of the decoder; cross-attention for slot diffusion), "attention" (of
            slot attention) or "posterior"; by default the model's finest, `model.finer_masks`.
        seed: of the initial slots, and of the noise of samples.
        merge: make one slot of those that hold one object, and empty those that hold nothing
            (`slotlab.models.merge_slots`).

    Raises:
        CheckpointError: the model cannot be loaded, has no slots, or its slots are not finite.
        ConfigError: an unknown fit or mask source.
        DataError: the file cannot be read, or has more than 2**26 pixels.

    Example:
        >>> import slotlab
        >>> photo = Image.new("RGB", (90, 60), "red")
        >>> found = slotlab.segment_image("scenes-64", photo)
        >>> found.masks.shape, found.segmentation.shape
        (torch.Size([7, 60, 90]), torch.Size([60, 90]))
    """
    slot_model = with_slots(model if isinstance(model, torch.nn.Module) else load(model))
    source, fit = checked_options(slot_model, mask_source, fit)
    pixels = read_image(image)
    fitted = fitting_of(slot_model, fit, (pixels.shape[1], pixels.shape[0]))
    ((slots, soft, painted),) = take_apart(slot_model, [fitted.shown(pixels)], source, seed, merge)
    masks = torch.stack([fitted.onto_image(mask) for mask in soft])
    owners = owners_of(masks)
    reconstruction = None if painted is None else torch.stack([fitted.onto_image(plane) for plane in painted])
    return SegmentedImage(masks, torch.from_numpy(owners).long(), reconstruction, drawn(pixels, owners)[1], slots)


@torch.no_grad()
def take_apart(
    model: SlotModel, shown: Sequence[np.ndarray], mask_source: str, seed: int, merge: bool = False
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Slots [K, D], masks [K, H, W], any reconstruction [3, H, W] in [0, 1], of each image.

    The images are uint8 [H, W, 3]; what is random in one depends on `seed` alone. With `merge`,
    slots are merged and emptied by those masks (`slotlab.models.merge_slots`).
    """
    if len({one.shape for one in shown}) > 1:
        return [parts for one in shown for parts in take_apart(model, [one], mask_source, seed, merge)]
    images = to_batch(np.stack(shown), None, range(len(shown)))["image"].to(next(model.parameters()).device)
    with evaluating(model):
        output = model(images, [seeded_generator(seed) for _ in images])
    if not bool(torch.isfinite(output.slots).all()):
        raise CheckpointError("the model's slots are not finite; its training diverged, take an earlier checkpoint")
    if merge:
        output = merge_slots(output, mask_source)
    masks, painted = output.soft_masks(mask_source).float().cpu(), output.reconstruction.clamp(0, 1).cpu()
    paints = not isinstance(output, FeatureOutput)
    return list(zip(output.slots.cpu(), masks, painted if paints else [None] * len(masks), strict=True))


def checked_options(model: SlotModel, mask_source: str | None, fit: str | None) -> tuple[str, str]:
    """The source of masks and the fit to use; ConfigError for an unknown one."""
    fitting_of(model, fit, (1, 1))
    if fit == "crop" and model.slots > NO_SLOT:
        raise ConfigError(f"fit: crop leaves pixels without a slot, and {model.slots} slots leave no number for them")
    source = chosen_source(mask_source, model.describe()["mask_sources"], model.finer_masks)
    sees_all = isinstance(getattr(model, "image_model", model), FeatureGrouping)
    return source, fit or (WHOLE if sees_all else FITS[0])


def owners_of(masks: Iterable[Tensor]) -> np.ndarray:
    """The slot that owns each pixel, uint8 [H, W]; 255 where all masks [H, W] are 0.

    Takes the masks one by one, so that only one need be in memory; faster than `argmax` on a CPU.
    """
    owners, best = torch.tensor(NO_SLOT, dtype=torch.uint8), torch.tensor(0.0)
    for slot, mask in enumerate(masks):
        owners = torch.where(mask > best, slot, owners)
        best = torch.maximum(best, mask)
    return owners.numpy()


def drawn(pixels: np.ndarray, owners: np.ndarray) -> tuple[Image.Image, Image.Image]:
    """The slots `owners` uint8 [H, W] as a palette image (255 is black), and over the pixels."""
    segmentation = palette_map(owners, {NO_SLOT: (0, 0, 0)})
    return segmentation, laid_over(Image.fromarray(pixels), owners, segmentation.convert("RGB"))


TABLE_FILE = "usual.json"  # beside the bundled models; benchmarks/usual.py makes it


@dataclass(frozen=True)
class Usual:
    """What 99 % of a model's own test images stay below."""

    error: float  # mean squared error of the reconstruction, in [0, 1] colours
    distance: float = float("inf")  # of slots from the nearest of `slots`, mean over an image
    slots: Tensor | None = None  # [N, D] of the model's concept library

    def covers(self, error: float, slots: Tensor) -> bool:
        """Whether an image with this error and these slots [K, D] is a usual one."""
        near = self.slots is None or float(slot_distance(slots[None], self.slots)) <= self.distance
        return error <= self.error and near


def slot_distance(slots: Tensor, known: Tensor) -> Tensor:
    """Distance of slots [B, K, D] from the nearest of `known` [N, D], mean over slots: [B].

    Example:
        >>> slot_distance(torch.tensor([[[0.0, 0.0], [0.0, 3.0]]]), torch.tensor([[0.0, 1.0]]))
        tensor([1.5000])
    """
    return torch.cdist(slots.float(), known.float()).amin(2).mean(1)


def usual_of(folder: Path) -> Usual | None:
    """What is usual for the model in a folder; None if that is not known.

    Bundled models have a table. Another model has what `slotlab evaluate` wrote to `metrics.json`.
    """
    if folder.parent == WEIGHTS:
        known = json.loads((WEIGHTS / TABLE_FILE).read_text(encoding="utf-8")).get(folder.name)
        if known is None:
            return None
        return Usual(known["error"], known["distance"], library_slots(folder))
    try:
        error = read_json(folder / "metrics.json", "evaluate the model", DataError).get("usual_error")
    except DataError:
        return None
    return Usual(error) if isinstance(error, int | float) else None


def library_slots(folder: Path) -> Tensor:
    """The slots [N, D] in the library of a bundled model."""
    return load_file(folder / LIBRARY_FOLDER / SLOTS_FILE)["slots"].float()
