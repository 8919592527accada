"""The state of one user's compositions, and the pictures of a library's concepts. State is replaced, never altered."""

import dataclasses
import io
import json
import threading
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from slotlab.composition.library import ConceptLibrary
from slotlab.composition.plans import Plan, chosen, scene
from slotlab.composition.recompose import origin, paint_plans
from slotlab.errors import ConfigError, SlotlabError
from slotlab.models import SlotModel
from slotlab.reporting import cells
from slotlab.reporting.concepts import cut_outs
from slotlab.studio.pictures import THUMBNAIL, png, uri

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
            archive.writestr(f"images/{number:06d}.png", png(cells.photograph(kept.image, (width, height))))
            lines.append(
                json.dumps({**origin(library, dataclasses.replace(kept.plan, number=number)), "seed": kept.seed})
            )
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
            return {row: uri(cells.photograph(image, size)) for row, image in zip(rows, alone, strict=True)}


def _painted(model: SlotModel, library: ConceptLibrary, plan: Plan, seed: int) -> Composition:
    (image,) = paint_plans(model, library, [plan], seed)
    return Composition(seed, plan, image.cpu())
