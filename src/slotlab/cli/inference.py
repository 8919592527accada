"""Commands that run a trained model: on images as people have them, and on data to see what is wrong with it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from slotlab.cli.options import (
    RUN_HELP,
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
    progress_bar,
    say,
    set_threads,
    shared_work,
    shown,
    speaks,
)

MOST_SHOWN = 20


@app.command()
@shared_work
def segment(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders with all images below them.")],
    model: Annotated[str, typer.Option(metavar="RUN|NAME", help=RUN_HELP)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder of its own; an interrupted one is gone on with.")],
    fit: Annotated[str, typer.Option(help="letterbox, stretch or crop: how an image becomes a square.")] = "letterbox",
    mask_source: Annotated[
        str | None,
        typer.Option(help="masks (the decoder's), attention or posterior; default: the finest that the model has."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial slots, and of the noise of samples.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 32,
    json: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write what was done and skipped here too.")
    ] = None,
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
    Letterbox gave the best masks of objects (docs/segment.md).

    NAME is the image's path below the common folder of all IMAGES, without suffix: folders are mirrored. Images that
    cannot be read, or have more than 67 million pixels, are skipped and listed.
    """
    from json import dumps

    from rich.progress import MofNCompleteColumn

    from slotlab.checkpoints import load
    from slotlab.files import replacing
    from slotlab.segmenting import segment

    set_threads(threads)
    loaded = load(model, device_named(device))
    with progress_bar(MofNCompleteColumn()) as progress:
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
    if not speaks():
        return
    if json is not None:
        with replacing(json) as path:
            path.write_text(dumps(listing.to_json(), indent=2) + "\n", encoding="utf-8")
    for outcome in listing.skipped[:MOST_SHOWN]:
        print(f"skipped {outcome.image}: {outcome.reason}", file=sys.stderr)
    if len(listing.skipped) > MOST_SHOWN:
        print(f"... and {len(listing.skipped) - MOST_SHOWN} more, see {out / 'segments.csv'}", file=sys.stderr)
    counts = f"{listing.count('written')} written, {listing.count('kept')} kept, {len(listing.skipped)} skipped"
    say(f"segments: {out}; {counts}; masks: {listing.protocol['mask_source']}; listed in {out / 'segments.csv'}")


@app.command()
@shared_work
def diagnose(
    run: Run,
    data: Data,
    split: Split = "val",
    crop: Crop = None,
    count: Annotated[int | None, typer.Option(help="At most so many images.")] = None,
    min_objects: MinObjects = None,
    max_objects: MaxObjects = None,
    supersample: Supersample = None,
    mask_source: Annotated[
        str | None,
        typer.Option(help="masks (the decoder's), attention or posterior; default: the finest that the model has."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial slots.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PNG", dir_okay=False, help="The picture; default: diagnostics.png in the run folder, or here."
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write the numbers and warnings here too.")
    ] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
    skip_broken: SkipBroken = False,
) -> None:
    """Say how a model uses its slots, what is wrong, and which setting to try; draw where each slot owns the pixels.

    Looks for collapsed, dead and duplicate slots, tiling (masks that ignore the image), a background in pieces, soft
    masks, and attention that does not settle. Some numbers need true masks. docs/diagnostics.md explains each.

    Example: [bold]slotlab diagnose runs/first --data scenes:plain --max-objects 6 --count 200[/bold]
    """
    from json import dumps

    from rich.console import Console

    from slotlab.checkpoints import load
    from slotlab.data import open_data
    from slotlab.evaluation import diagnose_steps
    from slotlab.figures.curves import diagnosis_figure, figure_image
    from slotlab.files import replacing
    from slotlab.models import with_slots
    from slotlab.released import is_released, model_folder
    from slotlab.reporting.previews import write_png
    from slotlab.reporting.sections import diagnosis_table
    from slotlab.reporting.tables import protocol_line

    set_threads(threads)
    folder = model_folder(run)
    model = with_slots(load(folder, device_named(device)), run)
    options = given(min_objects=min_objects, max_objects=max_objects, supersample=supersample)
    dataset = open_data(
        data,
        split=split,
        resolution=model.resolution,
        crop=crop,
        count=count,
        skip_broken=skip_broken,
        **options,
    )
    steps = diagnose_steps(model, dataset, mask_source=mask_source, batch_size=batch_size, seed=seed)
    found = shown("diagnosing", len(dataset), steps)
    if not speaks():
        return
    source = mask_source or model.finer_masks
    protocol = {**dataset.describe(), "images": found.images, **model.describe(), "slot_seed": seed}
    warnings = found.warnings()
    Console().print(diagnosis_table(found.numbers(), f"{protocol_line(protocol)}, masks: {source}"))
    for warning in warnings:
        say(f"warning: {warning}")
    say("" if warnings else "nothing wrong shows")
    if json is not None:
        numbers = {"mask_source": source, **found.numbers()}
        with replacing(json) as path:
            content = {"protocol": protocol, "diagnostics": numbers, "warnings": warnings}
            path.write_text(dumps(content, indent=2) + "\n", encoding="utf-8")
    picture = out or (Path() if is_released(folder) else folder) / "diagnostics.png"
    write_png(figure_image(diagnosis_figure(found, f"{run}, {data}, {found.images:,} images")), picture)
    say(f"picture: {picture.resolve()}")
