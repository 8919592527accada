"""A whole training run: the loop of `training.loop` with previews and a progress bar."""

from contextlib import closing
from pathlib import Path
from typing import Any

from slotlab.config import RunConfig, run_config


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
    from slotlab.distributed import place_among_processes
    from slotlab.reporting.previews import draw_curves, draw_preview
    from slotlab.training.console import TrainingProgress
    from slotlab.training.loop import train_steps

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
