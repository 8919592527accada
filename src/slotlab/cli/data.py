"""Commands on data sets: scenes write, data check, data pack, data samples, data get."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from slotlab.cli import options
from slotlab.cli.options import app, command, say, shown
from slotlab.errors import ConfigError

scenes_app = typer.Typer(no_args_is_help=True, help="Render labelled scenes: no data set needed.")
data_app = typer.Typer(no_args_is_help=True, help="Check data sets, pack them, and get some to start with.")
app.add_typer(scenes_app, name="scenes")
app.add_typer(data_app, name="data")


@command(scenes_app)
def write(
    out: Annotated[Path, Argument(help="Output folder. Re-run the same command to resume.")],
    variant: Annotated[str, Option(help="plain, textured, photographic, camouflage or outd.")] = "textured",
    count: Annotated[int, Option(help="Number of scenes.")] = 200,
    size: Annotated[int, Option(help="Side of the images in pixels.")] = 128,
    seed: options.Seed = 1,
    min_objects: Annotated[int, options.MIN_OBJECTS] = 3,
    max_objects: Annotated[int, options.MAX_OBJECTS] = 10,
    supersample: Annotated[int, options.SUPERSAMPLE] = 2,
    frames: Annotated[int | None, Option(min=1, help="Write clips of so many frames, in which objects move.")] = None,
    mp4: Annotated[bool, Option("--mp4", help="Also write each clip as a film (needs the extra `video`).")] = False,
) -> None:
    """Write rendered scenes in the published CLEVRTex layout, or clips as folders of frames.

    [bold]slotlab scenes write data/scenes --variant textured --count 200 --size 128[/bold]

    [bold]slotlab scenes write data/clips --variant plain --count 20 --frames 24[/bold]

    These are the first test scenes of scenes:VARIANT with the same seed (whose default is 0). Do
    not train on scenes:VARIANT with the seed that you test on.
    """
    from slotlab.data.scenes import write_clips, write_scenes

    objects = {"min_objects": min_objects, "max_objects": max_objects}
    options: dict[str, Any] = {"resolution": size, "seed": seed, "supersample": supersample, **objects}
    if frames is not None:
        steps = write_clips.steps(out, variant=variant, count=count, frames=frames, mp4=mp4, **options)
        shown(f"{variant} clips", count, steps)
        say(f"{count} {variant} clips in {out}; check them with: slotlab data check {shlex.quote(str(out))}")
        return
    if mp4:
        raise ConfigError("--mp4: needs --frames, the number of frames of a clip")
    shown(f"{variant} scenes", count, write_scenes.steps(out, variant=variant, count=count, **options))
    say(f"{count} {variant} scenes in {out}; check them with: slotlab data check {shlex.quote(str(out))}")


@command(data_app)
def check(path: options.DataPath, ignore: options.Ignore = None) -> None:
    """Read a whole data set and report counts, sizes, objects per image, and broken files.

    The status is 1 if a file is broken.

    [bold]slotlab data check data/scenes[/bold]
    """
    from slotlab.data.open import check_data
    from slotlab.reporting.tables import data_table

    found = shown(f"reading {path}", None, check_data.steps(path, ignore=ignore))
    say(data_table(found))
    if found.broken:
        raise typer.Exit(1)


@command(data_app)
def pack(
    path: options.DataPath,
    out: Annotated[Path, Argument(help="Folder of the packed cache.")],
    images: options.ImageOptions,
    resolution: Annotated[int | None, Option(help="Side of the packed images.")] = None,
    count: Annotated[
        int | None,
        Option(min=1, help="At most this many images of each split (rendered scenes: at most 1,000 for val and test)."),
    ] = None,
    latents: Annotated[
        str | None, Option(metavar="RUN|NAME", help="Also pack the latents of this autoencoder.")
    ] = None,
    features: Annotated[
        str | None,
        Option(metavar="NETWORK|PRESET|RUN", help="Also pack the features of this frozen network, in float16."),
    ] = None,
) -> None:
    """Pack a data set, cropped and resized, into a memory-mapped cache.

    [bold]slotlab data pack data/clevrtex data/clevrtex-128 --resolution 128[/bold]

    For slot diffusion: [bold]slotlab data pack scenes:plain data/plain --resolution 64 --count
    10000 --max-objects 6 --latents runs/latents[/bold]; training then skips the autoencoder's
    encoder.

    For slots on frozen features: [bold]slotlab data pack photos packed --resolution 448 --features
    efficientnet-lite0[/bold], or timm:NAME, or the preset or run whose features are meant.
    """
    from slotlab.data.packing import pack

    more: dict[str, Any] = images.set()
    if latents is not None:
        from slotlab.checkpoints import load_autoencoder

        if resolution is None:
            raise ConfigError("--latents needs --resolution, the side of the images that the autoencoder encodes")
        more["latents"] = load_autoencoder(latents, resolution)
    if features is not None:
        from slotlab.checkpoints import frozen_features

        if resolution is None:
            raise ConfigError("--features needs --resolution, the side of the images that the network sees")
        more["features"] = frozen_features(features, resolution)
    shown("packing", None, pack.steps(path, out, resolution=resolution, count=count, **more))
    say(f"packed into {out}; train with: slotlab train PRESET --data {shlex.quote(str(out))} --out RUN")


@command(data_app)
def samples(out: Annotated[Path, Argument(help="Folder for the photographs.")]) -> None:
    """Copy five sample photographs (COCO, CC BY 2.0; authors in CREDITS.md) into a folder.

    [bold]slotlab data samples samples[/bold]
    """
    from slotlab.data.published import copy_samples

    copied = copy_samples(out)
    say(f"{len(copied)} photographs in {out}; who took them: {out / 'CREDITS.md'}")


@command(data_app)
def get(
    name: Annotated[
        str | None, Argument(help="coco, voc2012, clevrtex or bsds500; without a name, all are listed.")
    ] = None,
    out: Annotated[Path | None, Argument(help="Folder of the data set. Default: data/NAME.")] = None,
) -> None:
    """Download and unpack a published data set. Re-run the same command to resume.

    [bold]slotlab data get bsds500[/bold]
    """
    from slotlab.data.published import PUBLISHED, download, published

    for one in PUBLISHED if name is None else (name,):
        data = published(one)
        say(f"{one}: {data.content}; {data.bytes / 1e9:.2g} GB\n  source: {data.site}\n  licence: {data.licence}")
    if name is not None:
        folder = shown(f"getting {name}", None, download.steps(name, out or Path("data") / name))
        say(f"{folder}: complete; look at it with: slotlab data check {shlex.quote(str(folder))}")
