"""From a picture to a scene that can be edited, and from its edited slots to a picture again."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.composition.backgrounds import background_slot, border_share
from slotlab.composition.edits import Plan, Scene, changed_slots
from slotlab.composition.seeing import see
from slotlab.data.given import AnyImage, prepared
from slotlab.errors import ConfigError
from slotlab.models import Model, SlotAutoencoder, SlotDiffusion, SlotModel, with_slots
from slotlab.models.evaluating import evaluating
from slotlab.models.frames import RelativeFrame
from slotlab.models.randomness import seeded_generator
from slotlab.models.sampling import OnClean, SamplingSettings

LEAST_BORDER = 0.5  # of the outermost rows and columns, that the one slot for the background owns
SMALLEST_SHARE = 1e-6  # of a pixel, to divide by
SOFT_EDGE = 16  # with keep_outside, the edge between edited and unedited pixels is 1/16 of the side wide


@dataclass(frozen=True, eq=False)
class Edited:
    """A painted edit; all on the CPU.

    Attributes:
        before: [3, R, R] in [0, 1], the unedited slots painted with the same seed.
        image: [3, R, R] in [0, 1], the edited slots painted.
        masks: [J, R, R], sums to 1 over J, by which the edited slots were painted.
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


def read_scene(model: Model, image: AnyImage, seed: int = 0, crop: float = 1.0) -> Scene:
    """Takes one image apart.

    Args:
        model: with slots; put into evaluation mode for the time.
        image: a file, a tensor [3, H, W] in [0, 1], pixels, or a Pillow picture; see `slotlab.data.given.prepared`.
        seed: of the initial slots; another seed may number the slots otherwise.
        crop: side of the square as a fraction of the shorter side, above 0, at most 1.

    Raises:
        CheckpointError: a model without slots.
        ConfigError: a crop out of range.
        DataError: the file is missing or is no image.
        ValueError: a tensor or array of another shape.
    """
    model = with_slots(model)
    picture, _ = prepared(image, resolution=model.resolution, crop=crop)
    with evaluating(model):
        seen = see(model, picture[None], [seeded_generator(seed)])
    poses = seen.poses[0].cpu() if seen.poses is not None and reads_poses(model) else None
    return Scene(seen.slots[0].cpu(), poses, picture, seen.masks[0].float().cpu())


def paint_edit(
    model: Model,
    scene: Scene,
    edit: Plan,
    seed: int = 0,
    keep_outside: bool = False,
    *,
    sampling: SamplingSettings | None = None,
    on_image: OnClean | None = None,
) -> Edited:
    """Paints a scene before and after an edit, with the same noise, and measures what changed outside the edit.

    Where a slot has left pixels, a slot autoencoder paints the scene's background, if one slot is the background: it
    owns more than half of the outermost rows and columns. What another object had behind them stays cut off. Slot
    diffusion paints scenes from which a slot was removed without the slots that own no pixel of the scene, neither as
    it was read nor as it is painted: some may resemble the object that has gone. Their masks are then 0.

    Args:
        model: what the scene was read with; put into evaluation mode for the time.
        scene: as it was read.
        edit: its slots, edited.
        seed: of the noise, for decoders that have any.
        keep_outside: take the pixels outside the region from `before`. The edge is soft: full in the region, and
            fading over 1/16 of the side around it, beyond which both pictures are the same. The masks stay those of
            the edited slots.
        sampling: how a model that samples does it; by default as its config says.
        on_image: of a model that samples: told (steps done, steps, the edited image [3, R, R] as it is expected to
            become) after each step; may raise, to stop the painting.

    Raises:
        CheckpointError: a model without slots.
        ConfigError: slots of another width than the model's, or sampling settings that are out of range, or for a
            model that does not sample.
    """
    model = with_slots(model)
    _check_model(model, scene.slots)
    if sampling is not None and not isinstance(model, SlotDiffusion):
        raise ConfigError(f"sampler, steps: a {model.kind} paints in one step; leave them out")
    told = None if on_image is None else lambda done, steps, images: on_image(done, steps, images[0].cpu())
    before, masks_before = _paint(model, scene.slots, scene.poses, seed, sampling)
    changed = changed_slots(scene, edit)
    if isinstance(model, SlotAutoencoder):
        image, masks = _paint_on_ground(model, scene, edit, changed, masks_before)
    else:
        shown = _shown(scene, edit, masks_before)
        image, found = _paint(model, edit.slots[shown], None, seed, sampling, told)
        masks = found.new_zeros(len(edit.numbers), *found.shape[1:])
        masks[shown] = found
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


def reads_poses(model: SlotModel) -> bool:
    """Whether slots have poses that the decoder reads, so that objects can be moved and resized."""
    return isinstance(model, SlotAutoencoder) and isinstance(model.decoder.position, RelativeFrame)


def _paint(
    model: SlotModel,
    slots: Tensor,
    poses: Tensor | None,
    seed: int,
    sampling: SamplingSettings | None = None,
    on_image: OnClean | None = None,
) -> tuple[Tensor, Tensor]:
    """The image [3, R, R] and masks [K, R, R] of slots [K, D], on the CPU."""
    device = _device(model)
    given = None if poses is None else poses[None].to(device)
    with evaluating(model), torch.no_grad():
        images, masks = model.paint(slots[None].to(device), given, seeded_generator(seed), sampling, on_image)
    return images[0].cpu(), masks[0].cpu()


def _paint_on_ground(
    model: SlotAutoencoder, scene: Scene, edit: Plan, changed: Collection[int], masks_before: Tensor
) -> tuple[Tensor, Tensor]:
    """The image [3, R, R] and masks [J, R, R] of an edit, with the background where slots have left pixels.

    Masks say who is in front where all slots are there. Who comes second was never trained: where an object has gone,
    often a slot that resembles it, which owned nothing before. So what the others were given of a pixel that changed
    slots have left is the background's.
    """
    device = _device(model)
    poses = None if edit.poses is None else edit.poses[None].to(device)
    with evaluating(model), torch.no_grad():
        image, masks, layers = (result[0].cpu() for result in model.decode(edit.slots[None].to(device), poses))
    background = background_slot(scene)
    altered = [slot for slot in changed if slot != background]
    had = masks_before[[slot for slot in altered if slot < len(scene.slots)]].sum(dim=0)
    have = masks[[row for row, number in enumerate(edit.numbers) if number in altered]].sum(dim=0)
    others = [row for row, number in enumerate(edit.numbers) if number not in altered and number != background]
    free = (had - have).clamp(min=0) / (1 - have).clamp(min=SMALLEST_SHARE)  # of what is not altered slots'
    if background in edit.numbers and border_share(scene, background) > LEAST_BORDER and bool(free.any()):
        masks[edit.row(background)] += (free * masks[others]).sum(dim=0)
        masks[others] *= 1 - free
        image = (masks[:, None] * layers).sum(dim=0)
    return image.clamp(0, 1), masks


def _shown(scene: Scene, edit: Plan, masks_before: Tensor) -> list[int]:
    """The rows of an edit that slot diffusion paints: all, or if a slot was removed those not of unused slots."""
    everything = list(range(len(edit.numbers)))
    if set(range(len(scene.slots))) <= set(edit.numbers):
        return everything
    used = {*scene.segmentation().unique().tolist(), *masks_before.argmax(dim=0).unique().tolist()}
    used |= changed_slots(scene, edit)
    return [row for row in everything if edit.numbers[row] in used] or everything


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
