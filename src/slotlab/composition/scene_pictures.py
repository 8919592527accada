"""From a picture to a scene that can be edited, and from its edited slots to a picture again."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.composition.edits import Plan, Scene, changed_slots
from slotlab.data.decoding import SKIP_REMEDY, Picture, decode_image, square, to_batch, to_pixels
from slotlab.data.sample import Batch
from slotlab.errors import ConfigError, DataError
from slotlab.models import Model, SlotAutoencoder, SlotModel
from slotlab.models.evaluating import evaluating
from slotlab.models.frames import RelativeFrame
from slotlab.models.randomness import seeded_generator

SOFT_EDGE = 16  # with keep_outside, the edge between edited and unedited pixels is 1/16 of the side wide


@dataclass(frozen=True, eq=False)
class Edited:
    """A painted edit; all on the CPU.

    Attributes:
        before: [3, R, R] in [0, 1], the unedited slots painted with the same seed.
        image: [3, R, R] in [0, 1], the edited slots painted.
        masks: [J, R, R], sums to 1 over J, of the edited slots.
        plan: the edited slots.
        changed: numbers of the slots that were removed, added or altered.
        region: bool [R, R], the pixels that the changed slots own before the edit or after.
        outside_error: mean squared error between `before` and `image` outside the region, over pixels and channels;
            NaN if nothing is outside.
    """

    before: Tensor
    image: Tensor
    masks: Tensor
    plan: Plan
    changed: frozenset[int]
    region: Tensor
    outside_error: float

    def segmentation(self) -> Tensor:
        """The number of the slot that owns each pixel of `image`, int64 [R, R]."""
        return torch.tensor(self.plan.numbers)[self.masks.argmax(dim=0)]


def read_scene(model: Model, image: Tensor | str | Path, seed: int = 0, crop: float = 1.0) -> Scene:
    """Takes one image apart.

    Args:
        model: with slots; put into evaluation mode for the time.
        image: [3, H, W] in [0, 1], or an image file. As the reader of image folders does it, the centred square of side
            `int(crop * shorter side)` is cut out and resized to the model's resolution, in 8 bits; EXIF orientation
            is ignored. A tensor that has the model's size is taken as it is, whatever `crop`.
        seed: of the initial slots; another seed may number the slots otherwise.
        crop: side of the square as a fraction of the shorter side, above 0, at most 1.

    Raises:
        ConfigError: a model without slots, or a crop out of range.
        DataError: the file is missing or is no image.
        ValueError: a tensor of another shape than [3, H, W].
    """
    model = _with_slots(model)
    picture = _prepared(image, model.resolution, crop)
    with evaluating(model), torch.no_grad():
        output = model(picture[None].to(_device(model)), seeded_generator(seed))
    poses = output.poses[0].cpu() if output.poses is not None and _reads_poses(model) else None
    return Scene(output.slots[0].cpu(), poses, picture, output.masks[0].cpu())


def paint_edit(model: Model, scene: Scene, edit: Plan, seed: int = 0, keep_outside: bool = False) -> Edited:
    """Paints a scene before and after an edit, with the same noise, and measures what changed outside the edit.

    Args:
        model: what the scene was read with; put into evaluation mode for the time.
        scene: as it was read.
        edit: its slots, edited.
        seed: of the noise, for decoders that have any.
        keep_outside: take the pixels outside the region from `before`. The edge is soft: full in the region, and
            fading over 1/16 of the side around it, beyond which both pictures are the same. The masks stay those of
            the edited slots.

    Raises:
        ConfigError: a model without slots, or slots of another width than the model's.
    """
    model = _with_slots(model)
    _check_model(model, scene.slots)
    before, masks_before = _paint(model, scene.slots, scene.poses, seed)
    image, masks = _paint(model, edit.slots, edit.poses, seed)
    changed = changed_slots(scene, edit)
    region = _owned(masks_before, tuple(range(len(scene.slots))), changed) | _owned(masks, edit.numbers, changed)
    if keep_outside:
        image = torch.lerp(before, image, _soft(region))
    squared = (image - before).square().mean(dim=0)[~region]
    error = float(squared.mean()) if len(squared) else math.nan
    return Edited(before, image, masks, edit, changed, region, error)


def _check_model(model: SlotModel, slots: Tensor) -> None:
    width = model.encoder.slot_attention.dim
    if slots.shape[1] != width:
        raise ConfigError(f"slots of width {slots.shape[1]} do not fit a model of width {width}; read them with it")


def _with_slots(model: Model) -> SlotModel:
    if not isinstance(model, SlotModel):
        raise ConfigError(f"a {model.kind} has no slots to edit; take a slot autoencoder or slot diffusion")
    return model


def _reads_poses(model: SlotModel) -> bool:
    return isinstance(model, SlotAutoencoder) and isinstance(model.decoder.position, RelativeFrame)


def _prepared(image: Tensor | str | Path, resolution: int, crop: float) -> Tensor:
    """The image [3, R, R] that the model takes."""
    if not 0 < crop <= 1:
        raise ConfigError(f"crop: must be above 0 and at most 1, not {crop!r}")
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"image: expected [3, H, W], got {list(image.shape)}")
        if list(image.shape[1:]) == [resolution, resolution]:
            return image.detach().cpu().float()
        pixels = to_pixels(Batch(image=image[None], index=torch.zeros(1, dtype=torch.int64)))[0][0]
    else:
        path = Path(image)
        if not path.is_file():
            raise DataError(f"{path}: no such image file")
        try:
            pixels, _ = decode_image(path, str(path))
        except DataError as error:
            raise DataError(str(error).replace(SKIP_REMEDY, "give another file")) from error
    cut = square(Picture(pixels, None, "RGB"), crop=crop, resolution=resolution).image
    return to_batch(cut[None], None, [0])["image"][0]


def _paint(model: SlotModel, slots: Tensor, poses: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
    """The image [3, R, R] and masks [K, R, R] of slots [K, D], on the CPU."""
    device = _device(model)
    with evaluating(model), torch.no_grad():
        images, masks = model.paint(
            slots[None].to(device), None if poses is None else poses[None].to(device), seeded_generator(seed)
        )
    return images[0].cpu(), masks[0].cpu()


def _device(model: SlotModel) -> torch.device:
    return next(model.parameters()).device


def _owned(masks: Tensor, numbers: tuple[int, ...], slots: Collection[int]) -> Tensor:
    """Where a mask of one of `slots` is the largest: bool [R, R]."""
    rows = torch.tensor([row for row, number in enumerate(numbers) if number in slots], dtype=torch.int64)
    return torch.isin(masks.argmax(dim=0), rows)


def _soft(region: Tensor) -> Tensor:
    """A region [R, R] with a soft edge: 1 inside, falling to 0 over 1/16 of the side around it."""
    width = max(1, len(region) // SOFT_EDGE)
    grown = region.float()[None, None]
    weight = grown.clone()
    for _ in range(width):
        grown = F.max_pool2d(grown, 3, stride=1, padding=1)
        weight += grown
    return weight[0, 0] / (width + 1)
