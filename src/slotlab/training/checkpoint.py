"""What a run writes: checkpoints, history, rows for loggers, and where a result comes from."""

import csv
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from zipfile import ZipFile

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

import slotlab
from slotlab import checkpoints
from slotlab.config import RunConfig
from slotlab.data import SlotDataset
from slotlab.errors import CheckpointError, ConfigError
from slotlab.files import read_json, regular, remove, replacing, write_json
from slotlab.models import TrainableModel

if TYPE_CHECKING:  # takes seconds to load, and reports do not need it
    from lightning_fabric import Fabric

TRAINER_FILE = "trainer.pt"
TRAINING_FILE = "training.json"


def write_checkpoint(
    folder: Path, model: TrainableModel, training: dict[str, Any], trainer: dict[str, Any] | None = None
) -> None:
    """Writes a checkpoint folder whole or not at all; to resume takes the state of a trainer."""
    size = sum(tensor.nbytes for tensor in model.state_dict().values()) + _bytes(trainer)
    with replacing(folder, synced=True, size=size) as temporary:
        temporary.mkdir()
        checkpoints.save(model, temporary)
        write_json(temporary / TRAINING_FILE, training)
        if trainer is not None:
            with (temporary / TRAINER_FILE).open("wb") as file:  # given a path, torch hides faults
                torch.save(trainer, file)


def _bytes(state: Any) -> int:
    values = state.values() if isinstance(state, Mapping) else state if isinstance(state, list) else ()
    return state.nbytes if isinstance(state, Tensor) else sum(map(_bytes, values))


def read_trainer(folder: Path) -> dict[str, Any]:
    """What a checkpoint holds to resume from; CheckpointError if it is missing or damaged."""
    path = folder / TRAINER_FILE
    with _remedy(path), ZipFile(regular(path)) as archive:
        if (damaged := archive.testzip()) is not None:  # torch compares no checksums
            raise ValueError(damaged)
        return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def _remedy(path: Path) -> Iterator[None]:
    """Turns any error about the state of a trainer into CheckpointError."""
    try:
        yield
    except Exception as error:
        fault = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({type(error).__name__})"
        remedy = f"remove {path.parent} to resume from the checkpoint before it"
        raise CheckpointError(f"{path}: {fault}; {remedy}") from error


def weights_name(averaged: bool) -> str:
    """The name of a checkpoint's weights in protocols."""
    return "moving average" if averaged else "last step"


def weights_of(folder: Path) -> str | None:
    """`weights_name` of the model in `folder` by its `training.json`; None if that is unknown."""
    try:
        return weights_name(bool(read_json(folder / TRAINING_FILE, "")["averaged_weights"]))
    except (CheckpointError, KeyError):
        return None


def step_folder(run: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` updates."""
    return run / "checkpoints" / f"step-{step:08d}"


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint of `run` with the most steps, or None."""
    return max(_checkpoints(run), default=None)


def prune_checkpoints(run: Path, keep: int) -> None:
    """Removes all but the `keep` newest step checkpoints."""
    for folder in _checkpoints(run)[:-keep]:
        remove(folder)


def _checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-" + "[0-9]" * 8))


DIAGNOSED = ("slots_used", "mask_entropy", "attention_change")
COLUMNS = (
    *("step", "epoch", "images", "seconds", "train_loss", "validation_loss", "learning_rate", "gradient_norm"),
    *("images_per_second", "ari", "fg_ari", "attention_ari", "attention_fg_ari", "posterior_ari", "posterior_fg_ari"),
    *DIAGNOSED,
)
RESUMED = ("step", "seconds", "best_loss", "rows")  # fields of a run that a checkpoint holds
Row = dict[str, float]


class History:
    """Writes the rows of a run to `history.csv` and to the loggers of its config.

    Args:
        folder: the run folder.
        rows: the rows of a resumed run; later rows on disk are dropped.
        config: of the run.
    """

    def __init__(self, folder: Path, rows: list[Row], config: RunConfig) -> None:
        self.path = folder / "history.csv"
        first = int(rows[-1]["step"]) + 1 if rows else 0
        self._loggers = [open_logger(kind, folder, config, first) for kind in config.training.logger]
        if rows:
            self._write(rows)
        else:
            self.path.unlink(missing_ok=True)

    def write(self, rows: list[Row]) -> None:
        """Writes all rows, of which the last is new; their keys are among `COLUMNS`."""
        self._write(rows)
        for logger in self._loggers:
            numbers = {name: value for name, value in rows[-1].items() if name != "step"}
            logger.log_metrics(numbers, int(rows[-1]["step"]))

    def close(self) -> None:
        """Waits for what loggers have not written yet, and ends them."""
        for logger in self._loggers:
            logger.finalize("success")
            if finish := getattr(logger.experiment, "finish", None):  # wandb
                finish()

    def _write(self, rows: list[Row]) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(rows)


IDS_FILE = "loggers.json"  # what each logger calls the run, so that a resumed run continues it
FABRIC_LOGGERS = {
    "tensorboard": ("lightning_fabric", "TensorBoardLogger"),
    "wandb": ("pytorch_lightning", "WandbLogger"),
    "mlflow": ("pytorch_lightning", "MLFlowLogger"),
}


def check_loggers(kinds: Iterable[str]) -> None:
    """Raises ConfigError if what a logger needs is not installed."""
    for kind in kinds:
        if missing := [name for name in (kind, FABRIC_LOGGERS[kind][0]) if find_spec(name) is None]:
            lacking = " and ".join(missing)
            raise ConfigError(f"training.logger: {lacking} not installed; pip install 'slotlab[{kind}]'")


def open_logger(kind: str, folder: Path, config: RunConfig, first_step: int) -> Any:
    """Opens a Fabric logger for a run, which has the name of its folder.

    Args:
        kind: "tensorboard" writes to `tensorboard/` in the run folder, "wandb" and "mlflow" to
            where their environment variables say; without them MLflow writes to `mlflow.db` there.
        folder: the run folder.
        config: the config of the run.
        first_step: TensorBoard drops what a killed run wrote from here on.
    """
    ids_path, whole = folder / IDS_FILE, folder.resolve()
    try:
        ids = read_json(ids_path, "")
    except CheckpointError:
        ids = {}
    named: dict[str, dict[str, Any]] = {
        "tensorboard": {"root_dir": whole, "name": "", "version": kind, "purge_step": first_step},
        "wandb": {"project": "slotlab", "name": whole.name, "save_dir": whole, "id": ids.get(kind)},
        "mlflow": {
            "experiment_name": "slotlab",
            "run_name": whole.name,
            "tracking_uri": os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{whole}/mlflow.db"),
            "run_id": ids.get(kind),
        },
    }
    package, name = FABRIC_LOGGERS[kind]
    logger = getattr(import_module(f"{package}.loggers"), name)(**named[kind])
    logger.log_hyperparams(config.model_dump(mode="json"))
    write_json(ids_path, {**ids, kind: logger.version})
    return logger


def read_history(folder: Path) -> list[Row]:
    """The rows of `history.csv` in a run folder without empty cells; CheckpointError if damaged."""
    try:
        with regular(folder / "history.csv").open(newline="", encoding="utf-8") as file:
            rows = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
        if not all(math.isfinite(row.get("step", 0)) for row in rows):
            raise ValueError("a step is not finite")
    except (TypeError, ValueError, csv.Error) as error:  # TypeError: a row with too many cells
        raise CheckpointError(f"{folder / 'history.csv'}: cannot be read ({error})") from None
    return rows


@dataclass
class Run:
    """The state of a training run in one process."""

    folder: Path
    config: RunConfig
    fabric: "Fabric"
    trained: TrainableModel  # updated by the optimiser
    average: AveragedModel | None  # of its weights
    optimizer: Optimizer
    train_data: SlotDataset
    validation: SlotDataset
    step: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf  # lowest of the validations
    rows: list[Row] = field(default_factory=list)  # of the history
    losses: list[Tensor] = field(default_factory=list)  # of training, since the last row; on the device
    loss: float = math.nan  # of the last step that the loop waited for
    gradient_norm: Tensor = field(default_factory=lambda: torch.zeros(()))  # before clipping
    # Once: the source tree may change while the run trains.
    provenance: dict[str, Any] = field(default_factory=lambda: provenance())

    @property
    def model(self) -> TrainableModel:
        """The model that is evaluated and saved: the moving average, if one is kept."""
        return self.trained if self.average is None else cast(TrainableModel, self.average.module)

    def save(self) -> None:
        """Writes a checkpoint to resume from, and the model itself to the run folder."""
        losses = torch.zeros(0)
        if self.losses:  # the mean of all processes: another number of them resumes with the same
            losses = cast(Tensor, self.fabric.all_reduce(torch.stack(self.losses), reduce_op="mean")).cpu()
        if self.fabric.is_global_zero:
            trainer: dict[str, Any] = {name: getattr(self, name) for name in RESUMED}
            trainer |= {"losses": losses, "model": self.trained.state_dict(), "optimizer": self.optimizer.state_dict()}
            if self.average is not None:
                trainer["average"] = self.average.state_dict()
            checkpoint = step_folder(self.folder, self.step)
            write_checkpoint(checkpoint, self.model, self.facts(), trainer)
            self.take_model(checkpoint)
        self.fabric.barrier()

    def restore(self, checkpoint: Path) -> None:
        """Takes weights, optimiser and history from a checkpoint."""
        saved = read_trainer(checkpoint)
        with _remedy(checkpoint / TRAINER_FILE):
            self.trained.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            for parameter, state in self.optimizer.state.items():
                shapes = {name: getattr(value, "shape", None) for name, value in state.items()}
                if shapes != {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}:
                    raise TypeError("optimizer")
            if self.average is not None:
                self.average.load_state_dict(saved["average"])
            for name in RESUMED:
                if type(saved[name]) is not type(getattr(self, name)):
                    raise TypeError(name)
                setattr(self, name, saved[name])
            self.losses = list(saved["losses"].to(self.fabric.device).unbind())

    def take_model(self, checkpoint: Path) -> None:
        """What follows a checkpoint: the model in the run folder, no older checkpoints."""
        checkpoints.save(self.model, self.folder)
        with replacing(self.folder / TRAINING_FILE, synced=True) as path:
            shutil.copyfile(checkpoint / TRAINING_FILE, path)
        prune_checkpoints(self.folder, self.config.training.keep_checkpoints)

    def facts(self) -> dict[str, Any]:
        """The content of `training.json`: how the weights were made."""
        return {
            **self.provenance,
            "date": now(),
            "preset": self.config.preset,
            "seed": self.config.training.seed,
            "steps": self.step,
            "images": self.step * self.config.training.batch_size,
            "seconds": round(self.seconds, 1),
            "processes": self.fabric.world_size,
            "device": str(self.fabric.device),
            "averaged_weights": self.average is not None,
            "train_data": self.train_data.describe(),
            "validation_data": self.validation.describe(),
        }


def provenance() -> dict[str, Any]:
    """What it takes to repeat a run: version, commit, command, torch, machine, date."""
    program = Path(sys.argv[0])
    is_ours = "slotlab" in (program.stem, program.parent.name)
    return {
        "slotlab": slotlab.__version__,
        "commit": _commit(),
        "command": shlex.join(["slotlab" if is_ours else sys.argv[0], *sys.argv[1:]]),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {torch.get_num_threads()} threads",
        "date": now(),
    }


def now() -> str:
    """Date and time, UTC, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _commit() -> str | None:
    """Commit of the source tree in use; None for an installed package."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # which someone may need meanwhile
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
