"""Checkpoints of a run: each a folder that is a loadable model and holds what is needed to go on exactly."""

import json
import re
from pathlib import Path
from typing import Any

import torch

from slotlab import hub
from slotlab.atomic import remove, replacing
from slotlab.errors import CheckpointError
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
        hub.save(model, temporary)
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
