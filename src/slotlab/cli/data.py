"""Commands on data: render, check, pack."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from slotlab.cli.options import DATA_HELP, Crop, MaxObjects, MinObjects, app, given, say
from slotlab.errors import ConfigError

scenes_app = typer.Typer(no_args_is_help=True, help="Render labelled scenes: no data set needed.")
data_app = typer.Typer(no_args_is_help=True, help="Check data sets, and pack them for fast reading.")
app.add_typer(scenes_app, name="scenes")
app.add_typer(data_app, name="data")


@scenes_app.command("write")
def write_scenes(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    variant: Annotated[str, typer.Option(help="plain, textured, camouflage or outd.")] = "textured",
    count: Annotated[int, typer.Option(help="Number of scenes.")] = 200,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same scenes.")] = 1,
    min_objects: Annotated[int, typer.Option(help="Fewest objects in a scene.")] = 3,
    max_objects: Annotated[int, typer.Option(help="Most objects in a scene.")] = 10,
    supersample: Annotated[int, typer.Option(help="Rays per pixel on a side (anti-aliasing).")] = 2,
) -> None:
    """Write scenes to disk in the published CLEVRTex layout; goes on where an interrupted run stopped.

    Example: [bold]slotlab scenes write data/scenes --variant textured --count 200 --size 128[/bold]

    They are the first test scenes of scenes:VARIANT of that seed (there 0, if not said otherwise): what is to be tested
    on those is not to be trained on scenes of the same seed.
    """
    from slotlab.data.scenes import write_scenes

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
    say(f"{count} {variant} scenes in {out}; look through them with: slotlab data check {shlex.quote(str(out))}")


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
    min_objects: MinObjects = None,
    max_objects: MaxObjects = None,
    supersample: Annotated[
        int | None, typer.Option(help="For scenes: rays per pixel on a side; 2 for textures at 64x64.")
    ] = None,
    skip_broken: Annotated[bool, typer.Option(help="Leave broken images out, and count them.")] = False,
    latents: Annotated[
        str | None, typer.Option(metavar="RUN|NAME", help="Pack the latents of this autoencoder as well.")
    ] = None,
) -> None:
    """Pack a data set, cropped and resized, into a memory-mapped cache that is read without decoding.

    Example: [bold]slotlab data pack data/clevrtex data/clevrtex-128 --resolution 128[/bold]

    For slot diffusion: [bold]slotlab data pack scenes:plain data/plain --resolution 64 --count 10000
    --max-objects 6 --latents runs/latents[/bold]; training then never runs the autoencoder.
    """
    from slotlab.data import pack

    options = given(min_objects=min_objects, max_objects=max_objects, supersample=supersample)
    if latents is not None:
        from slotlab.checkpoints import load_autoencoder

        if resolution is None:
            raise ConfigError("--latents needs --resolution, the side of the images that the autoencoder is to take")
        options["latents"] = load_autoencoder(latents, resolution)
    pack(path, out, resolution=resolution, crop=crop, count=count, skip_broken=skip_broken, progress=True, **options)
    say(f"packed into {out}; train with: slotlab train PRESET --data {shlex.quote(str(out))} --out RUN")
