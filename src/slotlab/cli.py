"""The `slotlab` command: a thin layer over the public API."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from slotlab.errors import ConfigError, SlotlabError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Learn, without labels, to take pictures apart into their objects (slots); measure it; look at it.\n\n"
    "A first run: [bold]slotlab train scenes-32 --out runs/first[/bold], then "
    "[bold]slotlab evaluate runs/first --data scenes:plain[/bold] and [bold]slotlab report runs/first[/bold].",
)
scenes_app = typer.Typer(no_args_is_help=True, help="Render labelled scenes: no data set needed.")
data_app = typer.Typer(no_args_is_help=True, help="Check data sets, and pack them for fast reading.")
app.add_typer(scenes_app, name="scenes")
app.add_typer(data_app, name="data")

DATA_HELP = "A data set folder or file of any supported kind, kind:PATH to force one, or scenes:VARIANT."
Data = Annotated[str, typer.Option("--data", metavar="PATH|scenes:VARIANT", help=DATA_HELP)]
Split = Annotated[str, typer.Option(help="train, val, test or all.")]
Crop = Annotated[
    float | None, typer.Option(help="Centred crop, fraction of the shorter side; default: 0.8 for CLEVRTex, else 1.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@scenes_app.command("write")
def write_scenes(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    variant: Annotated[str, typer.Option(help="plain, textured, camouflage or outd.")] = "textured",
    count: Annotated[int, typer.Option(help="Number of scenes.")] = 200,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="The same seed gives the same scenes.")] = 0,
    min_objects: Annotated[int, typer.Option(help="Fewest objects in a scene.")] = 3,
    max_objects: Annotated[int, typer.Option(help="Most objects in a scene.")] = 10,
    supersample: Annotated[int, typer.Option(help="Rays per pixel on a side (anti-aliasing).")] = 2,
) -> None:
    """Write scenes to disk in the published CLEVRTex layout; goes on where an interrupted run stopped.

    Example: [bold]slotlab scenes write data/scenes --variant textured --count 200 --size 128 --seed 0[/bold]
    """
    from slotlab.data.scene_writer import write_scenes

    write_scenes(
        out,
        variant=variant,
        count=count,
        resolution=size,
        seed=seed,
        min_objects=min_objects,
        max_objects=max_objects,
        supersample=supersample,
    )
    _say(f"{count} {variant} scenes in {out}; look through them with: slotlab data check {out}")


@data_app.command("check")
def check(path: Annotated[str, typer.Argument(metavar="PATH", help=DATA_HELP)]) -> None:
    """Read everything, and report counts, sizes, the object-number histogram and broken files.

    Ends with status 1 if a file is broken. Example: [bold]slotlab data check data/scenes[/bold]
    """
    from rich.console import Console

    from slotlab.data import check_data

    found = check_data(path, progress=True)
    Console().print(found.table())
    if found.broken:
        raise typer.Exit(1)


@data_app.command("pack")
def pack(
    path: Annotated[str, typer.Argument(metavar="PATH", help=DATA_HELP)],
    out: Annotated[Path, typer.Argument(help="Folder of the packed cache.")],
    resolution: Annotated[int | None, typer.Option(help="Side of the packed images.")] = None,
    crop: Crop = None,
    count: Annotated[int | None, typer.Option(help="At most so many images per split.")] = None,
    max_objects: Annotated[int | None, typer.Option(help="For scenes: most objects in a scene.")] = None,
    skip_broken: Annotated[bool, typer.Option(help="Leave broken images out, and count them.")] = False,
    latents: Annotated[
        str | None, typer.Option(metavar="RUN|HUB NAME", help="Pack the latents of this autoencoder as well.")
    ] = None,
) -> None:
    """Pack a data set, cropped and resized, into a memory-mapped cache that is read without decoding.

    Example: [bold]slotlab data pack data/clevrtex data/clevrtex-128 --resolution 128[/bold]

    For slot diffusion: [bold]slotlab data pack scenes:plain data/plain --resolution 64 --count 20000
    --max-objects 6 --latents runs/latents[/bold]; training then never runs the autoencoder.
    """
    from slotlab.data import pack

    options: dict[str, Any] = {} if max_objects is None else {"max_objects": max_objects}
    if latents is not None:
        from slotlab.pretrained import load_autoencoder

        if resolution is None:
            raise ConfigError("--latents needs --resolution, the side of the images that the autoencoder is to take")
        options["latents"] = load_autoencoder(latents, resolution)
    pack(path, out, resolution=resolution, crop=crop, count=count, skip_broken=skip_broken, progress=True, **options)
    _say(f"packed into {out}; train with: slotlab train PRESET --data {out} --out RUN")


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
    resume: Annotated[bool, typer.Option("--resume", help="Go on exactly from the newest checkpoint.")] = False,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(help="Processes on this machine; under torchrun its own count.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads per process; 0: all cores.")] = 0,
) -> None:
    """Train a model. Ctrl-C saves and says how to go on.

    [bold]slotlab train scenes-32 --out runs/first steps=500 batch_size=16[/bold]

    [bold]slotlab train slot-attention-clevrtex --data data/clevrtex --out runs/clevrtex[/bold]

    Slot diffusion has two stages: [bold]slotlab train scenes-64-latents --out runs/latents[/bold], then
    [bold]slotlab train scenes-64-diffusion --out runs/diffusion autoencoder.pretrained=runs/latents[/bold]

    [bold]torchrun --nproc-per-node 8 -m slotlab train PRESET --data PATH --out RUN[/bold]
    """
    from slotlab.presets.config import parse_overrides
    from slotlab.runs import train

    _set_threads(threads)
    train(
        preset,
        out=out,
        data=data,
        resume=resume,
        accelerator=device,
        devices=devices,
        nodes=nodes,
        **parse_overrides(changes or []),
    )
    _say(f"trained: {out}; next: slotlab evaluate {out} --data PATH, then slotlab report {out}")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, or any folder with a model.")],
    data: Data,
    split: Split = "test",
    crop: Crop = None,
    count: Annotated[int | None, typer.Option(help="At most so many images.")] = None,
    max_objects: Annotated[int | None, typer.Option(help="For scenes: most objects in a scene.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the initial slots, and of the noise of samples.")] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.")] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
    skip_broken: Annotated[bool, typer.Option(help="Replace broken images by the next, and count them.")] = False,
) -> None:
    """Score a model: ARI, FG-ARI, mIoU, mBO for its masks and its attention masks, and the reconstruction error.

    Writes metrics.json into the model's folder. Example: [bold]slotlab evaluate runs/first --data scenes:plain[/bold]
    """
    from rich.console import Console
    from rich.progress import Progress

    from slotlab.data import open_data
    from slotlab.evaluation import evaluate
    from slotlab.hub import load
    from slotlab.reporting.tables import evaluation_table
    from slotlab.training.checkpoint import weights_of

    _set_threads(threads)
    model = load(run, _device(device))
    options = {} if max_objects is None else {"max_objects": max_objects}
    dataset = open_data(
        data,
        split=split,
        resolution=model.resolution,
        crop=crop,
        count=count,
        skip_broken=skip_broken,
        **options,
    )
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("evaluating", total=len(dataset))
        result = evaluate(
            model,
            dataset,
            batch_size=batch_size,
            seed=seed,
            weights=weights_of(run),
            on_batch=lambda done: progress.advance(task, done),
        )
    result.write(run / "metrics.json")
    if json is not None:
        result.write(json)
    Console().print(evaluation_table(result))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    data: Annotated[str | None, typer.Option(metavar="PATH|scenes:VARIANT", help="Pictures from here instead.")] = None,
    images: Annotated[int, typer.Option(help="Number of images to show.")] = 8,
) -> None:
    """Make one self-contained HTML file: pictures, metrics with protocol, loss curves, config and command.

    Example: [bold]slotlab report runs/first[/bold]
    """
    from slotlab.reporting.report import write_report

    _say(f"report: {write_report(run, data=data, images=images).resolve()}")


@app.command()
def fid(
    real: Annotated[str, typer.Argument(metavar="DIR_A", help="Folder of real images, or saved statistics (.npz).")],
    generated: Annotated[str, typer.Argument(metavar="DIR_B", help="Folder of generated images, or an .npz file.")],
    features: Annotated[
        str, typer.Option(help="inception, efficientnet-lite0, or the path of a TorchScript net.")
    ] = "inception",
    inception: Annotated[Path | None, typer.Option(help="Where inception-2015-12-05.pt is.")] = None,
    split: Annotated[str | None, typer.Option(help="Name of the real images' split, for the protocol line.")] = None,
    device: Device = "auto",
    json: Annotated[Path | None, typer.Option("--json", help="Write the result here too.")] = None,
) -> None:
    """Frechet distance (clean-FID) and kernel distance (KID) of two folders of images, with their protocol.

    Example: [bold]slotlab fid data/val generated --features efficientnet-lite0[/bold]
    """
    import warnings
    from json import dumps

    from rich.console import Console
    from rich.progress import Progress

    from slotlab.atomic import replacing
    from slotlab.fidelity import FidelityWarning, compare_folders

    with Progress(transient=True, console=Console(stderr=True)) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", FidelityWarning)  # the result prints its notes
        task = progress.add_task("features")
        result = compare_folders(
            real,
            generated,
            features=features,
            inception=inception,
            split=split,
            device=_device(device),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if json is not None:
        with replacing(json) as path:
            path.write_text(dumps(result.as_dict(), indent=2) + "\n", encoding="utf-8")
    _say(str(result))


@app.command()
def models() -> None:
    """List the presets."""
    from rich.console import Console

    from slotlab.reporting.tables import preset_table

    Console().print(preset_table())


def main() -> None:
    """Runs the command line; bad input ends with one clear sentence and status 2, Ctrl-C with 130."""
    try:
        app()
    except SlotlabError as error:
        print(f"slotlab: {error}", file=sys.stderr)
        sys.exit(130 if type(error).__name__ == "TrainingStopped" else 2)
    except KeyboardInterrupt:
        sys.exit(130)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _set_threads(count: int) -> None:
    import os

    import torch

    if count < 0:
        raise ConfigError(f"threads: must be 0 (all cores) or more, not {count}")
    torch.set_num_threads(count or len(os.sched_getaffinity(0)))


def _say(text: str) -> None:
    print(text)


if __name__ == "__main__":
    main()
