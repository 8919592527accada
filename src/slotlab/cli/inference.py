"""Commands that apply a model to a user's own images: segment, show, studio."""

import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from slotlab.cli import options
from slotlab.cli.options import app, command, say, shown, speaks
from slotlab.errors import ConfigError, needs

MOST_SHOWN, MOST_NAMED = 20, 3


@command(app, shared=True)
def segment(
    images: Annotated[list[Path], Argument(help="Image files, or folders with images at any depth.")],
    out: Annotated[Path, Option(metavar="DIR", help="Output folder. Re-run the same command to resume.")],
    model: options.ModelOption = "photos",
    fit: Annotated[str | None, Option(help="letterbox (default), stretch or crop; photos takes any shape.")] = None,
    mask_source: options.MaskSource = None,
    merge: options.Merge = False,
    slots: Annotated[int | None, Option(min=1, help="Another number of slots than the model has.")] = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 32,
    format: Annotated[
        list[str] | None, Option(help="Also write cutouts, coco, yolo or labelme; may be repeated.")
    ] = None,
    track: Annotated[
        bool, Option("--track", help="Folders hold frames of a video: each is a clip, whose slots keep their objects.")
    ] = False,
    json: options.Json = None,
    device: options.Device = "auto",
) -> None:
    """Segment images of any size and number into objects, or films.

    [bold]slotlab segment photos --out segments[/bold]

    [bold]slotlab segment film.mp4 --model moving-64 --out segments[/bold]

    For each image it writes, at the image's own size: NAME_segmentation.png (palette image: the
    slot that owns each pixel), NAME_overlay.png, NAME_0.png, NAME_1.png, ... (grey mask of each
    slot), NAME.npz (slots) and, if the model paints, NAME.png (reconstruction); and segments.csv,
    which lists what was written and skipped.

    The default model, photos, is for photographs of any size. It groups what looks or means alike
    and names no classes. Its network, EfficientNet-Lite0, comes with the extra `vision` and was
    trained with ImageNet's labels. Trained models of slotlab know rendered scenes: --model
    textured-128, or a run folder.

    --format adds other files: cutouts (NAME_cutout_0.png, ...: each segment on a transparent
    ground), coco (coco.json with run-length masks), yolo or labelme (folders of polygons). A later
    run of the same command can add one.

    Images are first turned upright (EXIF). Other models than photos take squares. letterbox resizes
    the longer side and fills the rest with repeated border pixels; it gave the best masks
    (docs/segment.md). stretch changes the proportions. crop takes the centred square; pixels
    outside it belong to no slot (255, black).

    A film (mp4, mov, webm, gif; needs the extra `video`), each film in a folder without images, or
    with --track a folder of frames, gets a folder: masks/0000.png, ... (palette image of each
    frame), overlay.mp4 (for frames overlays/) and slots.npz. A model of images is tracked: its
    slots are matched from frame to frame. --format is for folders of frames; a segment has its
    slot's number in all of them.

    NAME is the image's path below the common folder of all IMAGES, without suffix. Images that
    cannot be read, or have more than 67 million pixels, are skipped and listed.
    """
    from slotlab.checkpoints import create_model, load
    from slotlab.data import Films
    from slotlab.data.folders import image_files
    from slotlab.distributed import place_among_processes
    from slotlab.files import write_json
    from slotlab.released import model_folder
    from slotlab.segmenting import find_inputs, segment, segment_clips
    from slotlab.segmenting.image import usual_of

    loaded = load(model, device) if slots is None else create_model(model, pretrained=True, slots=slots).to(device)
    more: dict[str, Any] = {"fit": fit, "mask_source": mask_source, "seed": seed}
    if track or any(Films.is_in(path) and not (path.is_dir() and image_files(path)) for path in images):
        if merge or json is not None:
            raise ConfigError("--merge, --json: not for films and --track; leave them out")
        more["formats"] = format or []
        for clip in shown("segmenting", None, segment_clips.steps(loaded, images, out=out, **more)):
            say(f"{clip.source}: {clip.frames} frames in {clip.folder}")
        return
    count, formats = len(find_inputs(images)[0]), format or []
    total = len(place_among_processes().share(count)) + count * len(set(formats))
    more |= {"batch_size": batch_size, "merge": merge}
    listing = shown("segmenting", total, segment.steps(loaded, images, out=out, formats=formats, **more))
    if json is not None and speaks():
        write_json(json, listing.to_json())
    for outcome in listing.skipped[:MOST_SHOWN]:
        say(f"skipped {outcome.image}: {outcome.reason}", error=True)
    if len(listing.skipped) > MOST_SHOWN:
        say(f"... and {len(listing.skipped) - MOST_SHOWN} more, see {out / 'segments.csv'}", error=True)
    usual = usual_of(model_folder(model)) if speaks() else None
    if usual is not None and (odd := listing.unusual(out, usual)):
        named = ", ".join(odd[:MOST_NAMED]) + (", ..." if len(odd) > MOST_NAMED else "")
        remedy = "do not trust its masks there; try the model photos, or train on images like these"
        are = "is" if len(odd) == 1 else "are"
        say(f"note: {len(odd)} of {count} images {are} unlike those that {model} was trained on ({named}): {remedy}")
    counts = f"{listing.count('written')} written, {listing.count('kept')} kept, {len(listing.skipped)} skipped"
    also = "".join(f", {name}" for name in dict.fromkeys(formats))
    say(f"segments: {out}{also}; {counts}; masks: {listing.protocol['mask_source']}; listed in {out / 'segments.csv'}")


@command(app)
def show(
    images: Annotated[list[Path], Argument(help="Image files.")],
    out: Annotated[Path, Option(metavar="DIR", help="Output folder: one figure per image and model.")],
    model: options.Models = None,
    crop: options.SquareCrop = 1.0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
) -> None:
    """Draw what a model makes of images: reconstruction, error, masks, slots, and attention.

    [bold]slotlab show photo.jpg --out figures[/bold]

    [bold]slotlab show scene.png --model textured-128 --model runs/first --out figures[/bold]
    """
    from slotlab.checkpoints import load
    from slotlab.figures.grid import write_png
    from slotlab.figures.slots import show

    names = model or ["photos"]
    figures = {(name, image): out / f"{image.stem}-{Path(name).name}.png" for name in names for image in images}
    if len(set(figures.values())) < len(figures):
        raise ConfigError("two figures would have the same name; use two output folders")
    for name in names:
        loaded = load(name, device)
        for image in images:
            write_png(show(image, loaded, seed=seed, crop=crop), figures[name, image])
            say(f"figure: {figures[name, image]}")


@command(app)
def studio(
    model: options.Models = None,
    library: Annotated[
        list[str] | None,
        Option(metavar="LIBRARY|NAME", help="A concept library of one of the models; may be repeated."),
    ] = None,
    runs: Annotated[Path | None, Option(metavar="DIR", help="A folder of training runs to watch.")] = None,
    port: Annotated[int | None, Option(min=1, max=65535, help="Default: the first free one from 7860.")] = None,
    browser: Annotated[bool, Option(help="Open the page in a browser.")] = True,
    device: options.Device = "auto",
) -> None:
    """Open the studio in a browser: see the objects that a model finds, edit and compose them.

    It shows the bundled models unless --model names others, each with the concept library in its
    folder.

    [bold]slotlab studio[/bold]

    [bold]slotlab studio --model runs/first --library runs/first/concepts --runs runs[/bold]

    The page is served on this computer only (127.0.0.1). It needs the extra `studio`, which brings
    Gradio.
    """
    with needs("studio", "the studio needs"):
        from slotlab.studio import bundled_models, open_models, running
    models = open_models(model or bundled_models(), library or [], device)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as on Ctrl-C: remove what was uploaded
    with running(models, runs, port) as address:
        say(f"studio: {address} (press Ctrl-C to stop)")
        if runs is not None and not runs.is_dir():
            say(f"{runs}: does not exist yet; the Runs view waits for the first run")
        if browser:
            typer.launch(address)
        while True:
            time.sleep(3600)
