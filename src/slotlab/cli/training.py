"""Commands on runs: train, evaluate, report."""

import shlex
from inspect import signature
from pathlib import Path
from typing import Annotated

import typer

from slotlab.cli.options import (
    DATA_HELP,
    Crop,
    Data,
    Device,
    MaxObjects,
    MinObjects,
    Run,
    SkipBroken,
    Split,
    Supersample,
    app,
    device_named,
    given,
    say,
    set_threads,
    shared_work,
    shown,
    speaks,
)
from slotlab.errors import ConfigError


@app.command()
def train(
    preset: Annotated[str, typer.Argument(help="A name from `slotlab models`, or a YAML file like a preset.")],
    out: Annotated[Path, typer.Option(help="The run folder: new, or with --resume the one to go on with.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Changes to the preset.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="PATH|scenes:VARIANT", help=DATA_HELP + " Default: the preset's own.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on exactly from the newest checkpoint, if there is one.")
    ] = False,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(help="Processes on this machine; under torchrun its own count.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads per process; 0: all cores.")] = 0,
    profile: Annotated[bool, typer.Option("--profile", help="Print where the first steps' time went.")] = False,
) -> None:
    """Train a model. Ctrl-C saves and says how to go on.

    [bold]slotlab train scenes-32 --out runs/first steps=500 batch_size=16[/bold]

    [bold]slotlab train slot-attention-clevrtex --data data/clevrtex --out runs/clevrtex[/bold]

    Slot diffusion has two stages: [bold]slotlab train scenes-64-latents --out runs/latents[/bold], then
    [bold]slotlab train scenes-64-diffusion --out runs/diffusion start_from=scenes-64
    autoencoder.pretrained=runs/latents[/bold]

    [bold]torchrun --nproc-per-node 8 -m slotlab train PRESET --data PATH --out RUN[/bold]
    """
    from slotlab.config import RUN_FILE, parse_overrides, read_run_config
    from slotlab.distributed import place_among_processes
    from slotlab.reporting.tables import evaluate_command
    from slotlab.runs import train

    set_threads(threads)
    overrides = parse_overrides(changes or [])
    options = overrides.keys() & signature(train).parameters.keys()
    if options:
        raise ConfigError(f"{min(options)}: no setting of a preset; options begin with --, see slotlab train --help")
    if resume and not (out / RUN_FILE).is_file() and speaks():
        say(f"{out}: no run to go on with lies there; a new one begins")
    train(
        preset,
        out=out,
        data=data,
        resume=resume,
        accelerator=device,
        devices=devices,
        nodes=nodes,
        profile=profile,
        **overrides,
    )
    if place_among_processes().is_first:  # of those that --devices started
        trained_on = read_run_config(out / RUN_FILE).data
        scored = evaluate_command(str(out), trained_on.source, trained_on.model_dump())
        say(f"trained: {out}; next: {scored}, then slotlab report {shlex.quote(str(out))}")


@app.command()
@shared_work
def evaluate(
    run: Run,
    data: Data,
    split: Split = "test",
    crop: Crop = None,
    count: Annotated[int | None, typer.Option(help="At most so many images.")] = None,
    min_objects: MinObjects = None,
    max_objects: MaxObjects = None,
    supersample: Supersample = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial slots, and of the noise of samples.")] = 0,
    json: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the scores here too.")] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
    skip_broken: SkipBroken = False,
) -> None:
    """Score a model: ARI, FG-ARI, mIoU, mBO for its masks and its attention masks, and the reconstruction error.

    Writes metrics.json into a run's folder; a released model stays as it is.

    [bold]slotlab evaluate runs/first --data scenes:plain --max-objects 6[/bold] (as scenes-32 was trained)

    [bold]slotlab evaluate scenes-64 --data scenes:plain --max-objects 6 --count 500[/bold]
    """
    from rich.console import Console

    from slotlab.checkpoints import load
    from slotlab.data import open_data
    from slotlab.evaluation import evaluate_steps
    from slotlab.released import is_released, model_folder
    from slotlab.reporting.tables import evaluation_table
    from slotlab.training.checkpoint import weights_of

    set_threads(threads)
    folder = model_folder(run)
    model = load(folder, device_named(device))
    dataset = open_data(
        data,
        split=split,
        resolution=model.resolution,
        crop=crop,
        count=count,
        skip_broken=skip_broken,
        **given(min_objects=min_objects, max_objects=max_objects, supersample=supersample),
    )
    steps = evaluate_steps(model, dataset, batch_size=batch_size, seed=seed, weights=weights_of(folder))
    result = shown("evaluating", len(dataset), steps)
    if not speaks():
        return
    Console().print(evaluation_table(result))
    for warning in result.warnings:
        say(f"warning: {warning}")
    if not is_released(folder):
        result.write(folder / "metrics.json")
    if json is not None:
        result.write(json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    data: Annotated[str | None, typer.Option(metavar="PATH|scenes:VARIANT", help="Pictures from here instead.")] = None,
    images: Annotated[int, typer.Option(help="Number of images to show.")] = 8,
    library: Annotated[Path | None, typer.Option(help="A concept library of the run, to show as well.")] = None,
    compositions: Annotated[
        list[Path] | None, typer.Option("--composition", metavar="DIR", help="What `compose` wrote; may be repeated.")
    ] = None,
) -> None:
    """Make one self-contained HTML file: pictures, metrics with protocol, loss curves, config and command.

    Example: [bold]slotlab report runs/first[/bold]
    """
    from slotlab.reporting.report import write_report

    path = write_report(run, data=data, images=images, library=library, compositions=compositions or ())
    say(f"report: {path.resolve()}")


@app.command()
def runs(folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder in which the runs lie.")]) -> None:
    """List the training runs in a folder: how far each is, and its last scores.

    Example: [bold]slotlab runs runs[/bold]
    """
    from rich.console import Console

    from slotlab.reporting.runs import run_folders, run_table

    found = run_folders(folder)
    if found:
        Console().print(run_table(found))
    else:
        say(f"{folder}: no run lies in it; give the folder that holds the run folders, such as runs for runs/first")
