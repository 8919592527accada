"""The sections of a run's report: each a function from what the run holds to a `Section`."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from slotlab.models import AutoencoderOutput, LatentAutoencoder, SlotAutoencoder, SlotDiffusion, SlotOutput
from slotlab.reporting.curves import figure_image, loss_curves
from slotlab.reporting.figures import attention_grid, reconstruction_grid, segmentation_grid, slot_grid
from slotlab.reporting.previews import PREVIEWS_FOLDER
from slotlab.reporting.section import Listing, Picture, Section, Table
from slotlab.reporting.tables import mask_titles
from slotlab.training.history import read_history

CLOSE_UPS = 3  # images whose slots and attention are shown one by one
SCORES = {"ari": "ARI", "fg_ari": "FG-ARI", "miou": "mIoU", "mbo": "mBO"}
ERRORS = {"mse_sum": "MSE, official sum", "mse": "MSE, mean", "psnr": "PSNR (dB)"}
_SLOTS = (
    "The model was shown images without any labels. It describes each with a few slots: vectors that compete for the "
    "pixels. "
)
_WELL = "If training went well, each object has a slot of its own, and so has the background.\n\n"
_TRUE = "True masks, where the data has them, were used for scores and for colours, never for training. "
HOW_TO_READ = {
    SlotAutoencoder.kind: (
        f"{_SLOTS}Each slot is painted on its own; the masks say which slot owns which pixel, and all slots together "
        f"give back the image. {_WELL}{_TRUE}Decoder masks come from the painted slots, attention masks from slot "
        "attention while the slots are found: two answers of one model, so they are scored apart."
    ),
    SlotDiffusion.kind: (
        f"{_SLOTS}A denoiser that looks at the slots paints them: it begins with noise, so that the picture is a "
        "sample, one of many that the slots allow. It paints in the latents of an autoencoder, whose own picture of "
        f"the image is shown beside as the best that could be reached. {_WELL}{_TRUE}Cross-attention masks say which "
        "slot the denoiser looks at for each place, attention masks come from slot attention while the slots are "
        "found: two answers of one model, so they are scored apart."
    ),
    LatentAutoencoder.kind: (
        "This is the first stage of slot diffusion: an autoencoder that packs images into small latents and unpacks "
        "them again. It knows nothing of objects; the second stage learns to paint slots in these latents, and can "
        "never paint better than what is shown here."
    ),
}


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
