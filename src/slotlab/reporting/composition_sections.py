"""Sections of a report on what was made of a run: its concept library, and compositions with their scores."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from slotlab.composition.library import LIBRARY_FILE, PICTURE_FILE
from slotlab.composition.recompose import SETTINGS_FILE
from slotlab.composition.scoring import SCORES_FILE
from slotlab.errors import CheckpointError
from slotlab.reporting.section import Picture, Section, Table

SHEET_PICTURE = "sheet.png"
PROTOCOLS = {
    "report": "one slot drawn from each concept, background included, no two from one image",
    "shuffle": "slot i of one image, slot i + 1 of the next, and so on, whatever they show",
    "scene": "one background and as many objects as a real image has, at places where they do not collide",
}


def concept_section(library: Path, model: str) -> Section:
    """The concepts of a library: sizes, and the picture that `slotlab concepts show` drew.

    Raises:
        CheckpointError: no library in that folder, or one of another model than that of the fingerprint `model`.
    """
    content = _read(library / LIBRARY_FILE, "make one with: slotlab concepts fit RUN --data DATA --out LIBRARY")
    clusters, slots = content["clusters"], content["slots"]
    _check_model(library, slots["fingerprint"], model)
    rows = [
        ["background" if number == 0 else f"concept {number}", f"{size:,}"]
        for number, size in enumerate(content["sizes"])
    ]
    text = (
        f"Slots of {slots['images']:,} images ({slots['data']['data']}, split {slots['data']['split']}) in "
        f"{clusters['concepts']} concepts, by {clusters['algorithm']}; the background is a concept of its own. Each "
        f"row shows a concept's most central members, cut out of their images."
    )
    return Section(
        "Concepts",
        text,
        tables=[Table("Slots of each concept", ["", "slots"], rows)],
        pictures=_pictures(library / PICTURE_FILE, "A row of slots, cut out of their images, for each concept"),
    )


def composition_section(folder: Path, model: str) -> Section:
    """A composition: its contact sheet, and its scores where it has been scored.

    Raises:
        CheckpointError: no composition in that folder, or one by another model than that of the fingerprint `model`.
    """
    remedy = "make one with: slotlab compose RUN LIBRARY --out DIR"
    settings = _read(folder / SETTINGS_FILE, remedy)
    _check_model(folder, settings["model"]["fingerprint"], model)
    protocol = settings["protocol"]
    text = f"{settings['count']:,} pictures: {PROTOCOLS.get(protocol, protocol)}. Seed {settings['seed']}."
    tables = []
    if (folder / SCORES_FILE).is_file():
        scores = _read(folder / SCORES_FILE, f"{remedy} --score --data DATA")
        measured: dict[str, Any] = scores.pop("protocol")
        rows = [
            [name, f"{result['distance']:.4g}", f"{result['chance']:.3g}", f"{result['generated']['count']:,}"]
            for name, result in scores.items()
        ]
        real = measured["real"]
        caption = (
            f"{measured['distance']} to {real['images']:,} real images ({real['data']}, split {real['split']}, "
            f"{real['resolution']} pixels); reconstructions are the floor"
        )
        tables.append(Table(caption, ["pictures", measured["distance"], "by chance", "n"], rows))
    pictures = _pictures(folder / SHEET_PICTURE, "Each composition beside the images that its slots come from")
    return Section(f"Compositions: {protocol}", text, tables=tables, pictures=pictures)


def _check_model(folder: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise CheckpointError(f"{folder}: is of model {found[:12]}, but the run's is {wanted[:12]}; leave it out")


def _pictures(path: Path, alt: str) -> list[Picture]:
    if not path.is_file():
        return []
    with Image.open(path) as image:
        return [Picture(image.convert("RGB"), alt)]


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {remedy}") from None
