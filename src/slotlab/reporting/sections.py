"""How a model uses its slots, in words: one explanation of each number, for the terminal and for reports."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from rich import box
from rich.table import Table as TerminalTable
from torch import Tensor

from slotlab.composition.compositions import SETTINGS_FILE
from slotlab.composition.library import LIBRARY_FILE, PICTURE_FILE
from slotlab.composition.scoring import SCORES_FILE
from slotlab.errors import CheckpointError
from slotlab.figures.curves import figure_image, loss_curves, slot_use_figure
from slotlab.figures.slots import attention_grid, reconstruction_grid, segmentation_grid, slot_grid
from slotlab.models import AutoencoderOutput, SlotOutput
from slotlab.reporting.previews import PREVIEWS_FOLDER
from slotlab.reporting.tables import mask_titles
from slotlab.training.checkpoint import read_history

CLOSE_UPS = 3  # images whose slots and attention are shown one by one
SCORES = {"ari": "ARI", "fg_ari": "FG-ARI", "miou": "mIoU", "mbo": "mBO"}
ERRORS = {"mse_sum": "MSE, official sum", "mse": "MSE, mean", "psnr": "PSNR (dB)"}


@dataclass(frozen=True)
class Picture:
    """A picture, what it shows in words for those who cannot see it, and the line below it."""

    image: Image.Image
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """A table: its caption, the column headings, and rows whose first cell names the row.

    What follows a line break in a cell is a note to it.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Listing:
    """Text to be shown as it is, such as a command or a file; `folded` hides a long one until it is opened."""

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a report: warnings, text (a blank line starts a new paragraph), listings, tables, pictures."""

    title: str
    text: str = ""
    warnings: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    listings: Sequence[Listing] = ()


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


MASK_WORDS = {
    "masks": "the decoder's masks",
    "attention": "the attention masks",
    "posterior": "the posterior masks",
}


class Explained(NamedTuple):
    """A number of a diagnosis: its name, its value, what is healthy, and what it means."""

    title: str
    value: str
    healthy: str
    meaning: str


def explained(numbers: Mapping[str, Any]) -> list[Explained]:
    """Each number of `Diagnosis.numbers()` that is known, in plain words; what is healthy was measured.

    The protocol and the models are in docs/diagnostics.md.
    """
    slots = len(numbers["slot_use"])
    rows = [
        Explained(
            "slots used",
            f"{numbers['slots_used']:.2f} of {slots}",
            f"near {numbers['objects'] + 1:.2f}, objects + 1" if "objects" in numbers else "objects + 1",
            "slots that own more than 0.5 % of an image; about 1: collapsed",
        ),
        Explained(
            "mask entropy",
            f"{numbers['mask_entropy']:.3f}",
            "below 0.15",
            "0: each pixel belongs to one slot; 1: all slots share it evenly",
        ),
    ]
    if numbers["attention_changes"]:
        changes = ", ".join(f"{change:.3f}" for change in numbers["attention_changes"])
        meaning = "share of the attention that moves to another slot in each iteration after the first"
        rows.append(Explained("attention change", changes, "last below 0.1", meaning))
    if "likeness" in numbers:
        true = numbers.get("true_likeness")
        healthy = "below 0.3" if true is None else f"near {true:.2f}, the true masks'"
        meaning = "ARI between segmentations of different images; near 1, masks ignore the image (tiling)"
        rows.append(Explained("likeness", f"{numbers['likeness']:.3f}", healthy, meaning))
    if "background_slots" in numbers:
        meaning = "slots that own more than a tenth of the true background each"
        rows.append(Explained("background slots", f"{numbers['background_slots']:.2f}", "1", meaning))
    dead = ", ".join(map(str, numbers["dead_slots"])) or "none"
    rows.append(Explained("dead slots", dead, "none", "slots that own more than 0.5 % of no image at all"))
    pairs = "".join(f"; {one} and {other}: {share:.0%}" for one, other, share in numbers["duplicate_pairs"])
    meaning = "pairs of slots per image that hold the same thing; those named do in so many images"
    rows.append(Explained("duplicate slots", f"{numbers['duplicates']:.2f}{pairs}", "below 1", meaning))
    return rows


def diagnosis_table(numbers: Mapping[str, Any], caption: str) -> TerminalTable:
    """The numbers of a diagnosis for the terminal."""
    table = TerminalTable(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", caption_style="dim")
    for heading in ("", "value", "healthy", "what it is"):
        table.add_column(heading)
    for row in explained(numbers):
        table.add_row(*row)
    return table


def diagnosis_section(numbers: Mapping[str, Any]) -> Section:
    """A report's section on how the slots are used."""
    source = MASK_WORDS.get(numbers.get("mask_source", ""))
    text = (
        f"How {numbers['images']:,} images share the slots among them, by {source or 'the masks'}. What is healthy was "
        "measured on trained models; numbers outside are signs, not proofs."
    )
    rows = [[row.title, row.value, row.healthy, row.meaning] for row in explained(numbers)]
    use = ", ".join(f"slot {slot} {share:.0%}" for slot, share in enumerate(numbers["slot_use"]))
    picture = Picture(figure_image(slot_use_figure(numbers)), f"Share of images in which each slot is used: {use}")
    return Section(
        "How slots are used", text, tables=[Table("", ["", "value", "healthy", "what it is"], rows)], pictures=[picture]
    )


def scores(metrics: Mapping[str, Any] | None, evaluate_command: str) -> Section:
    """The metrics with their standard errors, counts and protocol; or how to get them."""
    if metrics is None:
        text = "This run has not been scored yet: it has no metrics.json. Score it and make this report again:"
        return Section("Scores", text, listings=[Listing("", evaluate_command)])
    details: Mapping[str, Any] = metrics.get("details", {})
    tables = []
    if metrics.get("masks") or metrics.get("attention"):
        rows = [
            [title, *(_score(metrics.get(source, {}), details.get(source, {}), name) for name in SCORES)]
            for source, title in mask_titles(metrics.get("protocol", {})).items()
        ]
        tables.append(Table("Segmentation: mean ± standard error", ["", *SCORES.values()], rows))
    row = [
        "",
        *(_score(metrics.get("reconstruction", {}), details.get("reconstruction", {}), n) for n in ERRORS),
    ]
    row += [_number(metrics.get("loss")), _number(metrics.get("slots_used"))]
    headings = ["", *ERRORS.values(), "loss", "slots used"]
    tables.append(Table("Reconstruction: mean ± standard error", headings, [row]))
    text = "Protocol: " + " · ".join(
        f"{_name(name)}: {_value(value)}" for name, value in metrics.get("protocol", {}).items()
    )
    if not metrics.get("masks") and "mask_sources" in metrics.get("protocol", {}):
        text = f"The data has no true masks, so the segmentation could not be scored.\n\n{text}"
    return Section("Scores", text, list(metrics.get("warnings", ())), tables)


def reconstructions(images: Tensor, output: SlotOutput | AutoencoderOutput, mask: Tensor | None) -> Section:
    """All images with their reconstructions, and the segmentations if there are slots."""
    matched = (
        "A predicted segment has the colour of the true object it matches best, the background is grey; segments left "
        "over have colours that no true object has. The numbers are scores of that one image."
        if mask is not None
        else "Each slot has its own colour, the same in every row."
    )
    alt = f"{len(images)} validation images in rows: image, reconstruction, error, and segmentations if there are slots"
    pictures = [Picture(reconstruction_grid(images, output, mask), alt)]
    text = "The first images of the validation data, not chosen by their looks."
    if isinstance(output, SlotOutput):
        text += f" {matched}"
    return Section("Images and reconstructions", text, pictures=pictures)


def slots(images: Tensor, output: SlotOutput, mask: Tensor | None) -> Section:
    """The slots of the first few images one by one."""
    text = (
        "One column per slot: the picture the slot paints (raw), what of it goes into the reconstruction (× mask), and "
        "the pixels where its mask is above one half."
        if output.slot_images is not None
        else "One column per slot: the image, cut out by the slot's mask (× mask), and the pixels that it owns."
    )
    text += " A checker means that nothing is there."
    pictures = [
        Picture(
            slot_grid(images[number], output, number, mask=None if mask is None else mask[number]),
            f"Image {number}: each of {output.masks.shape[1]} slots raw, times its mask, and thresholded by its mask",
            f"Image {number}",
        )
        for number in range(min(CLOSE_UPS, len(images)))
    ]
    return Section("Slots", text, pictures=pictures)


def attention(images: Tensor, output: SlotOutput, mask: Tensor | None) -> Section:
    """Slot attention of the first few images, iteration by iteration."""
    text = (
        "Where each slot looks, a row per iteration of slot attention: brighter is more, on one scale for all. From "
        "row to row the slots should settle on one object each."
    )
    iterations = output.attention.shape[1]
    pictures = [
        Picture(
            attention_grid(images[number], output, number, mask=None if mask is None else mask[number]),
            f"Image {number}: attention maps of {output.masks.shape[1]} slots in {iterations} iterations",
            f"Image {number}",
        )
        for number in range(min(CLOSE_UPS, len(images)))
    ]
    return Section("Attention", text, pictures=pictures)


def segmentations(images: Tensor, output: SlotOutput, mask: Tensor | None) -> Section:
    """True and predicted segmentation over the images."""
    what = "True and predicted" if mask is not None else "Predicted"
    colours = "in matched colours" if mask is not None else "in the colours of the slots"
    text = f"{what} segments laid over the images, {colours}."
    return Section(
        "Segmentations over the images", text, pictures=[Picture(segmentation_grid(images, output, mask), text)]
    )


def curves(run: Path, preset: str, masks: str = "") -> Section:
    """Losses and scores over the training."""
    try:
        rows = read_history(run)
    except FileNotFoundError:
        return Section("Training curves", "The run has no history.csv, so there are no curves to draw.")
    except (OSError, ValueError) as error:
        return Section("Training curves", warnings=[f"history.csv cannot be read: {error}"])
    scored = f", and ARI and FG-ARI of {masks} and attention masks" if masks else ""
    alt = f"Train and validation loss{scored}, against training steps"
    text = f"The last of {len(rows)} validations was at step {rows[-1].get('step', math.nan):.0f}." if rows else ""
    return Section("Training curves", text, pictures=[Picture(figure_image(loss_curves(rows, preset, masks)), alt)])


def preview_history(run: Path) -> Section | None:
    """The first, middle and last preview of the training; None if it has none."""
    files = sorted((run / PREVIEWS_FOLDER).glob("step-*.png"))
    chosen = sorted({0, len(files) // 2, len(files) - 1} & set(range(len(files))))
    pictures = []
    for file in (files[place] for place in chosen):
        step = int(file.stem.partition("-")[2]) if file.stem.partition("-")[2].isdigit() else file.stem
        try:
            with Image.open(file) as image:
                pictures.append(Picture(image.convert("RGB"), f"Validation images at step {step}", f"Step {step}"))
        except (OSError, SyntaxError):  # a preview more or less is no reason to fail
            continue
    return Section("How the images changed while it learned", pictures=pictures) if pictures else None


def origin(config: Mapping[str, Any], training: Mapping[str, Any]) -> Section:
    """The command, the record and the configuration of the run."""
    listings = [Listing("Command", str(training["command"]))] if training.get("command") else []
    listings.append(Listing("Configuration (run.json)", json.dumps(config, indent=2, ensure_ascii=False), folded=True))
    rows = [[_name(name), _value(value)] for name, value in training.items() if name != "command"]
    tables = [Table("Record of the training (training.json)", ["", ""], rows)] if rows else []
    text = "" if training else "The run has no training.json yet: it is written with the first checkpoint."
    return Section("How it was made", text, tables=tables, listings=listings)


def _score(means: Mapping[str, Any], details: Mapping[str, Any], name: str) -> str:
    """A cell: mean ± standard error, and below it the number of images and of degenerate ones."""
    detail: Mapping[str, Any] = details.get(name, {})
    text = _number(means.get(name))
    if (error := detail.get("standard_error")) is not None and math.isfinite(error):
        text += f" ± {_number(error, like=means.get(name))}"
    if "count" in detail:
        text += f"\nn = {detail['count']}, {detail.get('degenerate', 0)} degenerate"
    return text


def _number(value: float | None, like: float | None = None) -> str:
    """Three digits after the point for values around 1, fewer for large and more for small ones."""
    if value is None or not math.isfinite(value):
        return "–"
    scale = abs(value if like is None else like)
    digits = 3 if scale < 10 else 2 if scale < 100 else 1
    return f"{value:z.{5 if 0 < scale < 0.01 else digits}f}"


def _name(key: str) -> str:
    return SCORES.get(key, key.replace("_", " "))


def _value(value: Any) -> str:
    """A JSON value in one line: `{"a": 1, "b": [2, 3]}` is "a = 1; b = 2, 3"."""
    if isinstance(value, Mapping):
        return "; ".join(f"{_name(key)} = {_value(part)}" for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_value, value))
    return "none" if value is None else str(value)
