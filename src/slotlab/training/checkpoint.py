"""Where a result comes from: package version, commit, command, machine."""

import csv
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import slotlab
from slotlab import checkpoints
from slotlab.errors import CheckpointError
from slotlab.files import remove, replacing
from slotlab.models import Model

TRAINER_FILE = "trainer.pt"
TRAINING_FILE = "training.json"
_STEP_FOLDER = re.compile(r"step-(\d{8})$")


def write_checkpoint(
    folder: Path, model: Model, training: dict[str, Any], trainer: dict[str, Any] | None = None
) -> None:
    """Writes a checkpoint folder as a whole: a kill or a full disk leaves what was there before.

    Args:
        folder: where to.
        model: the weights to evaluate (the moving average, where there is one).
        training: what `training.json` says of the run so far.
        trainer: tensors and numbers needed to resume; none for a checkpoint that is only evaluated.
    """
    with replacing(folder) as temporary:
        temporary.mkdir()
        checkpoints.save(model, temporary)
        (temporary / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
        if trainer is not None:
            torch.save(trainer, temporary / TRAINER_FILE)


def read_trainer(folder: Path) -> dict[str, Any]:
    """The state that `write_checkpoint` was given; CheckpointError if it is missing or damaged."""
    path = folder / TRAINER_FILE
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; this folder can be evaluated but not resumed") from None
    except Exception as error:
        raise CheckpointError(
            f"{path}: damaged ({type(error).__name__}); remove {folder} to resume from the checkpoint before it"
        ) from error


def weights_name(averaged: bool) -> str:
    """What protocols call the weights of a checkpoint."""
    return "moving average" if averaged else "last step"


def weights_of(folder: Path) -> str | None:
    """What `weights_name` says of the model in `folder`, by its `training.json`; None where that does not tell."""
    try:
        averaged = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))["averaged_weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return weights_name(bool(averaged))


def step_folder(run: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` updates."""
    return run / "checkpoints" / f"step-{step:08d}"


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint of `run` with the most steps, or None."""
    found = _checkpoints(run)
    return found[-1] if found else None


def prune_checkpoints(run: Path, keep: int) -> None:
    """Removes all but the `keep` newest step checkpoints, and what a process that was killed left half written."""
    for folder in (*_checkpoints(run)[:-keep], *(run / "checkpoints").glob(".*.tmp")):
        remove(folder)


def _checkpoints(run: Path) -> list[Path]:
    return sorted(path for path in (run / "checkpoints").glob("step-*") if _STEP_FOLDER.search(path.name))


DIAGNOSED = ("slots_used", "mask_entropy", "attention_change")
COLUMNS: tuple[str, ...] = (
    "step",
    "epoch",
    "images",
    "seconds",
    "train_loss",
    "validation_loss",
    "learning_rate",
    "gradient_norm",
    "images_per_second",
    "ari",
    "fg_ari",
    "attention_ari",
    "attention_fg_ari",
    "posterior_ari",
    "posterior_fg_ari",
    *DIAGNOSED,
)
Row = dict[str, float]


class History:
    """Rows of a run so far; every `add` rewrites `history.csv` as a whole and appends to TensorBoard.

    Args:
        folder: the run folder.
        rows: what an interrupted run had recorded; later rows on disk are dropped.
    """

    def __init__(self, folder: Path, rows: Iterable[Row] = ()) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.path = folder / "history.csv"
        self.rows = list(rows)
        purge = int(self.rows[-1]["step"]) + 1 if self.rows else 0
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        if self.rows:
            self._write()
        else:
            self.path.unlink(missing_ok=True)

    def add(self, row: Row) -> None:
        """Records a row; its keys are among `COLUMNS`."""
        self.rows.append(row)
        self._write()
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        """Writes what TensorBoard has not written yet, and ends its thread."""
        self._board.close()

    def _write(self) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(self.rows)


def read_history(folder: Path) -> list[Row]:
    """The rows of `history.csv` in `folder`; cells left empty are absent."""
    with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def provenance() -> dict[str, Any]:
    """JSON values that let someone else repeat a run: version, git commit, command, torch, machine, threads, date."""
    return {
        "slotlab": slotlab.__version__,
        "commit": _commit(),
        "command": _command(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {torch.get_num_threads()} threads",
        "date": now(),
    }


def now() -> str:
    """Date and time, UTC, as ISO 8601 has them."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _command() -> str:
    program = Path(sys.argv[0])
    is_ours = program.stem == "slotlab" or program.parent.name == "slotlab"
    return shlex.join(["slotlab" if is_ours else sys.argv[0], *sys.argv[1:]])


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def _commit() -> str | None:
    """Commit of the source tree that runs, or None for an installed package."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # who commits meanwhile is not to be told of a lock
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None
