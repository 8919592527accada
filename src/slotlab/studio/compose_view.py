"""The Compose view: new images of objects that come from many images."""

import json
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gradio as gr
import numpy as np
import torch
from torch import Tensor

from slotlab.composition.compositions import PROTOCOLS, Plan, origin, paint_plans
from slotlab.composition.library import BACKGROUND, ConceptLibrary
from slotlab.errors import ConfigError
from slotlab.figures import grid
from slotlab.models import PaintingModel
from slotlab.models.building import evaluating
from slotlab.models.sampling import seeded_generator
from slotlab.studio import components
from slotlab.studio.components import THUMBNAIL, View, around, at_once, at_work, button, note, photograph, png, zipped
from slotlab.studio.edit_session import CANNOT_PAINT
from slotlab.studio.image_chooser import ChosenImage
from slotlab.studio.loaded_models import LoadedModel

MOST_KEPT = 60
MOST_PARTS = 12
MEMBERS = 4  # shown of each concept at a time
NO_LIBRARY = (
    "There is no concept library of this model. Make one with: slotlab concepts fit MODEL --data DATA --out LIBRARY, "
    "and start the studio with --library LIBRARY."
)
CHOOSE = "A concept is a group of objects that are alike to the model. Click on one of its members to add it."
PAINT = (
    "Each part is painted where it was in its own image, so parts from one place cover each other. A surprise draws a "
    "background and objects that do not collide."
)
KEEP = "The archive contains the images, and a list that says which image each part comes from."


@dataclass(frozen=True, eq=False)
class Composition:
    """A painted composition [3, R, R], and the slots of the library that it is made of."""

    seed: int
    plan: Plan
    image: Tensor


@dataclass(frozen=True, eq=False)
class Composing:
    """What one user composes with the model of this name."""

    model: str
    rows: tuple[int, ...] = ()  # the chosen slots of its library, in order; they may repeat
    pages: Mapping[int, int] = field(default_factory=dict)  # which members of a concept are shown
    shown: Composition | None = None
    tray: tuple[Composition, ...] = ()


class SlotImages:
    """Slots of a library as the model paints them on a background, cropped; each is made once."""

    def __init__(self, model: PaintingModel, library: ConceptLibrary) -> None:
        self.model, self.library = model, library
        self.background = int(library.central(BACKGROUND, 1)[0])
        self._found: dict[int, str] = {}
        self._lock = threading.Lock()

    def of(self, rows: Iterable[int]) -> list[str]:
        """The images of some rows of the library, as data URIs."""
        rows = [int(row) for row in rows]
        with self._lock:
            missing = sorted({*rows} - {*self._found})
            if missing:
                self._found |= self._painted(missing)
        return [self._found[row] for row in rows]

    @torch.inference_mode()
    def _painted(self, rows: list[int]) -> dict[int, str]:
        behind = np.where(self.library.concept[rows] == BACKGROUND, rows, self.background)
        slots = torch.from_numpy(self.library.slots[np.stack([behind, rows], axis=1)])
        with evaluating(self.model):
            generators = [seeded_generator(0, 0) for _ in rows]  # of a composition with seed 0: objects look alike
            images, masks = self.model.paint(slots.to(next(self.model.parameters()).device), generators)
        found = {}
        for row, image, mask in zip(rows, images.cpu(), masks.cpu(), strict=True):
            window = around(mask[1] >= mask[0])  # all of a background, whose masks are equal
            found[row] = photograph(image[:, *window], THUMBNAIL)
        return found


def compose_view(model: gr.Dropdown, models: Sequence[LoadedModel]) -> View:
    """Builds the view."""
    images = {one.name: SlotImages(one.painting, one.library) for one in models if one.painting and one.library}
    state = gr.State(None)
    missing = gr.HTML(note(NO_LIBRARY), visible=False, elem_id="sl-compose-missing")
    with gr.Column() as whole:
        components.heading("Concepts", CHOOSE)
        concepts = components.cards(elem_id="sl-concepts", elem_classes="sl-wide")
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                components.heading("Parts of the next image", PAINT)
                parts = components.cards(elem_id="sl-chosen")
            with gr.Column(scale=2, min_width=280):
                result = components.cards(elem_id="sl-composed", elem_classes="sl-result")
        with gr.Row(elem_classes="sl-tools"):
            paint = button("Paint these", "sl-paint", variant="primary", min_width=110)
            surprise = button("Surprise me", "sl-surprise", min_width=110)
            clear = button("Clear", "sl-choose-none")
            info = "Of a surprise, and of the noise of models that sample; it grows by one each time."
            seed = gr.Number(0, precision=0, minimum=0, label="Seed", info=info, min_width=160)
        with gr.Row(elem_classes="sl-tools"):
            keep = button("Keep it in the tray", "sl-keep", min_width=130)
            save = button("Download the tray (.zip)", "sl-save-tray", min_width=150)
        components.heading("Tray", KEEP)
        tray = components.cards(elem_id="sl-tray")
    download = components.download()

    def with_rows(now: Composing, rows: tuple[int, ...]) -> tuple[Any, ...]:
        if len(rows) > MOST_PARTS:
            raise ConfigError(f"A composition has at most {MOST_PARTS} parts here.")
        return replace(now, rows=rows), _parts(rows, images[now.model])

    def choose(now: Composing, event: gr.EventData) -> tuple[Any, ...]:
        return with_rows(now, (*now.rows, int(event.id)))

    def drop_part(now: Composing, event: gr.EventData) -> tuple[Any, ...]:
        return with_rows(now, _without(now.rows, event))

    def other_members(now: Composing, event: gr.EventData) -> tuple[Any, ...]:
        concept = int(event.id)
        now = replace(now, pages={**now.pages, concept: now.pages.get(concept, 0) + 1})
        return now, _concepts(images[now.model], now.pages)

    def painted(now: Composing, seed: float | None, surprise: bool) -> tuple[Any, ...]:
        slots, seed = images[now.model], int(seed or 0)
        if not (now.rows or surprise):
            raise ConfigError("Choose at least one part first, or press Surprise me.")
        protocol = PROTOCOLS["scene" if slots.library.table.fill is None else "whole"]
        plan = protocol(slots.library, 1, seed)[0] if surprise else Plan(0, now.rows, len(now.rows))
        image = paint_plans(slots.model, slots.library, [plan], seed)[0].cpu()
        now = replace(now, rows=plan.rows, shown=Composition(seed, plan, image))
        return now, _result(now.shown), _parts(plan.rows, slots), seed + 1

    def keep_shown(now: Composing) -> tuple[Any, ...]:
        if now.shown is None:
            raise ConfigError("There is no composition to keep yet: paint one first.")
        if len(now.tray) >= MOST_KEPT:
            raise ConfigError(f"The tray holds at most {MOST_KEPT} images: download it, then take some out.")
        return with_tray(now, now.tray if now.shown in now.tray else (*now.tray, now.shown))

    def drop_kept(now: Composing, event: gr.EventData) -> tuple[Any, ...]:
        return with_tray(now, _without(now.tray, event))

    def with_tray(now: Composing, tray: tuple[Composition, ...]) -> tuple[Any, ...]:
        return replace(now, tray=tray), _tray(tray)

    def save_tray(now: Composing) -> dict[str, str]:
        if not now.tray:
            raise ConfigError("The tray is empty: keep a composition first.")
        files, lines = {}, []
        for number, one in enumerate(now.tray):
            side = one.image.shape[-1]
            files[f"images/{number:06d}.png"] = png(grid.photograph(one.image, (side, side)))
            source = origin(images[now.model].library, one.plan._replace(number=number))
            lines.append(json.dumps({**source, "seed": one.seed}) + "\n")
        return components.file("compositions.zip", zipped({**files, "compositions.jsonl": "".join(lines)}))

    at_work(concepts.choose, choose, state, [state, parts])
    at_work(concepts.act, other_members, state, [state, concepts])
    at_once(parts.act, drop_part, state, [state, parts])
    at_once(clear.click, lambda now: with_rows(now, ()), state, [state, parts])
    for clicked in (paint, surprise):
        act = partial(painted, surprise=clicked is surprise)
        at_work(clicked.click, act, [state, seed], [state, result, parts, seed])
    at_once(keep.click, keep_shown, state, [state, tray])
    at_once(tray.act, drop_kept, state, [state, tray])
    at_work(save.click, save_tray, state, download)

    def refresh(loaded: LoadedModel, _: ChosenImage, earlier: Composing | None) -> dict[Any, Any]:
        slots = images.get(loaded.name)
        now = earlier or Composing(loaded.name, () if slots is None else (slots.background,))
        why = note(NO_LIBRARY if loaded.painting else CANNOT_PAINT)
        shown = {state: now, missing: gr.HTML(why, visible=slots is None), whole: gr.Column(visible=slots is not None)}
        if slots is None:
            return shown
        shown |= {concepts: _concepts(slots, now.pages), parts: _parts(now.rows, slots)}
        return shown | {result: _result(now.shown), tray: _tray(now.tray)}

    return View("Compose", [state, missing, whole, concepts, parts, result, tray], refresh, ("model",), state)


def _without(items: tuple[Any, ...], event: gr.EventData) -> tuple[Any, ...]:
    place = int(event.id)
    return (*items[:place], *items[place + 1 :])


def _name(concept: int) -> str:
    return "Background" if concept == BACKGROUND else f"Concept {concept}"


def _concepts(slots: SlotImages, pages: Mapping[int, int]) -> dict[str, Any]:
    library, rows = slots.library, []
    for concept, size in enumerate(library.sizes):
        start = pages.get(concept, 0) % math.ceil(size / MEMBERS) * MEMBERS
        rows.append(library.central(concept, start + MEMBERS)[start:].tolist())
    every = [row for members in rows for row in members]
    found = dict(zip(every, slots.of(every), strict=True))
    cards = [
        {
            "id": str(concept),
            "images": [{"id": str(row), "image": found[row]} for row in members],
            "title": _name(concept),
            "note": f"{size:,} members",
        }
        for concept, (size, members) in enumerate(zip(library.sizes, rows, strict=True))
    ]
    return {"cards": cards, "act": "others"}


def _parts(rows: Sequence[int], slots: SlotImages) -> dict[str, Any]:
    library = slots.library
    cards = [
        {
            "id": str(place),
            "image": image,
            "title": _name(int(library.concept[row])),
            "note": f"image {library.table.index[row]}, slot {library.table.number[row]}",
        }
        for place, (row, image) in enumerate(zip(rows, slots.of(rows), strict=True))
    ]
    return {"cards": cards, "act": "Leave out", "empty": "Nothing is chosen yet."}


def _result(shown: Composition | None) -> dict[str, Any]:
    if shown is None:
        return components.NO_CARDS
    image, title = photograph(shown.image, 288), f"New image of {len(shown.plan.rows)} parts, seed {shown.seed}"
    return {"cards": [{"id": "composition", "image": image, "title": title}]}


def _tray(tray: Sequence[Composition]) -> dict[str, Any]:
    cards = [
        {"id": str(place), "image": photograph(one.image, 112), "title": str(place + 1)}
        for place, one in enumerate(tray)
    ]
    return {"cards": cards, "act": "Take out", "empty": "Keep the good ones here."}
