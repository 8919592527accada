"""One user's edits of one image: steps that can be undone, the selection, figures and files."""

import math
import threading
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from slotlab.composition import edits
from slotlab.composition.edits import Edited, EditedSlots, Scene
from slotlab.errors import ConfigError
from slotlab.figures import grid
from slotlab.figures.composition import write_edit
from slotlab.figures.grid import Colours, slot_colours
from slotlab.models.sampling import seeded_generator
from slotlab.studio.components import (
    group,
    look_colours,
    more_colours,
    pane,
    photograph,
    png,
    slot_card,
    written,
    zipped,
)
from slotlab.studio.image_chooser import ChosenImage
from slotlab.studio.loaded_models import LoadedModel

MOST_STEPS = 50
LEAST_SIDE = 512  # of the image to download
COPY_OFFSET = 0.12  # of the side: where a copy is put if the model can move it
CANNOT_PAINT = "This model finds objects but cannot paint them. Choose another one, such as textured-128."
HINT = "Click on an object to select it. Delete removes it, Ctrl+Z undoes the last step."
KEYS = {"Delete": "sl-remove", "Backspace": "sl-remove", "z": "sl-undo", "Z": "sl-redo", "y": "sl-redo"}


@dataclass(frozen=True, eq=False)
class Editing:
    """The slots and a description of each step that can be undone or redone, and the selection."""

    scene: Scene
    colours: Colours  # of the scene's slots, as in the Look view
    painted: Edited  # the step that was painted last
    steps: tuple[tuple[EditedSlots, str], ...]  # the first is the scene
    at: int = 0  # the current step
    selected: int | None = None
    placing: bool = False  # the next click says where the selected object goes
    other: Scene | None = None  # a second scene to take objects from
    other_selected: int | None = None
    painting: threading.Lock = field(default_factory=threading.Lock)  # of one step at a time
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def slots(self) -> EditedSlots:
        """The slots of the current step."""
        return self.steps[self.at][0]

    def chosen(self) -> int:
        """The selected slot; ConfigError if there is none."""
        if self.selected is None or self.selected not in self.slots.numbers:
            raise ConfigError("Select an object first: click on it in the image, or on its slot below.")
        return self.selected

    def source(self) -> tuple[Scene, int]:
        """The other scene and the slot selected in it; ConfigError if there is none."""
        if self.other is None or self.other_selected is None:
            raise ConfigError("Choose another image first, and click on the object in it that you want.")
        return self.other, self.other_selected

    def with_step(self, slots: EditedSlots, description: str, selected: int | None) -> "Editing":
        """One step further; steps that were undone are dropped."""
        steps = (*self.steps[: self.at + 1], (slots, description))
        if len(steps) > MOST_STEPS:
            steps = (steps[0], *steps[2:])
        return replace(self, steps=steps, at=len(steps) - 1, selected=selected, placing=False)

    def at_step(self, at: int) -> "Editing":
        """Another of the steps; ConfigError if there is none."""
        if not 0 <= at < len(self.steps):
            raise ConfigError(f"There is nothing to {'undo' if at < 0 else 'redo'}.")
        kept = self.selected if self.selected in self.steps[at][0].numbers else None
        return replace(self, at=at, selected=kept, placing=False)


def begin(loaded: LoadedModel, chosen: ChosenImage) -> Editing:
    """An image before the first edit."""
    image, mask = chosen.at(loaded.model.resolution)
    scene = edits.read_scene(loaded.model, image)
    slots = edits.keep(scene, range(len(scene.slots)))
    painted = edits.paint_edit(loaded.model, scene, slots)
    return Editing(scene, look_colours(scene, mask), painted, ((slots, "unchanged"),))


# What buttons do: each takes what is edited, its model, and the values of fields beside the button.


def begin_again(now: Editing, _: LoadedModel) -> Editing:
    """The scene before the first edit; the other image stays."""
    return replace(now, steps=now.steps[:1], at=0, selected=None, placing=False)


def remove(now: Editing, _: LoadedModel) -> Editing:
    """Removes the selected slot."""
    slot = now.chosen()
    return now.with_step(edits.remove(now.slots, [slot]), f"slot {slot} removed", None)


def duplicate(now: Editing, loaded: LoadedModel) -> Editing:
    """Adds the selected slot once more; beside itself if the model can move slots."""
    slot = now.chosen()
    slots = edits.add(now.slots, now.slots, slot)
    copy = slots.numbers[-1]
    if loaded.can_move:
        offset = COPY_OFFSET if _centre(now, slot)[0] < 0.5 else -COPY_OFFSET
        slots = edits.move(loaded.model, slots, copy, offset, 0.0)
    return now.with_step(slots, f"slot {slot} duplicated as slot {copy}", copy)


def replace_by_other(now: Editing, _: LoadedModel) -> Editing:
    """Puts the object selected in the other scene in the place of the selected one."""
    slot, (other, theirs) = now.chosen(), now.source()
    slots = edits.replace(now.slots, slot, other.slots[theirs])
    return now.with_step(slots, f"slot {slot} replaced by slot {theirs} of the other image", slot)


def add_other(now: Editing, _: LoadedModel) -> Editing:
    """Adds the object selected in the other scene."""
    other, theirs = now.source()
    slots = edits.add(now.slots, other, theirs)
    added = slots.numbers[-1]
    return now.with_step(slots, f"slot {theirs} of the other image added as slot {added}", added)


def take_background(now: Editing, _: LoadedModel) -> Editing:
    """Takes the other scene's background."""
    if now.other is None:
        raise ConfigError("Choose another image first, whose background you want.")
    slots = edits.take_background(now.slots, now.scene, now.other)
    return now.with_step(slots, "background of the other image", now.selected)


def replace_by_concept(now: Editing, loaded: LoadedModel, concept: int, seed: float | None) -> Editing:
    """Puts a member of a concept, drawn by the seed, in the place of the selected slot."""
    slot = now.chosen()
    assert loaded.library is not None
    slots = edits.replace(now.slots, slot, loaded.library.draw(concept, seeded_generator(int(seed or 0))))
    return now.with_step(slots, f"slot {slot} replaced by a member of concept {concept}", slot)


def move_to(now: Editing, loaded: LoadedModel, x: float, y: float) -> Editing:
    """Moves the selected object's centre to a place, in fractions of the side from the top left."""
    slot = now.chosen()
    from_x, from_y = _centre(now, slot)
    return now.with_step(edits.move(loaded.model, now.slots, slot, x - from_x, y - from_y), f"slot {slot} moved", slot)


def resize(now: Editing, loaded: LoadedModel, factor: float) -> Editing:
    """Makes the selected object larger or smaller."""
    slot = now.chosen()
    slots = edits.resize(loaded.model, now.slots, slot, factor)
    return now.with_step(slots, f"slot {slot} resized by {factor:g}", slot)


def _centre(now: Editing, slot: int) -> tuple[float, float]:
    """The centre (x, y) of a slot's painted mask, in fractions of the side."""
    mask = now.painted.masks[now.slots.row(slot)]
    places = (torch.arange(len(mask)) + 0.5) / len(mask)
    total = mask.sum().clamp(min=1e-6)
    return float((mask.sum(dim=0) * places).sum() / total), float((mask.sum(dim=1) * places).sum() / total)


def edit_figure(now: Editing, preview: Tensor | None = None, progress: str = "") -> dict[str, Any]:
    """The image, before and after; or for after a `preview` [3, R, R] of what is painted."""
    scene, painted, owned = now.scene, now.painted, now.scene.segmentation()
    panes = [
        pane("Image", photograph(scene.image), owned, note="the original"),
        pane("Before", photograph(painted.before), owned, note="the unedited slots, painted"),
    ]
    slots = []
    if preview is not None:
        panes.append(pane("After", photograph(preview), note=progress))
    else:
        owners = painted.segmentation()
        panes.append(pane("After", photograph(painted.image), owners, note=now.steps[now.at][1]))
        masks = zip(now.slots.numbers, painted.masks, strict=True)
        slots = [slot_card(number, painted.image, mask, owners) for number, mask in masks]
    colours = more_colours(now.colours, now.slots.next_number)
    where = f"Now click where the centre of slot {now.selected} should be."
    return {
        "groups": [group(scene.image.shape[-2:], colours, panes, slots)],
        "hint": where if now.placing else progress or HINT,
        "selected": now.selected,
        "keep": True,
        "placing": now.placing,
        "keys": KEYS,
        "large": True,
    }


def other_figure(scene: Scene) -> dict[str, Any]:
    """The image to take objects from."""
    owners = scene.segmentation()
    slots = [slot_card(number, scene.image, mask, owners) for number, mask in enumerate(scene.masks)]
    panes = [pane("Other image", photograph(scene.image), owners)]
    one = group(scene.image.shape[-2:], slot_colours(range(len(slots))), panes, slots)
    return {"groups": [one], "hint": "Click on the object to take.", "selected": None, "keep": True}


def edited_file(now: Editing, name: str) -> bytes:
    """The edited image, enlarged; or a file that `slotlab edit` writes; or all of those, zipped."""
    if name.endswith(".png"):
        side = now.painted.image.shape[-1]
        side *= math.ceil(LEAST_SIDE / side)
        return png(grid.photograph(now.painted.image, (side, side)))
    files = written(lambda folder: write_edit(folder, now.scene, now.painted))
    return zipped(files) if name.endswith(".zip") else files[name]
