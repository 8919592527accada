"""Compose: new pictures of objects that come from many images."""

import dataclasses
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from torch import Tensor

from slotlab.composition.compositions import Plan, chosen, origin, paint_plans, scene
from slotlab.composition.library import BACKGROUND, ConceptLibrary
from slotlab.errors import ConfigError, SlotlabError
from slotlab.figures import grid
from slotlab.figures.composition import cut_outs
from slotlab.figures.grid import photograph as photographed
from slotlab.models import SlotModel
from slotlab.studio import components
from slotlab.studio.components import AT_ONCE, THUMBNAIL, WORK, Payload, View, note, png, politely, uri
from slotlab.studio.state import Loaded, Source

MOST_KEPT = 60
MOST_PARTS = 12


@dataclass(frozen=True, eq=False)
class Composition:
    """A painted composition, and where its slots come from."""

    seed: int
    plan: Plan
    image: Tensor


@dataclass(frozen=True, eq=False)
class Composing:
    """Concepts chosen (in order, may repeat), the composition that is shown, and those kept in the tray."""

    concepts: tuple[int, ...] = ()
    shown: Composition | None = None
    tray: tuple[Composition, ...] = ()

    def with_concept(self, concept: int) -> "Composing":
        """One more concept; ConfigError where there are too many."""
        if len(self.concepts) >= MOST_PARTS:
            raise ConfigError(f"A composition has at most {MOST_PARTS} parts here.")
        return dataclasses.replace(self, concepts=(*self.concepts, concept))

    def kept(self) -> "Composing":
        """The shown composition is put into the tray; ConfigError if there is none, or no room."""
        if self.shown is None:
            raise ConfigError("There is no composition to keep yet: paint one first.")
        if len(self.tray) >= MOST_KEPT:
            raise ConfigError(f"The tray holds at most {MOST_KEPT} pictures: download it, then take some out.")
        if self.shown in self.tray:
            return self
        return dataclasses.replace(self, tray=(*self.tray, self.shown))


def compose_chosen(model: SlotModel, library: ConceptLibrary, concepts: Iterable[int], seed: int) -> Composition:
    """A composition of one member of each chosen concept."""
    concepts = tuple(concepts)
    if not concepts:
        raise ConfigError("Choose at least one concept first, or take a surprise.")
    return _painted(model, library, chosen(library, concepts, 1, seed)[0], seed)


def compose_surprise(model: SlotModel, library: ConceptLibrary, seed: int) -> Composition:
    """A composition by the protocol `scene`: a background, and objects that do not collide."""
    return _painted(model, library, scene(library, 1, seed)[0], seed)


def tray_zip(library: ConceptLibrary, tray: Iterable[Composition]) -> bytes:
    """The kept pictures as PNG files in a zip archive; its `compositions.jsonl` says where each part is from."""
    buffer, lines = io.BytesIO(), []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, kept in enumerate(tray):
            height, width = kept.image.shape[1:]
            archive.writestr(f"images/{number:06d}.png", png(grid.photograph(kept.image, (width, height))))
            lines.append(json.dumps({**origin(library, kept.plan._replace(number=number)), "seed": kept.seed}))
        archive.writestr("compositions.jsonl", "\n".join(lines) + "\n")
    return buffer.getvalue()


class SlotPictures:
    """Pictures of a library's slots as data URIs: cut out of their images, made once and remembered.

    Where the library's data is not at hand, a slot is painted alone instead.
    """

    def __init__(self, model: SlotModel, library: ConceptLibrary) -> None:
        self.model, self.library = model, library
        self._found: dict[int, str] = {}
        self._lock = threading.Lock()

    def of(self, rows: Iterable[int]) -> dict[int, str]:
        """The pictures of some rows of the library."""
        rows = [int(row) for row in rows]
        with self._lock:
            missing = sorted({row for row in rows if row not in self._found})
            if missing:
                self._found |= self._made(missing)
        return {row: self._found[row] for row in rows}

    def _made(self, rows: list[int]) -> dict[int, str]:
        try:
            cut = cut_outs(self.model, self.library, self.library.dataset(), rows, THUMBNAIL)
            return {row: uri(picture) for row, picture in cut.items()}
        except SlotlabError:
            alone = paint_plans(self.model, self.library, [Plan(row, (row,), 1) for row in rows])
            size = (THUMBNAIL, THUMBNAIL)
            return {row: uri(grid.photograph(image, size)) for row, image in zip(rows, alone, strict=True)}


def _painted(model: SlotModel, library: ConceptLibrary, plan: Plan, seed: int) -> Composition:
    (image,) = paint_plans(model, library, [plan], seed)
    return Composition(seed, plan, image.cpu())


MEMBERS = 4  # shown of each concept
LARGE = 288
NO_LIBRARY = (
    "There is no concept library of this model. Make one with: slotlab concepts fit MODEL --data DATA --out LIBRARY, "
    "and start the studio with --library LIBRARY."
)
CHOOSE = "Click on a concept to add a member of it; click again for one more. Or take a surprise."
PAINT = "Paint draws a member of each chosen concept. A surprise is a background and objects that do not collide."
KEEP = "The archive has the pictures, and a list of where each part comes from."


def compose_view(model: gr.Dropdown, find: Callable[[str], Loaded], shelf: Sequence[Loaded]) -> View:
    """Builds the view."""
    cut: dict[str, SlotPictures] = {
        loaded.name: SlotPictures(loaded.model, loaded.library) for loaded in shelf if loaded.library is not None
    }
    state = gr.State(Composing())
    missing = gr.HTML(note(NO_LIBRARY), visible=False, elem_id="sl-compose-missing")
    with gr.Column() as all_of_it:
        gr.HTML(f'<h3 class="sl-group-title">Concepts</h3>{note(CHOOSE)}')
        concepts = components.cards({"cards": []}, elem_id="sl-concepts", elem_classes="sl-wide")
        gr.HTML('<h3 class="sl-group-title">Parts of the next picture</h3>')
        chosen = components.cards({"cards": [], "empty": "Nothing is chosen yet."}, elem_id="sl-chosen")
        with gr.Row(elem_classes="sl-tools"):
            paint = gr.Button("Paint these", variant="primary", size="sm", min_width=110, elem_id="sl-paint")
            surprise = gr.Button("Surprise me", size="sm", min_width=110, elem_id="sl-surprise")
            clear = gr.Button("Choose none", size="sm", min_width=110, elem_id="sl-choose-none")
            seed = gr.Number(
                0, precision=0, minimum=0, label="Seed", info="Which members are drawn; it goes up by one each time.",
                min_width=160, elem_id="sl-compose-seed",
            )  # fmt: skip
        gr.HTML(note(PAINT))
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                result = components.cards({"cards": []}, elem_id="sl-composed", elem_classes="sl-result")
            with gr.Column(scale=3, min_width=280):
                origins = components.cards({"cards": []}, elem_id="sl-origins")
        with gr.Row(elem_classes="sl-tools"):
            keep = gr.Button("Keep it in the tray", size="sm", min_width=130, elem_id="sl-keep")
            save = gr.Button("Download the tray (.zip)", size="sm", min_width=150, elem_id="sl-save-tray")
        gr.HTML(f'<h3 class="sl-group-title">Tray</h3>{note(KEEP)}')
        tray = components.cards({"cards": [], "empty": "Keep the good ones here."}, elem_id="sl-tray")
    courier = components.courier()

    def library_of(name: str) -> tuple[Loaded, ConceptLibrary]:
        loaded = find(name)
        if loaded.library is None:
            raise ConfigError(NO_LIBRARY)
        return loaded, loaded.library

    def choose(now: Composing, name: str, event: gr.EventData) -> tuple[Any, ...]:
        now = now.with_concept(int(event.id))
        return now, _chosen_cards(now, cut[name])

    def unchoose(now: Composing, name: str, event: gr.EventData) -> tuple[Any, ...]:
        place = int(event.id)
        now = dataclasses.replace(now, concepts=(*now.concepts[:place], *now.concepts[place + 1 :]))
        return now, _chosen_cards(now, cut[name])

    def choose_none(now: Composing, name: str) -> tuple[Any, ...]:
        now = dataclasses.replace(now, concepts=())
        return now, _chosen_cards(now, cut[name])

    def painted(now: Composing, name: str, number: float | None) -> tuple[Any, ...]:
        loaded, library = library_of(name)
        return shown(now, name, compose_chosen(loaded.model, library, now.concepts, int(number or 0)))

    def surprised(now: Composing, name: str, number: float | None) -> tuple[Any, ...]:
        loaded, library = library_of(name)
        return shown(now, name, compose_surprise(loaded.model, library, int(number or 0)))

    def shown(now: Composing, name: str, made: Composition) -> tuple[Any, ...]:
        now = dataclasses.replace(now, shown=made)
        _, library = library_of(name)
        return now, _result(made), _origin_cards(library, made, cut[name]), made.seed + 1

    def kept(now: Composing) -> tuple[Any, ...]:
        now = now.kept()
        return now, _tray_cards(now)

    def dropped(now: Composing, event: gr.EventData) -> tuple[Any, ...]:
        place = int(event.id)
        now = dataclasses.replace(now, tray=(*now.tray[:place], *now.tray[place + 1 :]))
        return now, _tray_cards(now)

    def saved(now: Composing, name: str) -> dict[str, str]:
        if not now.tray:
            raise ConfigError("The tray is empty: keep a composition first.")
        return components.parcel("compositions.zip", tray_zip(library_of(name)[1], now.tray), "application/zip")

    concepts.choose(politely(choose), [state, model], [state, chosen], **AT_ONCE)
    chosen.drop(politely(unchoose), [state, model], [state, chosen], **AT_ONCE)
    clear.click(politely(choose_none), [state, model], [state, chosen], **AT_ONCE)
    paint.click(politely(painted), [state, model, seed], [state, result, origins, seed], **WORK)
    surprise.click(politely(surprised), [state, model, seed], [state, result, origins, seed], **WORK)
    keep.click(politely(kept), state, [state, tray], **AT_ONCE)
    tray.drop(politely(dropped), state, [state, tray], **AT_ONCE)
    save.click(politely(saved), [state, model], courier, **WORK)

    def refresh(loaded: Loaded, source: Source) -> tuple[Any, ...]:
        library, empty = loaded.library, {"cards": []}
        if library is None:
            return Composing(), gr.HTML(visible=True), gr.Column(visible=False), *(gr.skip() for _ in range(5))
        return (
            Composing(),
            gr.HTML(visible=False),
            gr.Column(visible=True),
            _concept_cards(library, cut[loaded.name]),
            _chosen_cards(Composing(), cut[loaded.name]),
            empty,
            empty,
            _tray_cards(Composing()),
        )

    return View("Compose", [state, missing, all_of_it, concepts, chosen, result, origins, tray], refresh, of=("model",))


def _concept_name(concept: int) -> str:
    return "background" if concept == BACKGROUND else f"concept {concept}"


def _concept_cards(library: ConceptLibrary, pictures: SlotPictures) -> Payload:
    central = [library.central(concept, MEMBERS) for concept in range(library.concepts)]
    found = pictures.of(row for rows in central for row in rows)
    cards = [
        {
            "id": str(concept),
            "images": [found[int(row)] for row in rows],
            "title": _concept_name(concept).capitalize(),
            "note": f"{library.sizes[concept]:,} members",
        }
        for concept, rows in enumerate(central)
        if len(rows)
    ]
    return {"cards": cards}


def _chosen_cards(now: Composing, pictures: SlotPictures) -> Payload:
    library = pictures.library
    nearest = [int(library.central(concept, 1)[0]) for concept in now.concepts]
    found = pictures.of(nearest)
    cards = [
        {"id": str(place), "image": found[row], "title": _concept_name(concept)}
        for place, (concept, row) in enumerate(zip(now.concepts, nearest, strict=True))
    ]
    return {"cards": cards, "drop": "Leave out", "empty": "Nothing is chosen yet."}


def _result(made: Composition) -> Payload:
    picture = uri(photographed(made.image, (LARGE, LARGE)))
    return {"cards": [{"id": "composition", "image": picture, "title": f"A new picture, seed {made.seed}"}]}


def _origin_cards(library: ConceptLibrary, made: Composition, pictures: SlotPictures) -> Payload:
    found, table = pictures.of(made.plan.rows), library.table
    cards = [
        {
            "id": str(row),
            "image": found[row],
            "title": _concept_name(int(library.concept[row])),
            "note": f"image {table.index[row]}, slot {table.number[row]}",
        }
        for row in made.plan.rows
    ]
    return {"cards": cards}


def _tray_cards(now: Composing) -> Payload:
    cards = [
        {"id": str(place), "image": uri(photographed(kept.image, (112, 112))), "title": f"{place + 1}"}
        for place, kept in enumerate(now.tray)
    ]
    return {"cards": cards, "drop": "Take out", "empty": "Keep the good ones here."}
