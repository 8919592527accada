"""Pictures of a model while it trains: a grid of the same validation images every so often, and the curves so far."""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from slotlab.data import Batch
from slotlab.evaluation import Evaluation
from slotlab.figures.curves import figure_image, loss_curves
from slotlab.figures.slots import reconstruction_grid
from slotlab.files import replacing
from slotlab.models import Model
from slotlab.models.building import evaluating
from slotlab.models.randomness import seeded_generator
from slotlab.reporting.tables import mask_titles
from slotlab.training.checkpoint import Run

PREVIEWS_FOLDER = "previews"
CURVES_FILE = "loss.png"


def draw_preview(run: Run, images: int = 6) -> None:
    """Draws the first validation images as the model sees them now: `previews/step-<number>.png`.

    A preview that cannot be drawn or written is a warning: it never stops the training.
    """

    def draw() -> None:
        batch = run.validation.batch(range(min(images, len(run.validation))))
        output = outputs(run.model, batch, run.config.training.seed)
        picture = reconstruction_grid(batch["image"].cpu(), output, batch.get("mask"))
        write_png(picture, run.folder / PREVIEWS_FOLDER / f"step-{run.step:08d}.png")

    _drawing("the preview", run.step, draw)


def draw_curves(run: Run, evaluation: Evaluation) -> None:
    """Draws the curves of all rows so far: `loss.png`. A failure is a warning."""

    def draw() -> None:
        masks = mask_titles(evaluation.protocol).get("masks", "")
        write_png(figure_image(loss_curves(run.rows, run.config.preset, masks)), run.folder / CURVES_FILE)

    _drawing("the loss curves", run.step, draw)


@torch.inference_mode()
def outputs(model: Model, batch: Batch, seed: int) -> Any:
    """What a model makes of a batch, on the CPU, from the initial slots that `slotlab.evaluate` uses with `seed`.

    The model's mode is restored; no global random numbers are drawn.
    """
    with evaluating(model):
        generators = [seeded_generator(seed, int(index)) for index in batch["index"]]
        output = model(batch["image"].to(next(model.parameters()).device), generators)
    values = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    tensors = {name: value.cpu() for name, value in values.items() if isinstance(value, Tensor)}
    return dataclasses.replace(output, **tensors)


def write_png(picture: Image.Image, path: Path) -> None:
    """Writes a picture as PNG, whole or not at all."""
    with replacing(path) as temporary:
        picture.save(temporary, format="png")


def _drawing(what: str, step: int, draw: Callable[[], None]) -> None:
    try:
        draw()
    except Exception as error:  # whatever goes wrong, hours of training are worth more than a picture
        warnings.warn(f"step {step}: {what} could not be drawn: {error}", RuntimeWarning, stacklevel=2)
