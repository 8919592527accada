"""What the Edit view shows of an edit, and the files that it gives."""

import dataclasses
import io
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from slotlab.composition import edits
from slotlab.composition.edits import Edited, EditedSlots, Scene, take_background
from slotlab.errors import ConfigError
from slotlab.figures import grid
from slotlab.figures.composition import write_edit
from slotlab.figures.grid import slot_colours
from slotlab.models.randomness import seeded_generator
from slotlab.studio.components import THUMBNAIL, Payload, colours_of, pane, photograph, share_in_words, uri
from slotlab.studio.state import Loaded

MOST_STEPS = 50


class Painter:
    """Paints one thing at a time for one user, who may stop it."""

    def __init__(self) -> None:
        self._busy, self._stop = threading.Lock(), threading.Event()

    def stop(self) -> None:
        """Ends the painting that goes on, if any."""
        self._stop.set()

    @contextmanager
    def painting(self) -> Iterator[threading.Event]:
        """Yields what is set when this painting is to end; ConfigError while another goes on."""
        if not self._busy.acquire(blocking=False):
            raise ConfigError("The last edit is still being painted: wait, or stop it first.")
        try:
            self._stop = threading.Event()
            yield self._stop
        finally:
            self._busy.release()


@dataclass(frozen=True, eq=False)
class Editing:
    """A scene, the plans of all steps (the first is the scene as read), and where among them the user is.

    Attributes:
        scene: as it was read.
        plans: one per step that can be undone or redone.
        at: place of the current plan.
        done: what was done in each step, in words.
        selected: number of the selected slot.
        placing: the next click says where the selected object goes.
        painted: the current plan, painted; None until it has been.
        other: a second scene, to take objects from, and the slot selected in it.
        other_selected: number of the slot selected in the other scene.
        painter: the same for all steps.
    """

    scene: Scene
    plans: tuple[EditedSlots, ...]
    at: int = 0
    done: tuple[str, ...] = ("as it is",)
    selected: int | None = None
    placing: bool = False
    painted: Edited | None = None
    other: Scene | None = None
    other_selected: int | None = None
    painter: Painter = field(default_factory=Painter)

    @property
    def plan(self) -> EditedSlots:
        """The slots as they are now."""
        return self.plans[self.at]

    def chosen(self) -> int:
        """The selected slot; ConfigError if there is none now."""
        if self.selected is None or self.selected not in self.plan.numbers:
            raise ConfigError("Select an object first: click on it in the picture, or on its slot below.")
        return self.selected

    def giver(self) -> tuple[Scene, int]:
        """The other scene and the slot selected in it; ConfigError if there is none."""
        if self.other is None or self.other_selected is None:
            raise ConfigError("Choose another picture first, and click on the object in it that you want.")
        return self.other, self.other_selected

    def with_plan(self, plan: EditedSlots, words: str, selected: int | None) -> "Editing":
        """One step further; what had been undone is forgotten."""
        plans, done = (*self.plans[: self.at + 1], plan), (*self.done[: self.at + 1], words)
        if len(plans) > MOST_STEPS:  # the scene as read stays the first
            plans, done = (plans[0], *plans[2:]), (done[0], *done[2:])
        return dataclasses.replace(
            self, plans=plans, done=done, at=len(plans) - 1, selected=selected, placing=False, painted=None
        )

    def at_step(self, at: int) -> "Editing":
        """Another step of those done; ConfigError where there is none."""
        if at < 0:
            raise ConfigError("There is nothing to undo.")
        if at >= len(self.plans):
            raise ConfigError("There is nothing to redo.")
        kept = self.selected if self.selected in self.plans[at].numbers else None
        return dataclasses.replace(self, at=at, selected=kept, placing=False, painted=None)


def begin(scene: Scene) -> Editing:
    """A scene before the first edit."""
    return Editing(scene, (edits.keep(scene, range(len(scene.slots))),))


def begin_again(editing: Editing) -> Editing:
    """The scene before the first edit again; the other picture stays."""
    return dataclasses.replace(
        begin(editing.scene),
        other=editing.other,
        other_selected=editing.other_selected,
        painter=editing.painter,
    )


def remove(editing: Editing) -> Editing:
    """Leaves the selected slot out."""
    slot = editing.chosen()
    return editing.with_plan(edits.remove(editing.plan, [slot]), f"slot {slot} removed", None)


def duplicate(editing: Editing) -> Editing:
    """Adds the selected slot once more."""
    slot = editing.chosen()
    plan = edits.add(editing.plan, editing.plan, slot)
    copy = plan.numbers[-1]
    return editing.with_plan(plan, f"slot {slot} duplicated as slot {copy}", copy)


def replace_by_other(editing: Editing) -> Editing:
    """Puts the object selected in the other scene in the place of the selected one."""
    slot, (other, theirs) = editing.chosen(), editing.giver()
    plan = edits.replace(editing.plan, slot, other.slots[theirs])
    return editing.with_plan(plan, f"slot {slot} replaced by the other picture's slot {theirs}", slot)


def add_other(editing: Editing) -> Editing:
    """Adds the object selected in the other scene."""
    other, theirs = editing.giver()
    plan = edits.add(editing.plan, other, theirs)
    return editing.with_plan(plan, f"the other picture's slot {theirs} added as {plan.numbers[-1]}", plan.numbers[-1])


def swap_background(editing: Editing) -> Editing:
    """Takes the other scene's background."""
    if editing.other is None:
        raise ConfigError("Choose another picture first, whose background is to be taken.")
    plan = take_background(editing.plan, editing.scene, editing.other)
    return editing.with_plan(plan, "background of the other picture", editing.selected)


def replace_by_concept(editing: Editing, loaded: Loaded, concept: int, seed: int) -> Editing:
    """Puts a member of a concept, drawn by the seed, in the place of the selected slot."""
    slot, library = editing.chosen(), loaded.library
    if library is None:
        raise ConfigError("There is no concept library of this model; start the studio with --library.")
    rows = library.members[concept]
    row = rows[int(torch.randint(len(rows), (), generator=seeded_generator(seed)))]
    plan = edits.replace(editing.plan, slot, torch.tensor(library.slots[row]))
    return editing.with_plan(plan, f"slot {slot} replaced by a member of concept {concept}", slot)


def move_to(editing: Editing, x: float, y: float) -> Editing:
    """Moves the selected object's centre to a place, in fractions of the side from the top left."""
    raise ConfigError("The objects of this model cannot be moved: its slots have no place of their own.")


def resize(editing: Editing, factor: float) -> Editing:
    """Makes the selected object larger or smaller."""
    raise ConfigError("The objects of this model cannot be resized: its slots have no size of their own.")


HINT = "Click on an object to select it. Delete removes it, Ctrl+Z takes the last step back."
KEYS = {"Delete": "sl-remove", "Backspace": "sl-remove", "z": "sl-undo", "Z": "sl-redo", "y": "sl-redo"}


def edit_figure(editing: Editing, preview: Tensor | None = None, said: str = "") -> Payload:
    """Before and after, with the slots of after; `preview` is a picture that is still being painted."""
    painted = editing.painted
    scene, plan = editing.scene, editing.plan
    before = scene.image if painted is None else painted.before
    panes = [pane("Before", photograph(before), scene.segmentation(), note="the scene's own slots, painted")]
    if preview is not None:
        panes.append(pane("After", photograph(preview), None, note=said))
    elif painted is not None:
        panes.append(pane("After", photograph(painted.image), painted.segmentation(), note=editing.done[editing.at]))
    numbers = range(max(plan.next_number, len(scene.slots)))
    slots = []
    if painted is not None:
        slots = [
            _slot(painted.image, number, mask, painted.segmentation() == number)
            for number, mask in zip(plan.numbers, painted.masks, strict=True)
        ]
    where = f"Now click where the centre of slot {editing.selected} shall be."
    group = {
        "title": "",
        "text": "",
        "size": scene.image.shape[-1],
        "colours": colours_of(slot_colours(numbers)),
        "panes": panes,
        "slots": slots,
    }
    return {
        "groups": [group],
        "hint": where if editing.placing else said or HINT,
        "selected": editing.selected,
        "keep": True,
        "placing": editing.placing,
        "keys": KEYS,
        "large": True,
    }


def other_figure(scene: Scene | None, selected: int | None) -> Payload:
    """The picture to take objects from."""
    if scene is None:
        return {"groups": []}
    owners = scene.segmentation()
    slots = [_slot(scene.image, number, mask, owners == number) for number, mask in enumerate(scene.masks)]
    group = {
        "title": "",
        "text": "",
        "size": scene.image.shape[-1],
        "colours": colours_of(slot_colours(range(len(scene.slots)))),
        "panes": [pane("The other picture", photograph(scene.image), owners)],
        "slots": slots,
    }
    return {"groups": [group], "hint": "Click on the object to take.", "selected": selected, "keep": True}


def edit_files(editing: Editing) -> dict[str, bytes]:
    """The files that `slotlab edit` writes of this edit, by name."""
    if editing.painted is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="slotlab-edit-") as folder:
        write_edit(Path(folder), editing.scene, editing.painted)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def zipped(files: dict[str, bytes]) -> bytes:
    """Files as a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _slot(image: Tensor, number: int, mask: Tensor, owned: Tensor) -> Payload:
    share = float(owned.float().mean())
    words = share_in_words(share)
    return {
        "number": number,
        "share": words,
        "empty": words == "owns nothing",
        "picture": uri(grid.cut_out(image, mask, (THUMBNAIL, THUMBNAIL))),
        "raw": None,
    }
