"""The live view of a training run in the terminal."""

from collections.abc import Sequence, Set
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from slotlab.training.history import Row


class TrainingProgress:
    """A bar with step, loss, images/s and ETA, and a line for each validation; plain lines where there is no terminal.

    Args:
        steps: steps of the whole run.
        enabled: draw anything at all.
    """

    def __init__(self, steps: int, enabled: bool) -> None:
        self.enabled = enabled
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
        self._told: set[str] = set()
        self._before: Set[str] = set()
        self._task = self._bar.add_task("training", total=steps, loss="-", speed="-")

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, step: int) -> None:
        """Begins at `step`, so that a resumed run's ETA is right."""
        self._bar.reset(self._task, completed=step)

    def update(self, step: int, batch_size: int, losses: Sequence[Tensor]) -> None:
        """Moves the bar to `step`; now and then shows loss and speed (reading a loss waits for the device)."""
        self._bar.update(self._task, completed=step)
        if step % 10 == 0 and losses:
            speed = self._bar.tasks[0].speed
            self._bar.update(
                self._task, loss=f"{float(losses[-1]):.4f}", speed=f"{speed * batch_size:.0f}" if speed else "-"
            )

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(text, highlight=False)

    def tell(self, row: Row, warnings: Sequence[str]) -> None:
        """Prints one line for a validation, and each kind of warning once, when it was there the time before too."""
        scores = "  ".join(
            f"{name.upper().replace('_', '-')} {row[name]:.3f}" for name in ("ari", "fg_ari") if name in row
        )
        self.console.print(
            f"step {row['step']:.0f}  train loss {row['train_loss']:.4f}  "
            f"validation loss {row['validation_loss']:.4f}  {scores}  {row['images_per_second']:.1f} images/s",
            highlight=False,
        )
        kinds = {warning.partition(":")[0]: warning for warning in warnings}
        for kind in (kinds.keys() & self._before) - self._told:
            self._told.add(kind)
            self.console.print(f"[yellow]warning:[/yellow] {kinds[kind]}", highlight=False)
        self._before = kinds.keys()
