"""Edits of single scenes: remove, keep, add, swap, replace, interpolate, move and resize slots, then paint them again.

Numbers of slots always mean those of the scene as it was read, however many edits are chained; a slot that is added
gets the next free number. The functions change slots alone; `paint_edit` makes the picture.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.data.decoding import SKIP_REMEDY, Picture, decode_image, square, to_batch, to_pixels
from slotlab.data.sample import Batch
from slotlab.errors import ConfigError, DataError
from slotlab.models import Model, SlotAutoencoder, SlotModel
from slotlab.models.frames import LARGEST, SMALLEST, RelativeFrame
from slotlab.models.randomness import seeded_generator

SOFT_EDGE = 16  # with keep_outside, the edge between edited and unedited pixels is 1/16 of the side wide


@dataclass(frozen=True, eq=False)
class Scene:
    """One image taken apart; all on the CPU.

    Attributes:
        slots: [K, D].
        poses: [K, 4], each slot's x, y in [-1, 1] and scale along x, y; None where the decoder reads no poses.
        image: [3, R, R] in [0, 1].
        masks: [K, R, R], sums to 1 over K.
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
    with _evaluating(model):
        output = model(picture[None].to(_device(model)), seeded_generator(seed))
    poses = output.poses[0].cpu() if output.poses is not None and _reads_poses(model) else None
    return Scene(output.slots[0].cpu(), poses, picture, output.masks[0].cpu())


def remove(scene: Scene | Plan, slots: Collection[int]) -> Plan:
    """Leaves slots out; what is behind them is up to the decoder, which shares their pixels among the others.

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
    with _evaluating(model):
        images, masks = model.paint(
            slots[None].to(device), None if poses is None else poses[None].to(device), seeded_generator(seed)
        )
    return images[0].cpu(), masks[0].cpu()


@contextmanager
def _evaluating(model: SlotModel) -> Iterator[None]:
    """The model in evaluation mode and without gradients; its mode is restored."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


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
