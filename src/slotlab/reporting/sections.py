"""The sections of a report: what each shows, as text, tables and figures."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from slotlab.composition.compositions import SETTINGS_FILE
from slotlab.composition.library import BACKGROUND, PICTURE_FILE, ConceptLibrary
from slotlab.composition.scoring import SCORES_FILE
from slotlab.data.images import read_image
from slotlab.errors import CheckpointError, DataError
from slotlab.figures.curves import figure_image, loss_curves, slot_use_figure
from slotlab.figures.slots import attention_grid, reconstruction_grid, segmentation_grid, slot_grid
from slotlab.files import read_json
from slotlab.models import AutoencoderOutput, SlotOutput
from slotlab.reporting.tables import explained, mask_titles
from slotlab.runs import preview_files
from slotlab.training.checkpoint import read_history

CLOSE_UPS = 3  # images whose slots and attention are shown one by one
SCORES = {"ari": "ARI", "fg_ari": "FG-ARI", "miou": "mIoU", "mbo": "mBO"}
ERRORS = {"mse_sum": "MSE, official sum", "mse": "MSE, mean", "psnr": "PSNR (dB)", "feature_error": "feature error"}
SHEET_PICTURE = "sheet.png"
PROTOCOLS = {
    "report": "one slot drawn from each concept, background included, no two from one image",
    "shuffle": "slot i of one image, slot i + 1 of the next, and so on, whatever they show",
    "scene": "one background and as many objects as a real image has, at places where they do not collide",
    "whole": "one background and as many objects as a real image has, mostly whole ones, which do not collide",
}
MASK_WORDS = {"masks": "the decoder's", "attention": "the attention", "posterior": "the posterior"}


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
    """A part of a report; in its text a blank line starts a paragraph, `level` is of its heading.

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
    level: int = 2


def concept_section(folder: Path, model: str) -> Section:
    """The concepts of a library: their sizes, and the figure that `slotlab concepts show` drew."""
    library = ConceptLibrary.load(folder)
    facts, data = library.table.facts, library.table.facts["data"]
    _check_model(folder, facts["fingerprint"], model)
    names = [f"concept {number}" for number in range(library.concepts)]
    names[BACKGROUND] = "background"
    rows = [[name, f"{size:,}"] for name, size in zip(names, library.sizes, strict=True)]
    text = (
        f"Slots of {facts['images']:,} images ({data['data']}, split {data['split']}) in {library.concepts} "
        f"concepts, by {library.facts['algorithm']}; the background is a separate concept. Each row shows a concept's "
        "most central members, cut out of their images."
    )
    tables = [ReportTable("Slots of each concept", ["", "slots"], rows)]
    figures = _stored_figures(folder / PICTURE_FILE, "A row of slots, cut out of their images, for each concept")
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
        distance, real = (scores["protocol"][key] for key in ("distance", "real"))
        rows = [
            [name, f"{result['distance']:.4g}", f"{result['chance']:.3g}", f"{result['generated']['count']:,}"]
            for name, result in scores.items()
            if name != "protocol"
        ]
        caption = (
            f"{distance} to {real['images']:,} real images ({real['data']}, split {real['split']}, "
            f"{real['resolution']} pixels); reconstructions are the floor"
        )
        tables.append(ReportTable(caption, ["images", distance, "by chance", "n"], rows))
    figures = _stored_figures(folder / SHEET_PICTURE, "Each composition beside the images that its slots come from")
    return Section(f"Compositions: {protocol}", text, tables=tables, figures=figures)


def _check_model(folder: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise CheckpointError(f"{folder}: is of model {found[:12]}, but the run's is {wanted[:12]}; leave it out")


def _stored_figures(path: Path, alt: str, caption: str = "") -> list[ReportFigure]:
    """The image in a file; none if it is missing or cannot be read."""
    try:
        return [ReportFigure(Image.fromarray(read_image(path)), alt, caption)]
    except DataError:
        return []


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
        columns = SCORES | ({"mbo_class": "mBO by class"} if "mbo_class" in metrics.get("masks", {}) else {})
        rows = [[title, *cells(source, columns)] for source, title in mask_titles(protocol).items()]
        for title, found in metrics.get("baselines", {}).items():
            details = [found.get(name, {}) for name in columns]
            rows.append([title, *[_score(one.get("mean"), one) for one in details]])
        tables.append(ReportTable("Segmentation: mean ± standard error", ["", *columns.values()], rows))
    errors = {name: title for name, title in ERRORS.items() if name in metrics.get("reconstruction", {})}
    row = ["", *cells("reconstruction", errors), _number(metrics.get("loss")), _number(metrics.get("slots_used"))]
    headings = ["", *errors.values(), "loss", "slots used"]
    tables.append(ReportTable("Reconstruction: mean ± standard error", headings, [row]))
    text = "Protocol: " + " · ".join(f"{_name(name)}: {_value(value)}" for name, value in protocol.items())
    if not metrics.get("masks") and "mask_sources" in protocol:
        text = f"The data has no true masks, so the segmentation could not be scored.\n\n{text}"
    return Section("Scores", text, list(metrics.get("warnings", ())), tables)


def image_sections(images: Tensor, output: SlotOutput | AutoencoderOutput, mask: Tensor | None) -> list[Section]:
    """Reconstructions of all images and, with slots, each slot, its attention and the segments."""
    text = "The first images of the validation data, not chosen by their looks."
    alt = f"{len(images)} validation images in rows: image, reconstruction, error, and segmentations if there are slots"
    whole = ReportFigure(reconstruction_grid(images, output, mask), alt)
    if images.ndim == 5:
        return [Section("Clips", "The first clips of the validation data, not chosen by their looks.", figures=[whole])]
    if not isinstance(output, SlotOutput):
        return [Section("Images and reconstructions", text, figures=[whole])]

    def close_ups(draw: Callable[..., Image.Image], alt: str) -> list[ReportFigure]:
        truth = [None] * len(images) if mask is None else mask
        drawn = (draw(images[n], output, n, mask=truth[n]) for n in range(min(CLOSE_UPS, len(images))))
        return [ReportFigure(figure, f"Image {n}: {alt}", f"Image {n}") for n, figure in enumerate(drawn)]

    colours = "Each slot has its own colour, the same in every row."
    over = "Predicted segments laid over the images, in the colours of the slots."
    if mask is not None:
        colours = (
            "A slot has the colour of the true object it matches best, in every figure of an image; the background is "
            "grey. Slots left over have colours that no true object has. The numbers are scores of that one image."
        )
        over = "True and predicted segments laid over the images, in matched colours."
    slots = "the image, cut out by the slot's mask (× mask), and the pixels that it owns"
    if output.slot_images is not None:
        slots = (
            "the image the slot paints (raw), what of it goes into the reconstruction (× mask), and the pixels where "
            "its mask is above one half"
        )
    attention = (
        "Where each slot looks, a row per iteration of slot attention: brighter is more, on one scale for all. From "
        "row to row the slots should settle on one object each."
    )
    count = output.masks.shape[1]
    each = f"each of {count} slots raw, times its mask, and thresholded by its mask"
    maps = f"attention maps of {count} slots in {output.attention.shape[1]} iterations"
    slots = f"One column per slot: {slots}. A checker means that nothing is there."
    overlays = ReportFigure(segmentation_grid(images, output, mask, cell=176), over)
    return [
        Section("Images and reconstructions", f"{text} {colours}", figures=[whole]),
        Section("Slots", slots, figures=close_ups(slot_grid, each)),
        Section("Attention", attention, figures=close_ups(attention_grid, maps)),
        Section("Segmentations over the images", over, figures=[overlays]),
    ]


def curves(run: Path, masks: str = "") -> Section:
    """Losses and scores over the training."""
    try:
        rows = read_history(run)
    except FileNotFoundError:
        return Section("Training curves", "The run has no history.csv, so there are no curves to draw.")
    except (OSError, CheckpointError) as error:
        return Section("Training curves", warnings=[f"{error}."])
    scored = f", and ARI and FG-ARI of {masks} and attention masks" if masks else ""
    alt = f"Train and validation loss{scored}, against training steps"
    text = f"The last of {len(rows)} validations was at step {rows[-1].get('step', math.nan):.0f}." if rows else ""
    figure = figure_image(loss_curves(rows, run.resolve().name, masks))
    return Section("Training curves", text, figures=[ReportFigure(figure, alt)])


def preview_history(run: Path) -> Section | None:
    """The first, middle and last preview of the training; None if it has none."""
    files = list(preview_files(run).items())
    places = sorted({0, len(files) // 2, len(files) - 1}) if files else []
    figures: list[ReportFigure] = []
    for step, file in (files[place] for place in places):
        figures += _stored_figures(file, f"Validation images at step {step}", f"Step {step}")
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
