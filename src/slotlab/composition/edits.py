"""From a picture to a scene that can be edited, and from its edited slots to a picture again."""

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.composition.slots import background_rank, see
from slotlab.data.images import AnyImage, prepared
from slotlab.errors import ConfigError
from slotlab.models import Model, SlotAutoencoder, SlotDiffusion, SlotModel, with_slots
from slotlab.models.building import evaluating
from slotlab.models.position import LARGEST, SMALLEST, RelativeFrame
from slotlab.models.randomness import seeded_generator
from slotlab.models.sampling import OnClean, SamplingSettings


@dataclass(frozen=True, eq=False)
class Scene:
    """One image taken apart; all on the CPU.

    Attributes:
        slots: [K, D].
        poses: [K, 4], each slot's x, y in [-1, 1] and scale along x, y; None where the decoder reads no poses.
        image: [3, R, R] in [0, 1].
        masks: [K, R, R], sums to 1 over K: the model's finest, which need not be those that its decoder paints by.
    """

    slots: Tensor
    poses: Tensor | None
    image: Tensor
    masks: Tensor

    def segmentation(self) -> Tensor:
        """The slot that owns each pixel, int64 [R, R]."""
        return self.masks.argmax(dim=0)

    def slot_at(self, x: int, y: int) -> int:
        """The slot that owns the pixel in column `x`, row `y` (from the top left); ConfigError outside the image."""
        height, width = self.masks.shape[-2:]
        if not (0 <= x < width and 0 <= y < height):
            raise ConfigError(f"pixel ({x}, {y}): the image has {width}x{height} pixels, counted from 0")
        return int(self.masks[:, y, x].argmax())


@dataclass(frozen=True, eq=False)
class Plan:
    """Slots after some edits, not yet painted.

    Attributes:
        slots: [J, D].
        poses: [J, 4], or None where the decoder reads no poses.
        numbers: of these J slots: in the scene as it was read, or the next free ones for slots that were added.
        given: how many numbers have been given so far, also to slots removed since.
    """

    slots: Tensor
    poses: Tensor | None
    numbers: tuple[int, ...]
    given: int

    def row(self, slot: int) -> int:
        """The row of slot number `slot`; ConfigError if there is none, or an edit removed it."""
        if not 0 <= slot < self.given:
            raise ConfigError(f"slot {slot}: there are {self.given} slots, numbered 0 to {self.given - 1}")
        if slot not in self.numbers:
            raise ConfigError(f"slot {slot}: an earlier edit removed it; left are {', '.join(map(str, self.numbers))}")
        return self.numbers.index(slot)


def remove(scene: Scene | Plan, slots: Collection[int]) -> Plan:
    """Leaves slots out; what is then seen in their place, `scene_pictures.paint_edit` says.

    Raises:
        ConfigError: no such slot, or none would be left.
    """
    plan = _plan(scene)
    gone = {plan.row(slot) for slot in slots}
    return _only(plan, [row for row in range(len(plan.numbers)) if row not in gone])


def keep(scene: Scene | Plan, slots: Collection[int]) -> Plan:
    """Leaves all but these slots out; they stay in the scene's order.

    Raises:
        ConfigError: no such slot, or none is named.
    """
    plan = _plan(scene)
    return _only(plan, sorted({plan.row(slot) for slot in slots}))


def add(scene: Scene | Plan, other: Scene | Plan, slot: int) -> Plan:
    """Adds slot number `slot` of another scene, with its pose; it gets the next free number, `plan.numbers[-1]`.

    Raises:
        ConfigError: no such slot, or a scene of another model.
    """
    plan, giver = _plan(scene), _plan(other)
    _check_fit(plan, giver)
    row = giver.row(slot)
    poses = plan.poses
    if poses is not None and giver.poses is not None:
        poses = torch.cat([poses, giver.poses[row : row + 1]])
    slots = torch.cat([plan.slots, giver.slots[row : row + 1]])
    return Plan(slots, poses, (*plan.numbers, plan.given), plan.given + 1)


def swap(scene: Scene | Plan, other: Scene | Plan, slot: int, other_slot: int) -> tuple[Plan, Plan]:
    """Exchanges a slot of one scene for one of another, with their poses; returns both scenes' plans.

    Raises:
        ConfigError: no such slot, or a scene of another model.
    """
    one, two = _plan(scene), _plan(other)
    _check_fit(one, two)
    row, other_row = one.row(slot), two.row(other_slot)
    pose = None if one.poses is None else one.poses[row]
    other_pose = None if two.poses is None else two.poses[other_row]
    return _altered(one, row, two.slots[other_row], other_pose), _altered(two, other_row, one.slots[row], pose)


def replace(scene: Scene | Plan, slot: int, vector: Tensor, pose: Tensor | None = None) -> Plan:
    """Puts `vector` [D], such as a concept's member, in a slot's place; without `pose` [4] it keeps the slot's pose.

    Raises:
        ConfigError: no such slot, a vector or pose of another shape, or a pose for a model without.
    """
    plan = _plan(scene)
    row = plan.row(slot)
    _check_vector(plan, vector)
    if pose is not None:
        if plan.poses is None:
            raise ConfigError(f"pose: {_NO_POSES}")
        if list(pose.shape) != [4]:
            raise ConfigError(f"pose: expected 4 numbers (x, y, and scales along x, y), not {list(pose.shape)}")
    return _altered(plan, row, vector, pose)


def interpolate(scene: Scene | Plan, slot: int, vector: Tensor, amount: float) -> Plan:
    """Moves a slot on the straight line to `vector` [D]: 0 is the slot, 1 the vector; its pose stays.

    Raises:
        ConfigError: no such slot, a vector of another width, or an amount outside [0, 1].
    """
    plan = _plan(scene)
    row = plan.row(slot)
    _check_vector(plan, vector)
    if not 0 <= amount <= 1:
        raise ConfigError(f"amount: must be from 0 (the slot) to 1 (the other), not {amount!r}")
    return _altered(plan, row, (1 - amount) * plan.slots[row] + amount * vector.to(plan.slots))


def move(scene: Scene | Plan, slot: int, dx: float, dy: float) -> Plan:
    """Moves a slot by fractions of the image's side, `dx` to the right and `dy` down; 0.25 is a quarter of the image.

    Raises:
        ConfigError: no such slot, a model without relative frames, or a centre that would leave the image.
    """
    plan, row, pose = _posed(scene, slot, "move")
    place = pose[:2] + 2 * torch.tensor([dx, dy], dtype=pose.dtype)
    if not bool((place.abs() <= 1).all()):
        x, y = ((place + 1) / 2).tolist()
        raise ConfigError(
            f"move: the centre of slot {slot} would be at ({x:.2f}, {y:.2f}) of the image's side, outside of it; "
            f"both must be from 0 to 1"
        )
    return _altered(plan, row, plan.slots[row], torch.cat([place, pose[2:]]))


def resize(scene: Scene | Plan, slot: int, factor: float) -> Plan:
    """Makes a slot `factor` times as large along both axes.

    Raises:
        ConfigError: no such slot, a model without relative frames, a factor that is not positive, or a scale outside
            the range of poses.
    """
    plan, row, pose = _posed(scene, slot, "resize")
    if not 0 < factor < math.inf:
        raise ConfigError(f"resize: the factor must be above 0, not {factor!r}")
    scale = pose[2:] * factor
    if factor != 1 and not SMALLEST <= float(scale.min()) <= float(scale.max()) <= LARGEST:
        low, high = SMALLEST / float(pose[2:].min()), LARGEST / float(pose[2:].max())
        raise ConfigError(f"resize: slot {slot} can be resized by {low:.2f} to {high:.2f}, not {factor:g}")
    return _altered(plan, row, plan.slots[row], torch.cat([pose[:2], scale]))


def changed_slots(scene: Scene, edit: Plan) -> frozenset[int]:
    """Numbers of the slots that an edit removed, added or altered; of none if it undid what it did."""
    changed = set(range(len(scene.slots))) ^ set(edit.numbers)
    for row, slot in enumerate(edit.numbers):
        if slot in changed:
            continue
        moved = scene.poses is not None and edit.poses is not None and not scene.poses[slot].equal(edit.poses[row])
        if moved or not scene.slots[slot].equal(edit.slots[row]):
            changed.add(slot)
    return frozenset(changed)


_NO_POSES = (
    "this model's slots have no pose that its decoder reads; train one with slot_attention.frame=relative and "
    "decoder.position=relative"
)


def _plan(scene: Scene | Plan) -> Plan:
    if isinstance(scene, Plan):
        return scene
    count = len(scene.slots)
    return Plan(scene.slots, scene.poses, tuple(range(count)), count)


def _only(plan: Plan, rows: list[int]) -> Plan:
    if not rows:
        raise ConfigError("no slot would be left; leave at least one")
    poses = None if plan.poses is None else plan.poses[rows]
    return dataclasses.replace(
        plan, slots=plan.slots[rows], poses=poses, numbers=tuple(plan.numbers[row] for row in rows)
    )


def _altered(plan: Plan, row: int, vector: Tensor, pose: Tensor | None = None) -> Plan:
    slots, poses = plan.slots.clone(), plan.poses
    slots[row] = vector.to(slots)
    if pose is not None and poses is not None:
        poses = poses.clone()
        poses[row] = pose.to(poses)
    return dataclasses.replace(plan, slots=slots, poses=poses)


def _posed(scene: Scene | Plan, slot: int, edit: str) -> tuple[Plan, int, Tensor]:
    plan = _plan(scene)
    row = plan.row(slot)
    if plan.poses is None:
        raise ConfigError(f"{edit}: {_NO_POSES}")
    return plan, row, plan.poses[row]


def _check_fit(plan: Plan, giver: Plan) -> None:
    ours, theirs = plan.slots.shape[1], giver.slots.shape[1]
    if ours != theirs:
        raise ConfigError(f"slots of width {theirs} do not fit a scene of width {ours}; read both with one model")
    if (plan.poses is None) != (giver.poses is None):
        raise ConfigError("one scene has poses and the other has none; read both with one model")


def _check_vector(plan: Plan, vector: Tensor) -> None:
    if list(vector.shape) != [plan.slots.shape[1]]:
        raise ConfigError(
            f"vector: expected a slot of width {plan.slots.shape[1]}, not {list(vector.shape)}; "
            f"take it from the same model"
        )


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
        image: a file, a tensor [3, H, W] in [0, 1], pixels, or a Pillow picture; see `slotlab.data.images.prepared`.
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


def background_slot(scene: Scene) -> int:
    """The number of the slot that owns the most of the picture's outermost rows and columns; of equals the largest."""
    owned = F.one_hot(scene.segmentation(), len(scene.slots)).permute(2, 0, 1)[None]
    return int(background_rank(owned, torch.ones(owned.shape[:2], dtype=torch.bool)).argmax())


def border_share(scene: Scene, slot: int) -> float:
    """The share of the picture's outermost rows and columns that a slot owns, 0 to 1."""
    owned = scene.segmentation() == slot
    height, width = owned.shape
    return float(owned.sum() - owned[1:-1, 1:-1].sum()) / (2 * (height + width) - 4)


def take_background(edit: Scene | Plan, scene: Scene, other: Scene) -> Plan:
    """Puts the background of another scene in the place of this one's, with its pose where slots have poses.

    Args:
        edit: the slots to change: `scene` itself, or what earlier edits made of it.
        scene: as it was read, by which its background is known.
        other: as it was read with the same model.

    Raises:
        ConfigError: an earlier edit removed the background, or the scenes are of different models.
    """
    theirs = background_slot(other)
    pose = None if other.poses is None else other.poses[theirs]
    return replace(edit, background_slot(scene), other.slots[theirs], pose)
