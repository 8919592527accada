"""The sections of a report: what each shows, as text, tables and figures."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from slotlab.composition.compositions import SETTINGS_FILE
from slotlab.composition.library import LIBRARY_FILE, PICTURE_FILE
from slotlab.composition.scoring import SCORES_FILE
from slotlab.errors import CheckpointError
from slotlab.figures.curves import figure_image, loss_curves, slot_use_figure
from slotlab.figures.slots import attention_grid, reconstruction_grid, segmentation_grid, slot_grid
from slotlab.files import read_json
from slotlab.models import AutoencoderOutput, SlotOutput
from slotlab.reporting.previews import preview_files
from slotlab.reporting.tables import explained, mask_titles
from slotlab.training.checkpoint import read_history

CLOSE_UPS = 3  # images whose slots and attention are shown one by one
SCORES = {"ari": "ARI", "fg_ari": "FG-ARI", "miou": "mIoU", "mbo": "mBO"}
ERRORS = {"mse_sum": "MSE, official sum", "mse": "MSE, mean", "psnr": "PSNR (dB)"}


class ReportFigure(NamedTuple):
    """An image in a report, its description for those who cannot see it, and a caption."""

    image: Image.Image
    alt: str
    caption: str = ""


class ReportTable(NamedTuple):
    """A table; the first cell of a row is its heading, and a line break in a cell starts a note."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


class Snippet(NamedTuple):
    """Text shown unchanged, such as a command or a file; a `folded` one is hidden until opened."""

    title: str
    text: str
    folded: bool = False


class Section(NamedTuple):
    """A part of a report; in its text a blank line starts a paragraph.

    Example:
        >>> from slotlab.reporting.report import render_report
        >>> "<p>A &amp; B</p>" in render_report("title", [], "", [Section("One", "A & B")])
        True
    """

    title: str
    text: str = ""
    warnings: Sequence[str] = ()
    tables: Sequence[ReportTable] = ()
    figures: Sequence[ReportFigure] = ()
    snippets: Sequence[Snippet] = ()


SHEET_PICTURE = "sheet.png"
PROTOCOLS = {
    "report": "one slot drawn from each concept, background included, no two from one image",
    "shuffle": "slot i of one image, slot i + 1 of the next, and so on, whatever they show",
    "scene": "one background and as many objects as a real image has, at places where they do not collide",
}


def concept_section(library: Path, model: str) -> Section:
    """The concepts of a library: their sizes, and the figure that `slotlab concepts show` drew."""
    content = read_json(library / LIBRARY_FILE, "make one with: slotlab concepts fit RUN --data DATA --out LIBRARY")
    clusters, slots = content["clusters"], content["slots"]
    _check_model(library, slots["fingerprint"], model)
    names = ("background", *(f"concept {number}" for number in range(1, len(content["sizes"]))))
    rows = [[name, f"{size:,}"] for name, size in zip(names, content["sizes"], strict=True)]
    text = (
        f"Slots of {slots['images']:,} images ({slots['data']['data']}, split {slots['data']['split']}) in "
        f"{clusters['concepts']} concepts, by {clusters['algorithm']}; the background is a separate concept. Each "
        f"row shows a concept's most central members, cut out of their images."
    )
    tables = [ReportTable("Slots of each concept", ["", "slots"], rows)]
    figures = _stored_figure(library / PICTURE_FILE, "A row of slots, cut out of their images, for each concept")
    return Section("Concepts", text, tables=tables, figures=figures)


def composition_section(folder: Path, model: str) -> Section:
    """A composition: its contact sheet, and its scores if it has any."""
    remedy = "make one with: slotlab compose RUN LIBRARY --out DIR"
    settings = read_json(folder / SETTINGS_FILE, remedy)
    _check_model(folder, settings["model"]["fingerprint"], model)
    protocol = settings["protocol"]
    text = f"{settings['count']:,} images: {PROTOCOLS.get(protocol, protocol)}. Seed {settings['seed']}."
    tables = []
    if (folder / SCORES_FILE).is_file():
        scores = read_json(folder / SCORES_FILE, f"{remedy} --score --data DATA")
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
        tables.append(ReportTable(caption, ["images", measured["distance"], "by chance", "n"], rows))
    figures = _stored_figure(folder / SHEET_PICTURE, "Each composition beside the images that its slots come from")
    return Section(f"Compositions: {protocol}", text, tables=tables, figures=figures)


def _check_model(folder: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise CheckpointError(f"{folder}: is of model {found[:12]}, but the run's is {wanted[:12]}; leave it out")


def _stored_figure(path: Path, alt: str) -> list[ReportFigure]:
    return [ReportFigure(Image.open(path).convert("RGB"), alt)] if path.is_file() else []


MASK_WORDS = {"masks": "the decoder's", "attention": "the attention", "posterior": "the posterior"}


def diagnosis_section(numbers: Mapping[str, Any]) -> Section:
    """How the slots are used."""
    whose = MASK_WORDS.get(numbers.get("mask_source", ""), "the")
    text = (
        f"How {numbers['images']:,} images share the slots among them, by {whose} masks. What is healthy was "
        "measured on trained models; numbers outside are signs, not proofs."
    )
    use = ", ".join(f"slot {slot} {share:.0%}" for slot, share in enumerate(numbers["slot_use"]))
    figure = ReportFigure(figure_image(slot_use_figure(numbers)), f"Share of images in which each slot is used: {use}")
    tables = [ReportTable("", ["", "value", "healthy", "what it is"], explained(numbers))]
    return Section("How slots are used", text, tables=tables, figures=[figure])


def scores(metrics: Mapping[str, Any] | None, evaluate_command: str) -> Section:
    """The metrics with standard errors, counts and protocol; or the command that measures them."""
    if metrics is None:
        text = "This run has not been scored yet: it has no metrics.json. Score it and make this report again:"
        return Section("Scores", text, snippets=[Snippet("", evaluate_command)])
    protocol: Mapping[str, Any] = metrics.get("protocol", {})

    def cells(source: str, names: Iterable[str]) -> list[str]:
        details = metrics.get("details", {}).get(source, {})
        return [_score(metrics.get(source, {}).get(name), details.get(name, {})) for name in names]

    tables = []
    if metrics.get("masks") or metrics.get("attention"):
        rows = [[title, *cells(source, SCORES)] for source, title in mask_titles(protocol).items()]
        tables.append(ReportTable("Segmentation: mean ± standard error", ["", *SCORES.values()], rows))
    row = ["", *cells("reconstruction", ERRORS), _number(metrics.get("loss")), _number(metrics.get("slots_used"))]
    headings = ["", *ERRORS.values(), "loss", "slots used"]
    tables.append(ReportTable("Reconstruction: mean ± standard error", headings, [row]))
    text = "Protocol: " + " · ".join(f"{_name(name)}: {_value(value)}" for name, value in protocol.items())
    if not metrics.get("masks") and "mask_sources" in protocol:
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
    figures = [ReportFigure(reconstruction_grid(images, output, mask), alt)]
    text = "The first images of the validation data, not chosen by their looks."
    if isinstance(output, SlotOutput):
        text += f" {matched}"
    return Section("Images and reconstructions", text, figures=figures)


def slots(images: Tensor, output: SlotOutput, mask: Tensor | None) -> Section:
    """The slots of the first few images one by one."""
    text = (
        "One column per slot: the image the slot paints (raw), what of it goes into the reconstruction (× mask), and "
        "the pixels where its mask is above one half."
        if output.slot_images is not None
        else "One column per slot: the image, cut out by the slot's mask (× mask), and the pixels that it owns."
    )
    alt = f"each of {output.masks.shape[1]} slots raw, times its mask, and thresholded by its mask"
    figures = _close_ups(slot_grid, alt, images, output, mask)
    return Section("Slots", f"{text} A checker means that nothing is there.", figures=figures)


def attention(images: Tensor, output: SlotOutput, mask: Tensor | None) -> Section:
    """Slot attention of the first few images, iteration by iteration."""
    text = (
        "Where each slot looks, a row per iteration of slot attention: brighter is more, on one scale for all. From "
        "row to row the slots should settle on one object each."
    )
    alt = f"attention maps of {output.masks.shape[1]} slots in {output.attention.shape[1]} iterations"
    return Section("Attention", text, figures=_close_ups(attention_grid, alt, images, output, mask))


def _close_ups(
    draw: Callable[..., Image.Image], alt: str, images: Tensor, output: SlotOutput, mask: Tensor | None
) -> list[ReportFigure]:
    drawn = (
        draw(image, output, number, mask=None if mask is None else mask[number])
        for number, image in enumerate(images[:CLOSE_UPS])
    )
    return [ReportFigure(figure, f"Image {number}: {alt}", f"Image {number}") for number, figure in enumerate(drawn)]


def segmentations(images: Tensor, output: SlotOutput, mask: Tensor | None) -> Section:
    """True and predicted segmentation over the images."""
    what = "True and predicted" if mask is not None else "Predicted"
    colours = "in matched colours" if mask is not None else "in the colours of the slots"
    text = f"{what} segments laid over the images, {colours}."
    figure = ReportFigure(segmentation_grid(images, output, mask), text)
    return Section("Segmentations over the images", text, figures=[figure])


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
    return Section("Training curves", text, figures=[ReportFigure(figure_image(loss_curves(rows, preset, masks)), alt)])


def preview_history(run: Path) -> Section | None:
    """The first, middle and last preview of the training; None if it has none."""
    files, figures = list(preview_files(run).items()), []
    for place in sorted({0, len(files) // 2, len(files) - 1}) if files else ():
        step, file = files[place]
        try:
            image = Image.open(file).convert("RGB")
        except (OSError, SyntaxError):  # a broken preview is left out
            continue
        figures.append(ReportFigure(image, f"Validation images at step {step}", f"Step {step}"))
    return Section("How the images changed while it learned", figures=figures) if figures else None


def origin(config: Mapping[str, Any], training: Mapping[str, Any]) -> Section:
    """The command, the record and the configuration of the run."""
    snippets = [Snippet("Command", str(training["command"]))] if training.get("command") else []
    snippets.append(Snippet("Configuration (run.json)", json.dumps(config, indent=2, ensure_ascii=False), folded=True))
    rows = [[_name(name), _value(value)] for name, value in training.items() if name != "command"]
    tables = [ReportTable("Record of the training (training.json)", ["", ""], rows)] if rows else []
    text = "" if training else "The run has no training.json yet: it is written with the first checkpoint."
    return Section("How it was made", text, tables=tables, snippets=snippets)


def _score(mean: float | None, details: Mapping[str, Any]) -> str:
    """A cell: mean ± standard error, and below it the number of images and of degenerate ones."""
    text = _number(mean)
    if (error := details.get("standard_error")) is not None and math.isfinite(error):
        text += f" ± {_number(error, like=mean)}"
    if "count" in details:
        text += f"\nn = {details['count']}, {details.get('degenerate', 0)} degenerate"
    return text


def _number(value: float | None, like: float | None = None) -> str:
    """Three digits after the point for values near 1, fewer for large and more for small ones."""
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
