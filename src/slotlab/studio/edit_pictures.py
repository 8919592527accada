"""What the Edit view shows of an edit, and the files that it gives."""

import io
import tempfile
import zipfile
from pathlib import Path

from torch import Tensor

from slotlab.composition.edits import Scene
from slotlab.reporting import cells
from slotlab.reporting.colours import slot_colours
from slotlab.reporting.edit_picture import write_edit
from slotlab.studio.editing import Editing
from slotlab.studio.pictures import THUMBNAIL, Payload, colours_of, pane, photograph, share_in_words, uri

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
    numbers = range(max(plan.given, len(scene.slots)))
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
        "picture": uri(cells.cut_out(image, mask, (THUMBNAIL, THUMBNAIL))),
        "raw": None,
    }
