"""The Photo view: a photograph taken apart, segments merged, cut-outs and JSON to download."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slotlab.errors import ConfigError
from slotlab.figures.grid import cell_size, slot_colours
from slotlab.models import FeatureGrouping
from slotlab.segmenting.formats import Photo, segments_of, write_formats
from slotlab.segmenting.image import Fitting, fitting_of, owners_of, take_apart
from slotlab.studio import components
from slotlab.studio.components import (
    THUMBNAIL,
    View,
    at_once,
    at_work,
    begun,
    group,
    jpeg,
    note,
    pane,
    slot_card,
    written,
    zipped,
)
from slotlab.studio.image_chooser import ChosenImage
from slotlab.studio.loaded_models import LoadedModel

LARGEST = 1024  # longer side of the photograph on the page
MOST_SLOTS = 24
HINT = "Point at a part to see its segment; click to select it, then Shift-click other parts to add them to it."
FILES = (
    "Both have the photograph's own size. Cut-outs: each segment with a transparent background. COCO: masks of all "
    "segments (RLE); there are no classes."
)
FILE_NAMES = {"cutouts": "cutouts.zip", "coco": "coco.json"}


@dataclass(frozen=True, eq=False)
class TakenApart:
    """A photograph and its masks; each merge makes a segment part of another."""

    image: ChosenImage
    masks: Tensor  # float16 [K, h, w], of what the model saw
    fitted: Fitting  # which says where that is in the photograph
    small: Image.Image  # the photograph for the page
    merged: tuple[tuple[int, int], ...] = ()
    selected: int | None = None

    def owners(self, size: tuple[int, int]) -> np.ndarray:
        """The segment of each pixel, uint8 [H, W], at a `size` (width, height)."""
        fitted = replace(self.fitted, size=size, seen=(0, 0, *size))
        found = owners_of(fitted.onto_image(mask) for mask in self.masks)
        for part, whole in self.merged:
            found[found == part] = whole
        return found

    def merge(self, part: int, whole: int) -> "TakenApart":
        """With the segment `part` as a part of `whole`; ConfigError if they are no two segments."""
        if part == whole or not {part, whole} <= {*range(len(self.masks))}:
            raise ConfigError("Click on a segment, then Shift-click another one to merge them.")
        return replace(self, merged=(*self.merged, (part, whole)), selected=whole)

    def file(self, kind: str) -> bytes:
        """The content of a file of `FILE_NAMES`, at the photograph's own size."""
        content, name = self.image.file()
        mask = self.owners(self.fitted.size).astype(np.int32)

        def write(folder: Path) -> None:
            (photo := folder.with_name(name)).write_bytes(content)
            write_formats([kind], [Photo(photo, photo.stem, mask)], folder)

        files = written(write)
        return files["coco.json"] if kind == "coco" else zipped(files)


def taken_apart(loaded: LoadedModel, image: ChosenImage, slots: int | None = None) -> TakenApart:
    """Takes an image apart with a model, in another number of `slots` if the model allows it."""
    model, pixels = loaded.model, image.whole()
    if slots is not None and isinstance(model, FeatureGrouping):
        model = copy.copy(model)  # with the same network
        model.slots = slots
    height, width = pixels.shape[:2]
    fitted = fitting_of(model, None, (width, height))
    ((_, masks, _),) = take_apart(model, [fitted.shown(pixels)], model.finer_masks, seed=0)
    small = Image.fromarray(pixels)
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.BILINEAR, reducing_gap=2)
    return TakenApart(image, masks.half(), fitted, small)


def photo_figure(now: TakenApart, text: str = "") -> dict[str, Any]:
    """The photograph under the colours of its segments, and a card for each."""
    owners, image = now.owners(now.small.size), torch.from_numpy(np.array(now.small)).permute(2, 0, 1) / 255
    labels, cards = torch.from_numpy(owners), []
    for number, box, inside in segments_of(owners):
        part, mask = image[:, *box], torch.from_numpy(inside).float()
        cards.append(slot_card(number, part, mask, labels, size=cell_size(part, THUMBNAIL)))
    shown = pane(now.image.title.capitalize(), jpeg(now.small), labels, tint=True)
    content = group(labels.shape, slot_colours(range(len(now.masks))), [shown], cards, text=text)
    keys = {"z": "sl-photo-undo"}
    return {"opacity": 0.45, "merges": True, "selected": now.selected, "hint": HINT, "keys": keys, "groups": [content]}


def photo_view(model: gr.Dropdown, find: Callable[[str], LoadedModel]) -> View:
    """Builds the view."""
    state = gr.State(None)
    info = "The photograph is taken apart into so many segments at most; merges start again."
    slots = gr.Slider(
        2, MOST_SLOTS, step=1, label="Number of slots", info=info, visible=False, elem_id="sl-photo-slots"
    )
    figure = components.figure(elem_id="sl-photo", elem_classes="sl-whole")
    with gr.Row(elem_classes="sl-tools"):
        undo = components.button("Undo merge", "sl-photo-undo")
        cutouts = components.button("Download cut-outs (.zip)", "sl-photo-cutouts", min_width=150)
        coco = components.button("Download COCO JSON", "sl-photo-coco", min_width=150)
    gr.HTML(note(FILES))
    download = components.download()

    def shown(now: TakenApart, loaded: LoadedModel) -> dict[Any, Any]:
        width, height = now.fitted.size
        return {state: now, figure: photo_figure(now, f"{width:,} × {height:,} pixels, taken apart by {loaded.name}.")}

    def again(now: TakenApart | None, name: str, count: float) -> dict[Any, Any]:
        loaded = find(name)
        return shown(taken_apart(loaded, begun(now).image, min(max(int(count), 2), MOST_SLOTS)), loaded)

    def merged(now: TakenApart | None, name: str, event: gr.EventData) -> dict[Any, Any]:
        return shown(begun(now).merge(event.slot, event.into), find(name))

    def unmerged(now: TakenApart | None, name: str) -> dict[Any, Any]:
        if not begun(now).merged:
            raise ConfigError("There is no merge to undo.")
        return shown(replace(begun(now), merged=begun(now).merged[:-1], selected=None), find(name))

    def saved(kind: str, now: TakenApart | None) -> dict[str, str]:
        return components.file(FILE_NAMES[kind], begun(now).file(kind))

    at_work(slots.input, again, [state, model, slots], [state, figure], trigger_mode="always_last")
    at_once(figure.place, merged, [state, model], [state, figure])
    at_work(undo.click, unmerged, [state, model], [state, figure])
    for clicked, kind in ((cutouts, "cutouts"), (coco, "coco")):
        at_work(clicked.click, partial(saved, kind), state, download)

    def refresh(loaded: LoadedModel, image: ChosenImage, earlier: TakenApart | None) -> dict[Any, Any]:
        now = earlier or taken_apart(loaded, image)
        groups = isinstance(loaded.model, FeatureGrouping)
        return {**shown(now, loaded), slots: gr.Slider(value=len(now.masks), visible=groups)}

    return View("Photo", [state, figure, slots], refresh, state=state)
