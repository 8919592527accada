"""Figures drawn while a model trains: the same validation images, and the curves so far."""

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from slotlab.data import Batch
from slotlab.evaluation import Evaluation
from slotlab.figures.curves import figure_image, loss_curves
from slotlab.figures.grid import write_png
from slotlab.figures.slots import reconstruction_grid
from slotlab.models import Model, SlotOutput
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
    with _never_failing(f"step {run.step}: the preview"):
        batch = run.validation.batch(range(min(images, len(run.validation))))
        output = batch_output(run.model, batch, run.config.training.seed)
        preview = reconstruction_grid(batch["image"].cpu(), output, batch.get("mask"))
        write_png(preview, run.folder / PREVIEWS_FOLDER / f"step-{run.step:08d}.png")


def draw_curves(run: Run, evaluation: Evaluation) -> None:
    """Draws the curves of all rows so far: `loss.png`. A failure is a warning."""
    with _never_failing(f"step {run.step}: the loss curves"):
        masks = mask_titles(evaluation.protocol).get("masks", "")
        write_png(figure_image(loss_curves(run.rows, run.folder.resolve().name, masks)), run.folder / CURVES_FILE)


@torch.inference_mode()
def batch_output(model: Model, batch: Batch, seed: int) -> Any:
    """A model's output for one batch, on the CPU, as `slotlab.evaluation.outputs` yields it."""
    with evaluating(model):
        generators = [seeded_generator(seed, int(index)) for index in batch["index"]]
        output = model(batch["image"].to(next(model.parameters()).device), generators)
    if isinstance(output, SlotOutput):
        return output.cpu()
    return dataclasses.replace(output, reconstruction=output.reconstruction.cpu())


def preview_files(folder: Path) -> dict[int, Path]:
    """The preview files of a run folder by step, in order."""
    files = sorted((folder / PREVIEWS_FOLDER).glob("step-*.png"))
    return {int(step): file for file in files if (step := file.stem.partition("-")[2]).isdigit()}


@contextmanager
def _never_failing(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # hours of training are worth more than a figure
        warnings.warn(f"{what} could not be drawn: {error}", RuntimeWarning, stacklevel=3)
