"""Commands that run a trained model: on images as people have them, and on data to see what is wrong with it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from slotlab.cli.shared import Device, app, device_named, say, set_threads

MOST_SHOWN = 20


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders with all images below them.")],
    model: Annotated[str, typer.Option(metavar="RUN|NAME", help="A run folder, or any that `slotlab.load` takes.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder of its own; an interrupted one is gone on with.")],
    fit: Annotated[str, typer.Option(help="letterbox, stretch or crop: how an image becomes a square.")] = "letterbox",
    mask_source: Annotated[
        str | None,
        typer.Option(help="masks or attention; default: attention for slot diffusion, masks for other models."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the initial slots, and of the noise of samples.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 32,
    json: Annotated[Path | None, typer.Option("--json", help="Write what was done and skipped here too.")] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Take images apart: any size, any mode, any number.

    [bold]slotlab segment photos --model runs/first --out segments[/bold]

    Writes for each image, at its own size: NAME.png (reconstruction), NAME_0.png, NAME_1.png, ... (mask of each slot,
    grey), NAME_segmentation.png (palette: the number of the slot that owns the pixel), NAME_overlay.png, NAME.npz
    (slots); and segments.csv, which lists what was done and skipped.

    Models take squares. Images are first turned upright (EXIF). letterbox resizes the longer side and fills the rest of
    the square with the image's border pixels, repeated; stretch changes the proportions; crop sees only the centred
    square: pixels outside it belong to no slot (255, black). Masks come back at the image's size, without the bars.
    Letterbox gave the best masks of the three (docs/segment.md).

    NAME is the image's path below the common folder of all IMAGES, without suffix: folders are mirrored. Images that
    cannot be read, or have more than 67 million pixels, are skipped and listed.
    """
    from json import dumps

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from slotlab.atomic import replacing
    from slotlab.hub import load
    from slotlab.segmenting import segment

    set_threads(threads)
    loaded = load(model, device_named(device))
    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), transient=True, console=Console(stderr=True)
    ) as progress:
        task = progress.add_task("segmenting", total=None)
        listing = segment(
            loaded,
            images,
            out=out,
            fit=fit,
            mask_source=mask_source,
            seed=seed,
            batch_size=batch_size,
            on_start=lambda total: progress.update(task, total=total),
            on_image=lambda _: progress.advance(task),
        )
    if json is not None:
        with replacing(json) as path:
            path.write_text(dumps(listing.to_json(), indent=2) + "\n", encoding="utf-8")
    for outcome in listing.skipped[:MOST_SHOWN]:
        print(f"skipped {outcome.image}: {outcome.reason}", file=sys.stderr)
    if len(listing.skipped) > MOST_SHOWN:
        print(f"... and {len(listing.skipped) - MOST_SHOWN} more, see {out / 'segments.csv'}", file=sys.stderr)
    counts = f"{listing.count('written')} written, {listing.count('kept')} kept, {len(listing.skipped)} skipped"
    say(f"segments: {out}; {counts}; masks: {listing.protocol['mask_source']}; listed in {out / 'segments.csv'}")
