"""The progress of a training run in the terminal."""

import math
import time
from collections.abc import Sequence, Set

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from slotlab.training.checkpoint import Row
from slotlab.training.loop import FINITE_EVERY, Event
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
