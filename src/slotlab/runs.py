"""Training runs: a whole one, with a progress bar, previews and curves; and those in a folder."""

import math
import time
import warnings
from collections.abc import Iterator, Sequence, Set
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from slotlab.config import RUN_FILE, RunConfig, read_run_config, run_config
from slotlab.distributed import place_among_processes
from slotlab.errors import CheckpointError, DataError
from slotlab.evaluation import Evaluation, batch_output
from slotlab.figures.curves import figure_image, loss_curves
from slotlab.figures.grid import write_png
from slotlab.figures.slots import reconstruction_grid
from slotlab.models import DiffusionOutput, SlotDiffusion, SlotOutput
from slotlab.training.checkpoint import Row, Run, read_history
from slotlab.training.loop import FINITE_EVERY, Event, train_steps
from slotlab.training.resources import MEASURED, WARM_UP

PREVIEWS_FOLDER = "previews"
LINE_EVERY = 60  # seconds, where there is no terminal for a bar


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
        masks = evaluation.protocol.get("mask_sources", {}).get("masks", "").partition(",")[0]
        write_png(figure_image(loss_curves(run.rows, run.folder.resolve().name, masks)), run.folder / "loss.png")


@contextmanager
def _never_failing(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # hours of training are worth more than a figure
        warnings.warn(f"{what} could not be drawn: {error}", RuntimeWarning, stacklevel=3)


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


class RunFolder(NamedTuple):
    """The state of a run, read from its folder.

    Attributes:
        masks: what the model's masks are called.
        steps: steps of the whole run.
        rows: rows of `history.csv`.
        written: when `history.csv` last changed, in seconds since 1970; 0 before the first row.
        damage: why `history.csv` cannot be read, else empty.
    """

    folder: Path
    preset: str
    masks: str
    steps: int
    rows: list[Row]
    written: float
    damage: str = ""

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @property
    def last(self) -> Row:
        """The last row; empty before the first."""
        return self.rows[-1] if self.rows else {}

    def cells(self) -> list[str]:
        """What tables of runs show: name, preset, state, loss, ARI and FG-ARI."""
        scores = (self.last.get(name) for name in ("validation_loss", "ari", "fg_ari"))
        return [self.name, self.preset, self.state(), *("-" if one is None else f"{one:.3f}" for one in scores)]

    def state(self) -> str:
        """How far the run is, in words."""
        step = int(self.last.get("step", 0))
        if self.damage:
            return self.damage
        if step >= self.steps:
            return f"finished, {self.steps:,} steps"
        if not self.rows:
            return f"no row yet, {self.steps:,} steps to go"
        return f"at step {step:,} of {self.steps:,}, last written {_ago(time.time() - self.written)}"


def run_folders(folder: str | Path) -> list[RunFolder]:
    """The runs in a folder, one level deep, the one written last first; other folders are ignored.

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the one that holds your runs")
    found = [read_run_folder(path.parent) for path in folder.glob(f"*/{RUN_FILE}")]
    return sorted((run for run in found if run is not None), key=lambda run: (-run.written, run.name))


def read_run_folder(folder: Path) -> RunFolder | None:
    """The state of a run; None if its config cannot be read."""
    rows, written, damage = [], 0.0, ""
    try:
        config = read_run_config(folder / RUN_FILE)
    except CheckpointError:
        return None
    try:
        written = (folder / "history.csv").stat().st_mtime  # first: later rows count as new
        rows = read_history(folder)
    except FileNotFoundError:
        pass
    except (OSError, CheckpointError) as error:
        damage = str(error).removeprefix(f"{folder}/")
    titles = (DiffusionOutput if config.model.get("kind") == SlotDiffusion.kind else SlotOutput).titles
    return RunFolder(folder, config.preset, titles["masks"], config.training.steps, rows, written, damage)


def preview_files(folder: Path) -> dict[int, Path]:
    """The preview files of a run folder by step, in order."""
    files = sorted((folder / PREVIEWS_FOLDER).glob("step-*.png"))
    return {int(step): file for file in files if (step := file.stem.partition("-")[2]).isdigit()}


def run_table(runs: Sequence[RunFolder]) -> Table:
    """The runs with their last numbers, for the terminal."""
    table = Table("run", "preset", "state")
    for heading in ("loss", "ARI", "FG-ARI"):
        table.add_column(heading, justify="right")
    for run in runs:
        table.add_row(*map(escape, run.cells()))
    return table


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "less than a minute ago"
