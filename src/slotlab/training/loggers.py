"""Where rows of a run go besides `history.csv`: TensorBoard, Weights & Biases, MLflow."""

import os
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slotlab.config import RunConfig
from slotlab.errors import CheckpointError, ConfigError
from slotlab.files import read_json, write_json

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
