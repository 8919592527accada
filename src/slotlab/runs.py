"""A whole training run: the loop of `training.loop` with a progress bar, previews and curves."""

import math
import time
import warnings
from collections.abc import Iterator, Sequence, Set
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from slotlab.config import RunConfig, run_config
from slotlab.distributed import place_among_processes
from slotlab.evaluation import Evaluation, batch_output
from slotlab.figures.curves import figure_image, loss_curves
from slotlab.figures.grid import write_png
from slotlab.figures.slots import reconstruction_grid
from slotlab.reporting.run_list import PREVIEWS_FOLDER
from slotlab.reporting.tables import mask_titles
from slotlab.training.checkpoint import Row, Run
from slotlab.training.loop import FINITE_EVERY, Event, train_steps
from slotlab.training.resources import MEASURED, WARM_UP

LINE_EVERY = 60  # seconds, where there is no terminal for a bar


class TrainingProgress:
    """A progress bar, and a line for each validation.

    Without a terminal, a line at the first step and whenever `LINE_EVERY` seconds had none.
    """

    def __init__(self, steps: int, enabled: bool = True) -> None:
        self.console = Console(quiet=not enabled)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} images/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not enabled or not self.console.is_terminal,
        )
        self._spoke = -math.inf  # when the last line was printed, in seconds
        self._shown: set[str] = set()
        self._before: Set[str] = set()
        self._task = self._bar.add_task("training", total=steps, loss="-", speed="-")

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        """Shows one event of `train_steps`."""
        run = event.run
        if event.kind == "begun":
            self._bar.reset(self._task, completed=run.step)  # the time left counts from here
            if event.message:
                self.console.print(event.message, highlight=False, soft_wrap=True)
        elif event.kind == "step":
            self._bar.update(self._task, completed=run.step)
            if not self.console.is_terminal and time.monotonic() - self._spoke >= LINE_EVERY:
                done = f"step {run.step} of {run.config.training.steps}"
                self._say(f"{done}  loss {run.loss:.4f}  {run.seconds:.0f} s of training")
            if run.step % FINITE_EVERY == 0:
                speed = self._bar.tasks[0].speed
                images = f"{speed * run.config.training.batch_size:.0f}" if speed else "-"
                self._bar.update(self._task, loss=f"{run.loss:.4f}", speed=images)
        elif event.kind == "profiled":
            self.console.print(profile_table(event.profile or {}, run.config.training.batch_size))
        elif event.kind == "validated" and event.evaluation is not None:
            self.show_validation(run.rows[-1], event.evaluation.warnings)

    def show_validation(self, row: Row, warnings: Sequence[str]) -> None:
        """Prints scores; and each kind of warning once, when two validations in a row give it."""
        scores = "  ".join(
            f"{name.upper().replace('_', '-')} {row[name]:.3f}" for name in ("ari", "fg_ari") if name in row
        )
        self._say(
            f"step {row['step']:.0f}  train loss {row['train_loss']:.4f}  "
            f"validation loss {row['validation_loss']:.4f}  {scores}  {row['images_per_second']:.1f} images/s"
        )
        kinds = {warning.partition(":")[0]: warning for warning in warnings}
        for kind in (kinds.keys() & self._before) - self._shown:
            self._shown.add(kind)
            self._say(f"[yellow]warning:[/yellow] {kinds[kind]}")
        self._before = kinds.keys()

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)
        self._spoke = time.monotonic()


def profile_table(milliseconds: dict[str, float], images: int) -> Table | str:
    """Wall time of each part of a training step and its share; a sentence if there is none."""
    if not milliseconds:
        return f"profile: nothing measured; train for at least {WARM_UP + MEASURED} steps"
    whole = sum(milliseconds.values())
    title = f"a step of {images} images: mean of {MEASURED}, {1000 * images / whole:.1f} images/s"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("part", "ms", "share"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for name, spent in milliseconds.items():
        table.add_row(name, f"{spent:.1f}", f"{spent / whole:.0%}")
    table.add_section()
    table.add_row("all", f"{whole:.1f}", "100%")
    return table


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
