"""Edits of single scenes: remove, keep, add, swap, replace, interpolate, move and resize slots.

Numbers of slots always mean those of the scene as it was read, however many edits are chained; a slot that is added
gets the next free number. The functions change slots alone; `scene_pictures` reads scenes and paints edits.
"""

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from slotlab.errors import ConfigError
from slotlab.models.frames import LARGEST, SMALLEST


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
