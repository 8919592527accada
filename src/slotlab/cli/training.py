"""Commands on runs and trained models: train, runs, models, publish, export."""

import re
import shlex
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from slotlab.cli import options
from slotlab.cli.options import app, command, say, shown
from slotlab.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from slotlab.config import RunConfig


@command(app)
def train(
    preset: Annotated[
        str, Argument(metavar="PRESET", help="The name of a preset (slotlab models), or a YAML file like one.")
    ],
    changes: Annotated[
        list[str] | None, Argument(metavar="KEY=VALUE", help="Settings to change in the preset.")
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
    from slotlab.runs import run_folders, run_table

    found = run_folders(folder)
    nothing = f"{folder}: contains no runs; give the folder above the run folders, such as runs for runs/first"
    say(run_table(found) if found else nothing)


@command(app)
def models(
    name: Annotated[str | None, Argument(metavar="NAME", help="Print the card of this trained model instead.")] = None,
) -> None:
    """List the trained models that come with slotlab, and the presets for training others.

    [bold]slotlab models textured-128[/bold] prints how that model was trained, its scores, limits
    and licence.
    """
    if name is None:
        from slotlab.reporting.tables import preset_table, released_table

        say(released_table())
        return say(preset_table())
    from rich.markdown import Markdown

    from slotlab.released import CARD_FILE, model_folder

    card = model_folder(name) / CARD_FILE
    if not card.is_file():
        raise CheckpointError(f"{name}: has no card, which slotlab publish writes")
    text = re.sub(r"\A---\n.*?^---\n|^!\[.*?\n", "", card.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    say(Markdown(text))


@command(app)
def publish(
    run: options.Run,
    to: Annotated[str, Option(metavar="FOLDER|hf:OWNER/NAME", help="A new folder, or a name on the hub.")],
    data: options.OptionalData = None,
    private: Annotated[bool, Option("--private", help="Make a new repository on the hub private.")] = False,
    device: options.Device = "auto",
) -> None:
    """Release a model in a folder or on the hub: float16 weights, scores, images, library, card.

    --data says where the run's data set is now, if it was moved.

    [bold]slotlab publish runs/first --to released/first[/bold], then read card.md, then
    [bold]slotlab publish released/first --to hf:me/first[/bold]

    The hub needs a login: [bold]hf auth login[/bold].
    """
    from slotlab.publishing import publish
    from slotlab.released import CARD_FILE, size_of

    steps = publish.steps(run, to, data=data, private=private, device=device)
    name = shown("publishing", None, steps)
    folder = Path(name)
    if folder.is_dir():
        say(f"published: {folder}, {size_of(folder) / 1e6:.1f} MB; read {folder / CARD_FILE}")
    say(f'from Python: slotlab.load("{name}")')


@command(app)
def export(
    run: options.Run,
    to: Annotated[Literal["onnx"], Option(help="The format.")] = "onnx",
    out: Annotated[
        Path | None, Option(metavar="FILE", help="Default: the model's name with the format's ending.")
    ] = None,
) -> None:
    r"""Write a model in another format, and check that it gives the same numbers.

    The ONNX file takes images [B, 3, R, R] in [0, 1] and gives slots, attention, masks and more.
    This needs [bold]pip install 'slotlab\[onnx]'[/bold].

    [bold]slotlab export textured-128 --to onnx --out textured-128.onnx[/bold]
    """
    from slotlab.checkpoints import load
    from slotlab.exporting import export

    path = out or Path(f"{Path(run).name}.{to}")
    differences = export(load(run), path)
    say(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB; largest difference in onnxruntime {max(differences.values()):.1g}"
    )
