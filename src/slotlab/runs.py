"""A whole run from Python, as `slotlab train` does it: preset, data, pictures."""

from pathlib import Path
from typing import Any

from slotlab.config import run_config


def train(
    preset: str,
    *,
    out: str | Path,
    data: str | Path | None = None,
    resume: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    show_progress: bool = True,
    profile: bool = False,
    **overrides: Any,
) -> Path:
    """Trains a model and writes a run folder with checkpoints, history, previews and a loss curve.

    Args:
        preset: a name from `slotlab.list_models()`, or the path of a YAML file like those.
        out: the run folder, new or empty (or, with `resume`, the folder of the run to go on with).
        data: `scenes:VARIANT`, a data set folder, or `kind:PATH`; the preset's own where not given.
        resume: go on from the newest checkpoint, exactly as if the run had not been interrupted.
        accelerator: "auto", "cpu" or "cuda".
        devices: processes on this machine.
        nodes: machines.
        show_progress: draw a live progress bar.
        profile: after the first steps, print where their time went.
        overrides: changes to the preset, e.g. `steps=500, slots=7`, or `**{"decoder.channels": 32}`.

    Returns:
        The run folder, which `slotlab.load` takes.

    Raises:
        ConfigError: an unknown preset or key, a value out of range, or a folder that holds another run.
        DataError: the data cannot be read.
        TrainingStopped: after Ctrl-C, once all is saved.
        TrainingDiverged: the loss became infinite or NaN.
    """
    if data is not None:
        overrides["data.source"] = str(data)
    config = run_config(preset, overrides)

    from slotlab.reporting.previews import Pictures
    from slotlab.training.loop import fit

    return fit(
        config,
        out,
        resume=resume,
        callbacks=[Pictures()],
        accelerator=accelerator,
        devices=devices,
        nodes=nodes,
        show_progress=show_progress,
        profile=profile,
    )
