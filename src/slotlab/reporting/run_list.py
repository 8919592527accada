"""The training runs in a folder: how far each is, and what it has written."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from slotlab.config import RUN_FILE, read_run_config
from slotlab.errors import CheckpointError, DataError
from slotlab.models import DiffusionOutput, SlotDiffusion, SlotOutput
from slotlab.training.checkpoint import Row, read_history

PREVIEWS_FOLDER = "previews"


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
