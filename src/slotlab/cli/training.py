"""Commands on runs: train, runs."""

import shlex
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from slotlab.cli import options
from slotlab.cli.options import app, command, say
from slotlab.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from slotlab.config import RunConfig


@command(app)
def train(
    preset: Annotated[str, Argument(help="The name of a preset (slotlab models), or a YAML file like one.")],
    changes: Annotated[
        list[str] | None, Argument(metavar="[key=value]...", help="Settings to change in the preset.")
    ] = None,
    out: Annotated[
        Path | None, Option(metavar="RUN", help="The run folder: a new one, or with --resume an existing.")
    ] = None,
    data: options.OptionalData = None,
    resume: Annotated[
        bool, Option("--resume", help="Continue exactly from the newest checkpoint, if there is one.")
    ] = False,
    device: options.Device = "auto",
    devices: Annotated[int, Option(help="Processes on this machine; torchrun's own count comes first.")] = 1,
    nodes: Annotated[int, Option(help="Machines.")] = 1,
    profile: Annotated[bool, Option("--profile", help="Print where the time of the first steps went.")] = False,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print all settings of the run and what they mean; train nothing.")
    ] = False,
) -> None:
    """Train a model. Ctrl-C saves a checkpoint; run the same command with --resume to continue.

    Without --data it trains on the data set that the preset names.

    [bold]slotlab train scenes-32 --out runs/first steps=500 batch_size=16[/bold]

    [bold]slotlab train slot-attention-clevrtex --data data/clevrtex --out runs/clevrtex[/bold]

    Slot diffusion is trained in two stages: [bold]slotlab train scenes-64-latents --out
    runs/latents[/bold], then [bold]slotlab train scenes-64-diffusion --out runs/diffusion
    start_from=scenes-64 autoencoder.pretrained=runs/latents[/bold]

    On many GPUs: [bold]slotlab train PRESET --data PATH --out RUN --devices 8[/bold]; of many
    machines, on each:
    [bold]torchrun --nnodes 2 --nproc-per-node 8 ... -m slotlab train PRESET --out RUN[/bold]
    """
    from slotlab.config import RUN_FILE, parse_overrides, read_run_config, run_config

    settings = parse_overrides(changes or [])
    if mistaken := settings.keys() & signature(train).parameters.keys():
        remedy = "options begin with --, see slotlab train --help"
        raise ConfigError(f"{min(mistaken)}: not a setting of a preset; {remedy}")
    config = run_config(preset, settings | ({} if data is None else {"data.source": data}))
    if dry_run:
        say(settings_table(config))
        return
    from slotlab.distributed import place_among_processes
    from slotlab.reporting.tables import evaluate_command
    from slotlab.runs import fit

    if out is None:
        raise ConfigError("--out: missing; name the folder of the run, or add --dry-run to see its settings")
    if resume and not (out / RUN_FILE).is_file():
        say(f"{out}: no run to resume; starting a new one")
    fit(config, out, resume=resume, device=device, devices=devices, nodes=nodes, profile=profile)
    if place_among_processes().is_first:  # of the processes that --devices started
        trained_on = read_run_config(out / RUN_FILE).data
        evaluation = evaluate_command(str(out), trained_on.source, trained_on.model_dump())
        say(f"trained: {out}; next: {evaluation}, then slotlab report {shlex.quote(str(out))}")


def settings_table(config: "RunConfig") -> "Table":
    """Every setting of a run: its key, value and meaning."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from slotlab.config import settings_of

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("key", "value", "meaning"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "key")  # to be copied whole
    for key, (default, meaning) in settings_of(config.model).items():
        value: Any = config.model_dump()
        for name in key.split("."):
            value = value.get(name, default) if isinstance(value, dict) else default
        table.add_row(key, escape("none" if value is None else str(value)), escape(meaning))
    return table


@command(app)
def runs(folder: Annotated[Path, Argument(metavar="DIR", help="The folder that holds the run folders.")]) -> None:
    """List the training runs in a folder, with their progress and latest scores.

    [bold]slotlab runs runs[/bold]
    """
    from slotlab.reporting.run_list import run_folders, run_table

    found = run_folders(folder)
    nothing = f"{folder}: contains no runs; give the folder above the run folders, such as runs for runs/first"
    say(run_table(found) if found else nothing)
