"""A whole training run: the loop of `training.loop` with previews, curves and a progress bar."""

import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from slotlab.config import RunConfig, run_config
from slotlab.distributed import place_among_processes
from slotlab.evaluation import Evaluation, batch_output
from slotlab.figures.curves import figure_image, loss_curves
from slotlab.figures.grid import write_png
from slotlab.figures.slots import reconstruction_grid
from slotlab.reporting.run_list import PREVIEWS_FOLDER
from slotlab.reporting.tables import mask_titles
from slotlab.training.checkpoint import Run
from slotlab.training.console import TrainingProgress
from slotlab.training.loop import train_steps


def train(
    preset: str,
    *,
    out: str | Path,
    data: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    show_progress: bool = True,
    profile: bool = False,
    **overrides: Any,
) -> Path:
    """Trains a model and writes a run folder with checkpoints, history, previews and a loss curve.

    Args:
        preset: a name from `slotlab.list_models()`, or the path of a YAML file like those.
        out: the run folder: new or empty, or with `resume` the folder of the run.
        data: `scenes:VARIANT`, a data set folder, or `kind:PATH`; by default the preset's own.
        resume: continue from the newest checkpoint, exactly as if never interrupted.
        device: "auto", "cpu" or "cuda".
        devices: processes on this machine.
        nodes: machines.
        show_progress: show a progress bar and the scores of validations.
        profile: print where the time of the first steps goes.
        overrides: changes to the preset: `steps=500, slots=7`, or `**{"decoder.channels": 32}`.

    Returns:
        The run folder, which `slotlab.load` takes.

    Raises:
        ConfigError: an unknown preset or key, a value out of range, or a folder with another run.
        DataError: the data cannot be read.
        TrainingStopped: Ctrl-C, after the run was saved.
        TrainingDiverged: the loss became infinite or NaN.
    """
    if data is not None:
        overrides["data.source"] = str(data)
    options = {"resume": resume, "device": device, "devices": devices, "nodes": nodes, "profile": profile}
    return fit(run_config(preset, overrides), out, show_progress=show_progress, **options)


def fit(config: RunConfig, folder: str | Path, *, show_progress: bool = True, **options: Any) -> Path:
    """Runs `train_steps(config, folder, **options)` with progress and previews."""
    with closing(train_steps(config, folder, **options)) as events:
        begun = next(events)
        is_first = place_among_processes().is_first
        with TrainingProgress(config.training.steps, enabled=show_progress and is_first) as progress:
            progress.show(begun)
            for event in events:
                progress.show(event)
                if is_first and event.kind == "preview":
                    draw_preview(event.run)
                elif is_first and event.evaluation is not None:
                    draw_curves(event.run, event.evaluation)
    return Path(folder)


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
        write_png(figure_image(loss_curves(run.rows, run.folder.resolve().name, masks)), run.folder / "loss.png")


@contextmanager
def _never_failing(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # hours of training are worth more than a figure
        warnings.warn(f"{what} could not be drawn: {error}", RuntimeWarning, stacklevel=3)
