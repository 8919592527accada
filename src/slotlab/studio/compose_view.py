"""The Compose view: new images of objects that come from many images."""

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr
from torch import Tensor

from slotlab.composition.compositions import Plan, chosen, origin, paint_plans, scene
from slotlab.composition.library import BACKGROUND, ConceptLibrary
from slotlab.errors import ConfigError, SlotlabError
from slotlab.figures import grid
from slotlab.figures.composition import cut_outs
from slotlab.figures.grid import data_uri
from slotlab.models import PaintingModel
from slotlab.studio import components
from slotlab.studio.components import AT_ONCE, NO_CARDS, WORK, View, button, note, png, with_messages
from slotlab.studio.edit_session import zipped
from slotlab.studio.image_chooser import ChosenImage
from slotlab.studio.loaded_models import LoadedModel
from slotlab.studio.slot_figure import THUMBNAIL, photograph

MOST_KEPT = 60
MOST_PARTS = 12
MEMBERS = 4  # shown of each concept
NO_LIBRARY = (
    "There is no concept library of this model. Make one with: slotlab concepts fit MODEL --data DATA --out LIBRARY, "
    "and start the studio with --library LIBRARY."
)
CHOOSE = "Click on a concept to add a member of it; click again for one more. Or press Surprise me."
PAINT = "Paint draws a member of each chosen concept. A surprise is a background and objects that do not collide."
KEEP = "The archive contains the images, and a list that says which image each part comes from."


@dataclass(frozen=True, eq=False)
class Composition:
    """A painted composition [3, R, R], and the slots of the library that it is made of."""

    seed: int
    plan: Plan
    image: Tensor


@dataclass(frozen=True, eq=False)
class Composing:
    """The chosen concepts in order (may repeat), the composition that is shown, and those kept in the tray."""

    concepts: tuple[int, ...] = ()
    shown: Composition | None = None
    tray: tuple[Composition, ...] = ()


class SlotImages:
    """Slots of a library as data URIs, each made once: cut out of their images, or painted if the data is missing."""

    def __init__(self, model: PaintingModel, library: ConceptLibrary) -> None:
        self.model, self.library = model, library
        self._found: dict[int, str] = {}
        self._lock = threading.Lock()

    def of(self, rows: Iterable[int]) -> dict[int, str]:
        """The images of some rows of the library."""
        rows = [int(row) for row in rows]
        with self._lock:
            missing = sorted({*rows} - {*self._found})
            if missing:
                self._found |= self._make(missing)
        return {row: self._found[row] for row in rows}

    def _make(self, rows: list[int]) -> dict[int, str]:
        try:
            found = cut_outs(self.model, self.library, self.library.dataset(), rows, THUMBNAIL[0])
            return {row: data_uri(image) for row, image in found.items()}
        except SlotlabError:
            painted = paint_plans(self.model, self.library, [Plan(row, (row,), 1) for row in rows])
            return {row: photograph(image, THUMBNAIL[0]) for row, image in zip(rows, painted, strict=True)}


def compose_view(model: gr.Dropdown, models: Sequence[LoadedModel]) -> View:
    """Builds the view."""
    images = {one.name: SlotImages(one.model, one.library) for one in models if one.library is not None}
    state = gr.State(Composing())
    missing = gr.HTML(note(NO_LIBRARY), visible=False, elem_id="sl-compose-missing")
    with gr.Column() as whole:
        components.heading("Concepts", CHOOSE)
        concepts = components.cards(elem_id="sl-concepts", elem_classes="sl-wide")
        components.heading("Parts of the next image")
        parts = components.cards(elem_id="sl-chosen")
        with gr.Row(elem_classes="sl-tools"):
            paint = button("Paint these", "sl-paint", variant="primary", min_width=110)
            surprise = button("Surprise me", "sl-surprise", min_width=110)
            clear = button("Clear", "sl-choose-none")
            info = "Which members are drawn; it grows by one each time."
            seed = gr.Number(0, precision=0, minimum=0, label="Seed", info=info, min_width=160)
        gr.HTML(note(PAINT))
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                result = components.cards(elem_id="sl-composed", elem_classes="sl-result")
            with gr.Column(scale=3, min_width=280):
                origins = components.cards(elem_id="sl-origins")
        with gr.Row(elem_classes="sl-tools"):
            keep = button("Keep it in the tray", "sl-keep", min_width=130)
            save = button("Download the tray (.zip)", "sl-save-tray", min_width=150)
        components.heading("Tray", KEEP)
        tray = components.cards(elem_id="sl-tray")
    download = components.download()

    def with_parts(now: Composing, name: str, concepts: tuple[int, ...]) -> tuple[Any, ...]:
        if len(concepts) > MOST_PARTS:
            raise ConfigError(f"A composition has at most {MOST_PARTS} parts here.")
        return replace(now, concepts=concepts), _parts(concepts, images[name])

    def choose(now: Composing, name: str, event: gr.EventData) -> tuple[Any, ...]:
        return with_parts(now, name, (*now.concepts, int(event.id)))

    def drop_part(now: Composing, name: str, event: gr.EventData) -> tuple[Any, ...]:
        return with_parts(now, name, _without(now.concepts, event))

    def painted(now: Composing, name: str, seed: float | None, surprise: bool) -> tuple[Any, ...]:
        slots, seed = images[name], int(seed or 0)
        if not (now.concepts or surprise):
            raise ConfigError("Choose at least one concept first, or press Surprise me.")
        library = slots.library
        (plan,) = scene(library, 1, seed) if surprise else chosen(library, now.concepts, 1, seed)
        image = paint_plans(slots.model, library, [plan], seed)[0].cpu()
        shown = {"id": "composition", "image": photograph(image, 288), "title": f"New image, seed {seed}"}
        now = replace(now, shown=Composition(seed, plan, image))
        return now, {"cards": [shown]}, _origins(plan, slots), seed + 1

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

    def save_tray(now: Composing, name: str) -> dict[str, str]:
        if not now.tray:
            raise ConfigError("The tray is empty: keep a composition first.")
        files, lines, library = {}, [], images[name].library
        for number, kept in enumerate(now.tray):
            height, width = kept.image.shape[1:]
            files[f"images/{number:06d}.png"] = png(grid.photograph(kept.image, (width, height)))
            source = origin(library, kept.plan._replace(number=number))
            lines.append(json.dumps({**source, "seed": kept.seed}) + "\n")
        return components.file("compositions.zip", zipped({**files, "compositions.jsonl": "".join(lines)}))

    concepts.choose(with_messages(choose), [state, model], [state, parts], **AT_ONCE)
    parts.drop(with_messages(drop_part), [state, model], [state, parts], **AT_ONCE)
    clear.click(with_messages(lambda now, name: with_parts(now, name, ())), [state, model], [state, parts], **AT_ONCE)
    for clicked in (paint, surprise):
        act = with_messages(partial(painted, surprise=clicked is surprise))
        clicked.click(act, [state, model, seed], [state, result, origins, seed], **WORK)
    keep.click(with_messages(keep_shown), state, [state, tray], **AT_ONCE)
    tray.drop(with_messages(drop_kept), state, [state, tray], **AT_ONCE)
    save.click(with_messages(save_tray), [state, model], download, **WORK)

    def refresh(loaded: LoadedModel, _: ChosenImage) -> tuple[Any, ...]:
        now = Composing()
        if loaded.library is None:
            return now, gr.HTML(visible=True), gr.Column(visible=False), *(gr.skip() for _ in range(5))
        slots = images[loaded.name]
        shown = (_concepts(slots), _parts((), slots), NO_CARDS, NO_CARDS, _tray(()))
        return now, gr.HTML(visible=False), gr.Column(visible=True), *shown

    return View("Compose", [state, missing, whole, concepts, parts, result, origins, tray], refresh, of=("model",))


def _without(items: tuple[Any, ...], event: gr.EventData) -> tuple[Any, ...]:
    place = int(event.id)
    return (*items[:place], *items[place + 1 :])


def _name(concept: int) -> str:
    return "background" if concept == BACKGROUND else f"concept {concept}"


def _concepts(slots: SlotImages) -> dict[str, Any]:
    library = slots.library
    central = [library.central(concept, MEMBERS) for concept in range(library.concepts)]
    found = slots.of(row for rows in central for row in rows)
    cards = [
        {
            "id": str(concept),
            "images": [found[int(row)] for row in rows],
            "title": _name(concept).capitalize(),
            "note": f"{library.sizes[concept]:,} members",
        }
        for concept, rows in enumerate(central)
        if len(rows)
    ]
    return {"cards": cards}


def _parts(concepts: Sequence[int], slots: SlotImages) -> dict[str, Any]:
    nearest = [int(slots.library.central(concept, 1)[0]) for concept in concepts]
    found = slots.of(nearest)
    cards = [
        {"id": str(place), "image": found[row], "title": _name(concept)}
        for place, (concept, row) in enumerate(zip(concepts, nearest, strict=True))
    ]
    return {"cards": cards, "drop": "Leave out", "empty": "Nothing is chosen yet."}


def _origins(plan: Plan, slots: SlotImages) -> dict[str, Any]:
    library, found = slots.library, slots.of(plan.rows)
    cards = [
        {
            "id": str(row),
            "image": found[row],
            "title": _name(int(library.concept[row])),
            "note": f"image {library.table.index[row]}, slot {library.table.number[row]}",
        }
        for row in plan.rows
    ]
    return {"cards": cards}


def _tray(tray: Sequence[Composition]) -> dict[str, Any]:
    cards = [
        {"id": str(place), "image": photograph(kept.image, 112), "title": f"{place + 1}"}
        for place, kept in enumerate(tray)
    ]
    return {"cards": cards, "drop": "Take out", "empty": "Keep the good ones here."}
