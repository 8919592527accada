"""Commands on what slots are for: concepts, compositions, edits."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slotlab.cli.options import (
    DATA_HELP,
    Crop,
    Data,
    Device,
    Library,
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
    speaks,
)
from slotlab.errors import ConfigError

if TYPE_CHECKING:
    from slotlab.models import Model
    from slotlab.models.sampling import SamplingSettings

concepts_app = typer.Typer(no_args_is_help=True, help="Group the slots of many images into concepts.")
app.add_typer(concepts_app, name="concepts")


@concepts_app.command("fit")
@shared_work
def fit_concepts(
    run: Run,
    data: Data,
    out: Annotated[
        Path, typer.Option(metavar="LIBRARY", help="Folder of the library; one that lies there is replaced.")
    ],
    concepts: Annotated[
        str | None,
        typer.Option(metavar="K|silhouette", help="Number of concepts, background included; default: of slots."),
    ] = None,
    split: Split = "train",
    crop: Crop = None,
    count: Annotated[int | None, typer.Option(help="At most so many images.")] = None,
    min_objects: MinObjects = None,
    max_objects: MaxObjects = None,
    supersample: Supersample = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial slots, and of K-means.")] = 0,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
    skip_broken: SkipBroken = False,
) -> None:
    """Make a concept library: the slots of a data set, grouped by K-means.

    Example: [bold]slotlab concepts fit runs/first --data scenes:plain --count 2000 --out runs/first/concepts[/bold]
    """
    from rich.console import Console

    from slotlab.checkpoints import load
    from slotlab.composition import fit_library
    from slotlab.data import open_data
    from slotlab.reporting.tables import concept_table

    if concepts not in (None, "silhouette") and not concepts.isdecimal():
        raise ConfigError(f"--concepts: a number of at least 2, or silhouette, not {concepts!r}")
    set_threads(threads)
    model = load(run, device_named(device))
    opening: dict[str, Any] = {"split": split, "crop": crop, "count": count}
    opening |= given(min_objects=min_objects, max_objects=max_objects, supersample=supersample)
    opening |= given(skip_broken=skip_broken or None)
    dataset = open_data(data, resolution=model.resolution, **opening)
    with progress_bar() as progress:
        task = progress.add_task("slots", total=len(dataset))
        library = fit_library(
            model,
            dataset,
            out,
            concepts=int(concepts) if concepts is not None and concepts.isdecimal() else concepts,  # pyright: ignore
            batch_size=batch_size,
            seed=seed,
            sources={"model": str(run), "data": data, "opening": opening},
            on_batch=lambda done: progress.advance(task, done),
        )
    if not speaks():
        return
    Console().print(concept_table(library))
    library_word, run_word = shlex.quote(str(out)), shlex.quote(str(run))
    say(f"library: {out}; next: slotlab concepts show {library_word}")
    say(f"or slotlab compose {run_word} {library_word} --out DIR")


@concepts_app.command("show")
def show_concepts(
    library: Library,
    model: Annotated[str | None, typer.Option(help="Where the model is now, if not where it was.")] = None,
    data: Annotated[str | None, typer.Option(help="Where the data is now, if not where it was.")] = None,
    members: Annotated[int, typer.Option(help="Slots to show of each concept: the most central ones.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PNG", dir_okay=False, help="The picture; default: concepts.png in the library."),
    ] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Print the sizes of the concepts, and draw their most central members into concepts.png in the library.

    The library of a released model stays as it is: its picture is there already, or drawn anew into --out.

    [bold]slotlab concepts show runs/first/concepts[/bold]

    [bold]slotlab concepts show scenes-64 --members 20 --out concepts.png[/bold]
    """
    from rich.console import Console

    from slotlab.checkpoints import load
    from slotlab.composition import ConceptLibrary
    from slotlab.composition.library import PICTURE_FILE
    from slotlab.figures.composition import concept_picture
    from slotlab.released import is_released, library_folder
    from slotlab.reporting.previews import write_png
    from slotlab.reporting.tables import concept_table

    set_threads(threads)
    folder = library_folder(library)
    concepts = ConceptLibrary.load(folder)
    Console().print(concept_table(concepts))
    released = is_released(folder.parent)
    if out is not None or not released:
        run = model or (folder.parent if released else concepts.sources.get("model"))
        if run is None:
            raise ConfigError(f"{library}: does not say where its model is; say it with --model")
        loaded = load(run, device_named(device))
        concepts.check(loaded)
        picture = concept_picture(loaded, concepts, concepts.dataset(data), members=members)
        write_png(picture, out or folder / PICTURE_FILE)
    say(f"picture: {(out or folder / PICTURE_FILE).resolve()}")


@app.command("compose")
@shared_work
def compose_images(
    run: Run,
    library: Library,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to; an interrupted one is gone on with.")],
    protocol: Annotated[str, typer.Option(help="report, shuffle or scene.")] = "report",
    concept: Annotated[
        list[int] | None,
        typer.Option(metavar="K", help="Instead of a protocol: a member of this concept; may be repeated."),
    ] = None,
    count: Annotated[int, typer.Option(help="Number of pictures.")] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of slots, and of the noise of samples.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.")] = 32,
    score: Annotated[bool, typer.Option("--score", help="Score the pictures against real ones; needs --data.")] = False,
    data: Annotated[
        str | None, typer.Option(metavar="PATH|scenes:VARIANT", help="Real images, for --score. " + DATA_HELP)
    ] = None,
    split: Split = "val",
    crop: Crop = None,
    real_count: Annotated[int | None, typer.Option(help="At most so many real images; default: all.")] = None,
    min_objects: MinObjects = None,
    max_objects: MaxObjects = None,
    supersample: Supersample = None,
    features: Annotated[
        str, typer.Option(help="inception, efficientnet-lite0, or the path of a TorchScript net.")
    ] = "inception",
    inception: Annotated[Path | None, typer.Option(help="Where inception-2015-12-05.pt is.")] = None,
    sheet: Annotated[
        int, typer.Option(min=0, help="Compositions on sheet.png, beside their sources; 0: no sheet.")
    ] = 8,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Paint new pictures of slots that come from many images.

    [bold]slotlab compose runs/first runs/first/concepts --protocol scene --count 100 --out new[/bold]

    [bold]slotlab compose scenes-64 scenes-64 --concept 0 --concept 3 --concept 3 --out two[/bold]

    [bold]slotlab compose scenes-64 scenes-64 --out new --score --data scenes:plain --features efficientnet-lite0[/bold]
    """
    from rich.console import Console

    from slotlab.checkpoints import load
    from slotlab.composition import ConceptLibrary, compose, score_compositions
    from slotlab.composition.compositions import IMAGES_FOLDER, PLANS_FILE
    from slotlab.composition.scoring import SCORE_FOLDER
    from slotlab.data import open_data
    from slotlab.errors import DataError
    from slotlab.fidelity import open_network
    from slotlab.figures.composition import contact_sheet
    from slotlab.released import is_released, library_folder, model_folder
    from slotlab.reporting.previews import write_png
    from slotlab.reporting.sections import SHEET_PICTURE
    from slotlab.reporting.tables import composition_table
    from slotlab.training.checkpoint import weights_of

    if score and data is None:
        raise ConfigError("--score needs --data, the real images to compare with")
    set_threads(threads)
    run_folder, folder = model_folder(run), library_folder(library)
    model = load(run_folder, device_named(device))
    concepts = ConceptLibrary.load(folder, model)
    options = given(min_objects=min_objects, max_objects=max_objects, supersample=supersample)
    real = None
    if score and data is not None:
        open_network(features, inception, device_named(device))  # now, not after hours of painting, if it is missing
        real = open_data(data, split=split, resolution=model.resolution, crop=crop, count=real_count, **options)
    with progress_bar() as progress:
        task = progress.add_task("painting", total=count)
        compose(
            model,
            concepts,
            out,
            protocol=protocol,
            count=count,
            seed=seed,
            batch_size=batch_size,
            concepts=concept,
            weights=weights_of(run_folder),
            on_batch=lambda done: progress.advance(task, done),
        )
        if sheet and speaks():
            try:
                picture = contact_sheet(model, concepts, concepts.dataset(), out, count=min(sheet, count))
                write_png(picture, out / SHEET_PICTURE)
            except DataError as error:
                print(f"no {SHEET_PICTURE}: {error}", file=sys.stderr)
        scores = None
        if real is not None:
            scores = score_compositions(
                model,
                concepts,
                out,
                real,
                features=features,
                inception=inception,
                device=device_named(device),
                beside=None if is_released(folder.parent) else folder / SCORE_FOLDER,
                on_batch=lambda what, done, total: progress.update(task, description=what, completed=done, total=total),
            )
    if scores is not None and speaks():
        Console().print(composition_table(scores))
    say(f"compositions: {out / IMAGES_FOLDER}, {count} pictures; where their slots come from: {out / PLANS_FILE}")


@app.command("edit")
def edit_image(
    run: Run,
    image: Annotated[Path, typer.Argument(help="An image file.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    keep: Annotated[list[int] | None, typer.Option(metavar="K", help="Leave out all but these slots.")] = None,
    remove: Annotated[list[int] | None, typer.Option(metavar="K", help="Leave a slot out.")] = None,
    swap: Annotated[
        list[str] | None, typer.Option(metavar="K=IMAGE:J", help="Exchange slot K for slot J of another image.")
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(metavar="K=LIBRARY:CONCEPT", help="Put a member of a concept in the place of slot K."),
    ] = None,
    interpolate: Annotated[
        list[str] | None,
        typer.Option(metavar="K=IMAGE:J:AMOUNT", help="Go from slot K (0) towards slot J of another image (1)."),
    ] = None,
    add: Annotated[
        list[str] | None, typer.Option(metavar="IMAGE:J", help="Add slot J of another image; it gets the next number.")
    ] = None,
    background: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Take the background of another image.")
    ] = None,
    move: Annotated[
        list[str] | None,
        typer.Option(metavar="K:DX,DY", help="Move right and down, in fractions of the side (relative frames)."),
    ] = None,
    resize: Annotated[
        list[str] | None, typer.Option(metavar="K:FACTOR", help="Make a slot larger or smaller (relative frames).")
    ] = None,
    keep_outside: Annotated[
        bool, typer.Option("--keep-outside", help="Take the pixels outside the edited region from before the edit.")
    ] = False,
    sampler: Annotated[
        str | None, typer.Option(help="For slot diffusion: ddpm, ddim or dpm-solver++; default: its config's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="For slot diffusion: steps; default: its config's.")] = None,
    crop: Annotated[float, typer.Option(help="Centred square, fraction of the shorter side.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial slots, the noise, and the member of a concept.")] = 0,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Edit the objects of one image. Without an edit it writes slots.png, which shows the number of each slot.

    [bold]slotlab edit runs/first photo.png --out edits[/bold]

    [bold]slotlab edit scenes-64 photo.png --remove 2 --add other.png:4 --out edits[/bold]

    Numbers always mean those in slots.png (with the same --seed). The order: keep, remove, swap, replace,
    interpolate, add, background, move, resize.
    """
    from slotlab.checkpoints import load
    from slotlab.cli.edit import EditWords, edit_by_words
    from slotlab.composition.edits import paint_edit, read_scene
    from slotlab.figures.composition import write_edit, write_slots

    set_threads(threads)
    model = load(run, device_named(device))
    scene = read_scene(model, image, seed, crop)
    words = EditWords(
        keep=keep or (),
        remove=remove or (),
        swap=swap or (),
        replace=replace or (),
        interpolate=interpolate or (),
        add=add or (),
        move=move or (),
        resize=resize or (),
        background=background,
    )
    if not words:
        say(f"{len(scene.slots)} slots, numbered in {write_slots(out, scene)}; remove one with --remove K")
        return
    plan, swapped = edit_by_words(model, scene, words, seed, crop)
    sampling = _sampling(model, sampler, steps)
    edited = paint_edit(model, scene, plan, seed, keep_outside, sampling=sampling)
    write_edit(out, scene, edited)
    for number, other in enumerate(swapped, start=1):
        edit = paint_edit(model, other.scene, other.plan, seed, keep_outside, sampling=sampling)
        write_edit(out, other.scene, edit, prefix=f"swapped-{number}-")
        say(f"swapped-{number}: {other.image}, mean squared error outside the region {edit.outside_error:.3g}")
    changed = ", ".join(map(str, sorted(edited.changed))) or "none"
    say(f"slots now: {', '.join(map(str, plan.numbers))}; changed: {changed}")
    say(f"region: {edited.region.float().mean():.1%} of the image")
    say(f"mean squared error outside the region, before against after: {edited.outside_error:.3g}")
    say(f"look at {out / 'edit.png'}")


def _sampling(model: "Model", sampler: str | None, steps: int | None) -> "SamplingSettings | None":
    """The settings that the options ask for, the rest as in the model's config; None if they ask for nothing."""
    from slotlab.models.sampling import SamplingSettings

    if sampler is None and steps is None:
        return None
    usual: SamplingSettings = getattr(model, "sampling", SamplingSettings())
    return SamplingSettings(sampler or usual.sampler, usual.steps if steps is None else steps, usual.guidance)
