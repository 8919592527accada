"""Edits: take one image apart into slots, change the slots, and paint the result.

Edits take a `Scene` or the `EditedSlots` of earlier edits and return new `EditedSlots`. They raise
ConfigError for a slot number that does not exist or was removed, and for slots of another model.
"""

from collections.abc import Collection, Generator
from dataclasses import dataclass
from dataclasses import replace as with_values
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.composition.slots import background_rank
from slotlab.data.images import AnyImage, prepared
from slotlab.errors import ConfigError
from slotlab.models import Model, SlotAutoencoder, SlotDiffusion, SlotOutput, that_paints
from slotlab.models.building import evaluating
from slotlab.models.sampling import SamplingSettings, Step, seeded_generator
from slotlab.progress import in_steps

LEAST_BORDER = 0.5  # share of the border pixels that a slot must own to count as the background
SOFT_EDGE = 16  # with keep_outside, the edge of the region is 1/16 of the side wide


@dataclass(frozen=True, eq=False)
class Scene:
    """One image and what a model found in it; all on the CPU.

    Attributes:
        image: [3, R, R] in [0, 1].
        output: the model's output for a batch of this image.
        source: the output's masks that fit objects best (`model.finer_masks`).
    """

    image: Tensor
    output: SlotOutput
    source: str = "masks"

    @property
    def slots(self) -> Tensor:
        """The slots [K, D]."""
        return self.output.slots[0]

    @cached_property
    def masks(self) -> Tensor:
        """Masks [K, R, R] of `source`, which sum to 1 over K."""
        return self.output.soft_masks(self.source)[0].float()

    def segmentation(self) -> Tensor:
        """The slot that owns each pixel, int64 [R, R]."""
        return self.masks.argmax(dim=0)

    def slot_at(self, x: int, y: int) -> int:
        """The slot that owns the pixel in column `x`, row `y`; ConfigError outside the image."""
        height, width = self.masks.shape[-2:]
        if not (0 <= x < width and 0 <= y < height):
            raise ConfigError(f"pixel ({x}, {y}): the image has {width}x{height} pixels, counted from 0")
        return int(self.masks[:, y, x].argmax())


@dataclass(frozen=True, eq=False)
class EditedSlots:
    """The slots of a scene after some edits, not yet painted.

    Attributes:
        slots: [J, D].
        numbers: the number of each slot: its own in the scene, or the next free one if added.
        next_number: the number that the next added slot gets; removed slots keep theirs.
    """

    slots: Tensor
    numbers: tuple[int, ...]
    next_number: int

    def row(self, slot: int) -> int:
        """The row of slot number `slot`; ConfigError if there is none, or an edit removed it."""
        if not 0 <= slot < self.next_number:
            raise ConfigError(f"slot {slot}: there are {self.next_number} slots, numbered 0 to {self.next_number - 1}")
        if slot not in self.numbers:
            raise ConfigError(f"slot {slot}: an earlier edit removed it; left are {', '.join(map(str, self.numbers))}")
        return self.numbers.index(slot)

    def vector(self, slot: int) -> Tensor:
        """Slot number `slot`, [D]; ConfigError as `row`."""
        return self.slots[self.row(slot)]


def read_scene(model: Model, image: AnyImage, seed: int = 0, crop: float = 1.0) -> Scene:
    """Takes one image apart.

    Args:
        model: any model with slots.
        image: a file, a tensor [3, H, W] in [0, 1], an array or a Pillow image; see
            `slotlab.data.images.prepared`.
        seed: for the initial slots; another seed may number the slots differently.
        crop: side of the centred square as a fraction of the shorter side, above 0, at most 1.

    Raises:
        CheckpointError: the model has no slots.
        DataError: the file is missing or is no image.

    Example:
        >>> import slotlab
        >>> from slotlab.composition.edits import read_scene
        >>> image = slotlab.render([3], variant="plain", max_objects=6).image[0]
        >>> scene = read_scene(slotlab.load("scenes-64"), image)
        >>> scene.slots.shape, scene.masks.shape, scene.slot_at(0, 0)
        (torch.Size([7, 128]), torch.Size([7, 64, 64]), 0)
    """
    slot_model = that_paints(model)
    picture, _ = prepared(image, resolution=slot_model.resolution, crop=crop)
    with evaluating(model), torch.no_grad():
        output = slot_model.segment(picture[None].to(next(model.parameters()).device), [seeded_generator(seed)])
    return Scene(picture, output.cpu(), slot_model.finer_masks)


def keep(scene: Scene | EditedSlots, slots: Collection[int]) -> EditedSlots:
    """Leaves out all slots but these, at least one; they stay in the scene's order."""
    edit = _edited(scene)
    rows = sorted({edit.row(slot) for slot in slots})
    if not rows:
        raise ConfigError("no slot would be left; leave at least one")
    return with_values(edit, slots=edit.slots[rows], numbers=tuple(edit.numbers[row] for row in rows))


def remove(scene: Scene | EditedSlots, slots: Collection[int]) -> EditedSlots:
    """Leaves slots out, but not all. `paint_edit` says what shows in their place."""
    edit = _edited(scene)
    gone = {edit.numbers[edit.row(slot)] for slot in slots}
    return keep(edit, {*edit.numbers} - gone)


def add(scene: Scene | EditedSlots, other: Scene | EditedSlots, slot: int) -> EditedSlots:
    """Adds slot number `slot` of another scene; it gets the next free number, `numbers[-1]`."""
    edit = _edited(scene)
    slots = torch.cat([edit.slots, _fitting(edit, _edited(other).vector(slot))[None]])
    return EditedSlots(slots, (*edit.numbers, edit.next_number), edit.next_number + 1)


def swap(
    scene: Scene | EditedSlots, other: Scene | EditedSlots, slot: int, other_slot: int
) -> tuple[EditedSlots, EditedSlots]:
    """Exchanges a slot of one scene for one of another; returns both."""
    ours, theirs = _edited(scene), _edited(other)
    return replace(ours, slot, theirs.vector(other_slot)), replace(theirs, other_slot, ours.vector(slot))


def replace(scene: Scene | EditedSlots, slot: int, vector: Tensor) -> EditedSlots:
    """Puts `vector` [D], such as a member of a concept, in the place of a slot."""
    edit = _edited(scene)
    slots, row = edit.slots.clone(), edit.row(slot)
    slots[row] = _fitting(edit, vector)
    return with_values(edit, slots=slots)


def interpolate(scene: Scene | EditedSlots, slot: int, vector: Tensor, amount: float) -> EditedSlots:
    """Moves a slot towards `vector` [D] on a line: `amount` 0 is the slot, 1 the vector."""
    edit = _edited(scene)
    if not 0 <= amount <= 1:
        raise ConfigError(f"amount: must be from 0 (the slot) to 1 (the other), not {amount!r}")
    return replace(edit, slot, (1 - amount) * edit.vector(slot) + amount * _fitting(edit, vector))


def move(model: Model, scene: Scene | EditedSlots, slot: int, dx: float, dy: float) -> EditedSlots:
    """Moves an object by fractions of the side, `dx` right and `dy` down, if the model can."""
    return replace(scene, slot, _ability(model, "move")(_edited(scene).vector(slot), dx, dy))


def resize(model: Model, scene: Scene | EditedSlots, slot: int, factor: float) -> EditedSlots:
    """Makes an object `factor` times as large, if the model can."""
    return replace(scene, slot, _ability(model, "resize")(_edited(scene).vector(slot), factor))


def take_background(edit: Scene | EditedSlots, scene: Scene, other: Scene) -> EditedSlots:
    """Puts the background of scene `other` in the place of `scene`'s, of which `edit` was made."""
    return replace(edit, background_slot(scene), other.slots[background_slot(other)])


def background_slot(scene: Scene) -> int:
    """The slot that owns the most border pixels; if several do, the largest of them."""
    owned = F.one_hot(scene.segmentation(), len(scene.slots)).permute(2, 0, 1)[None]
    return int(background_rank(owned, torch.ones(owned.shape[:2], dtype=torch.bool)).argmax())


def changed_slots(scene: Scene, edit: EditedSlots) -> frozenset[int]:
    """Numbers of the slots that were removed, added or altered; none if all edits were undone."""
    before = {*range(len(scene.slots))}
    pairs = zip(edit.numbers, edit.slots, strict=True)
    same = {number for number, slot in pairs if number in before and scene.slots[number].equal(slot)}
    return frozenset((before | {*edit.numbers}) - same)


def _edited(scene: Scene | EditedSlots) -> EditedSlots:
    if isinstance(scene, EditedSlots):
        return scene
    return EditedSlots(scene.slots, tuple(range(len(scene.slots))), len(scene.slots))


def _fitting(edit: EditedSlots, vector: Tensor) -> Tensor:
    width = edit.slots.shape[1]
    if list(vector.shape) != [width]:
        raise ConfigError(f"a slot of shape {list(vector.shape)} does not fit slots of width {width}; use one model")
    return vector.to(edit.slots)


def _ability(model: Model, edit: str) -> Any:
    if not hasattr(model, edit):
        raise ConfigError(f"{edit}: this model's slots have no pose; train model.kind=relative-slot-autoencoder")
    return getattr(model, edit)


@dataclass(frozen=True, eq=False)
class Edited:
    """A painted edit; all on the CPU.

    Attributes:
        before: [3, R, R] in [0, 1], the unedited slots painted with the same seed.
        image: [3, R, R] in [0, 1], the edited slots painted.
        masks: [J, R, R] of the edited slots, as painted; they sum to 1 over J.
        plan: the edited slots.
        changed: numbers of the slots that were removed, added or altered.
        region: bool [R, R], the pixels that changed slots own before or after the edit.
        outside_error: mean squared error between `before` and `image` outside the region; NaN if
            nothing is outside.
    """

    before: Tensor
    image: Tensor
    masks: Tensor
    plan: EditedSlots
    changed: frozenset[int]
    region: Tensor
    outside_error: float

    def segmentation(self) -> Tensor:
        """The number of the slot that owns each pixel of `image`, int64 [R, R]."""
        return torch.tensor(self.plan.numbers)[self.masks.argmax(dim=0)]


@in_steps
@torch.no_grad()
def paint_edit(
    model: Model,
    scene: Scene,
    edit: EditedSlots,
    seed: int = 0,
    keep_outside: bool = False,
    *,
    sampling: SamplingSettings | None = None,
) -> Generator[Step, None, Edited]:
    """Paints a scene before and after an edit, and measures what changed outside the edit.

    Where a slot has left pixels, a slot autoencoder paints the scene's background, if one slot owns
    more than half of the border pixels. What another object had behind them stays cut off. After a
    removal, slot diffusion leaves out the slots that own no pixel of the scene, because some may
    resemble the removed object; their masks are then 0. Before and after have the same noise.
    `paint_edit.steps` yields (step, steps, images [1, 3, R, R]) while it samples.

    Args:
        model: the model that read the scene.
        scene: as it was read.
        edit: its slots, edited.
        seed: for the noise of models that sample.
        keep_outside: take the pixels outside the region from `before`, with a soft edge of 1/16 of
            the side. The masks stay those of the edited slots.
        sampling: settings of a model that samples; by default its config's.

    Raises:
        ConfigError: sampling settings for a model that does not sample.

    Example:
        >>> import slotlab
        >>> from slotlab.composition.edits import paint_edit, read_scene, remove
        >>> model = slotlab.load("scenes-64")
        >>> scene = read_scene(model, slotlab.render([3], variant="plain", max_objects=6).image[0])
        >>> edited = paint_edit(model, scene, remove(scene, [scene.slot_at(24, 24)]))
        >>> edited.image.shape, len(edited.changed), edited.outside_error < 0.001
        (torch.Size([3, 64, 64]), 1, True)
    """
    slot_model, device = that_paints(getattr(model, "image_model", model)), next(model.parameters()).device
    if sampling is not None and not isinstance(slot_model, SlotDiffusion):
        raise ConfigError(f"sampler, steps: a {model.kind} paints in one step; leave them out")
    with evaluating(model):
        painted = slot_model.paint(scene.slots[None].to(device), seeded_generator(seed), sampling)
        before, masks_before = (one[0].cpu() for one in painted)
        changed = changed_slots(scene, edit)
        if isinstance(slot_model, SlotAutoencoder):
            image, masks = _paint_on_background(slot_model, scene, edit, changed, masks_before)
        else:
            shown = _shown(scene, edit, changed, masks_before)
            slots = edit.slots[shown][None].to(device)
            images, found = yield from slot_model.paint_steps(slots, seeded_generator(seed), sampling)
            image, masks = images[0].cpu(), torch.zeros(len(edit.numbers), *found.shape[2:])
            masks[shown] = found[0].cpu()
    region = _owned(masks_before, range(len(scene.slots)), changed) | _owned(masks, edit.numbers, changed)
    if keep_outside:
        image = torch.lerp(before, image, soft_edge(region))
    error = float((image - before).square().mean(dim=0)[~region].mean())  # NaN of no pixels
    return Edited(before, image, masks, edit, changed, region, error)


def _paint_on_background(
    model: SlotAutoencoder, scene: Scene, edit: EditedSlots, changed: Collection[int], masks_before: Tensor
) -> tuple[Tensor, Tensor]:
    """The image [3, R, R] and masks [J, R, R] of an edit, with the background in vacated pixels.

    The masks were trained with all slots present. Without an object, the second largest mask in its
    place is often that of a slot that resembles it and owned nothing before. So the background
    takes the share of the other slots in every pixel that changed slots have left.
    """
    decoded = model.decode(edit.slots[None].to(next(model.parameters()).device))
    image, masks, layers = (result[0].cpu() for result in decoded)
    background, owners = background_slot(scene), scene.segmentation()
    altered = [slot for slot in changed if slot != background]
    had = masks_before[[slot for slot in altered if slot < len(scene.slots)]].sum(dim=0)
    have = masks[[row for row, number in enumerate(edit.numbers) if number in altered]].sum(dim=0)
    others = [row for row, number in enumerate(edit.numbers) if number not in altered and number != background]
    free = (had - have).clamp(min=0) / (1 - have).clamp(min=1e-6)  # of what is not altered slots'
    border = torch.cat([owners[0], owners[-1], owners[1:-1, 0], owners[1:-1, -1]])
    share = float((border == background).float().mean())
    if background in edit.numbers and share > LEAST_BORDER and bool(free.any()):
        masks[edit.row(background)] += (free * masks[others]).sum(dim=0)
        masks[others] *= 1 - free
        image = (masks[:, None] * layers).sum(dim=0)
    return image.clamp(0, 1), masks


def _shown(scene: Scene, edit: EditedSlots, changed: Collection[int], masks_before: Tensor) -> list[int]:
    """Rows that slot diffusion paints: all, or after a removal those that own pixels or changed."""
    used = {*scene.segmentation().unique().tolist(), *masks_before.argmax(dim=0).unique().tolist(), *changed}
    rows = [row for row, number in enumerate(edit.numbers) if number in used]
    removed = not {*range(len(scene.slots))} <= {*edit.numbers}
    return rows if removed and rows else list(range(len(edit.numbers)))


def _owned(masks: Tensor, numbers: Collection[int], slots: Collection[int]) -> Tensor:
    """Where a mask of one of `slots` is the largest: bool [R, R]."""
    rows = torch.tensor([row for row, number in enumerate(numbers) if number in slots], dtype=torch.int64)
    return torch.isin(masks.argmax(dim=0), rows)


def soft_edge(region: Tensor) -> Tensor:
    """A region [R, R] with a soft edge: 1 inside, falling to 0 over 1/16 of the side around it."""
    width = max(1, len(region) // SOFT_EDGE)
    grown = region.float()[None, None]
    weight = grown.clone()
    for _ in range(width):
        grown = F.max_pool2d(grown, 3, stride=1, padding=1)
        weight += grown
    return weight[0, 0] / (width + 1)
