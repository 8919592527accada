"""Commands on slots of many images: concepts fit, concepts show, compose."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from slotlab.cli import options
from slotlab.cli.options import app, command, open_from_options, say, shown, speaks
from slotlab.errors import ConfigError

concepts_app = typer.Typer(no_args_is_help=True, help="Group the slots of many images into concepts.")
app.add_typer(concepts_app, name="concepts")


@command(concepts_app, shared=True)
def fit(
    run: options.Run,
    data: options.Data,
    images: options.ImageOptions,
    out: Annotated[Path, Option(metavar="LIBRARY", help="Folder of the library; an existing one is replaced.")],
    concepts: Annotated[
        str | None,
        Option(metavar="K|silhouette", help="Number of concepts with the background. Default: as many as slots."),
    ] = None,
    split: options.Split = "train",
    count: options.Count = None,
    batch_size: options.BatchSize = 32,
    seed: options.Seed = 0,
    device: options.Device = "auto",
) -> None:
    """Make a concept library: group the slots of a data set by K-means.

    [bold]slotlab concepts fit runs/first --data scenes:plain --count 2000 --out
    runs/first/concepts[/bold]
    """
    from slotlab.checkpoints import load
    from slotlab.composition import fit_library
    from slotlab.reporting.tables import concept_table

    number = int(concepts) if concepts is not None and concepts.isdecimal() else concepts
    model = load(run, device)
    dataset = open_from_options(data, model.resolution, split, count, images)
    opening = {"split": split, "crop": images.crop, "count": count} | images.set()
    steps = fit_library.steps(
        model,
        dataset,
        out,
        concepts=number,  # pyright: ignore[reportArgumentType]
        batch_size=batch_size,
        seed=seed,
        sources={"model": str(run), "data": data, "opening": opening},
    )
    library = shown("encoding slots", len(dataset), steps)
    say(concept_table(library))
    say(f"library: {out}; next: slotlab concepts show {shlex.quote(str(out))}")
    say(f"or slotlab compose {shlex.quote(str(run))} {shlex.quote(str(out))} --out DIR")


@command(concepts_app, "show")
def show_concepts(
    library: options.Library,
    model: Annotated[str | None, Option(help="Where the model is now, if it was moved.")] = None,
    data: Annotated[str | None, Option(help="Where the data is now, if it was moved.")] = None,
    members: Annotated[int, Option(min=1, help="How many of each concept's most central members to draw.")] = 10,
    out: Annotated[
        Path | None, Option(metavar="PNG", dir_okay=False, help="The figure. Default: concepts.png in the library.")
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Print the sizes of the concepts, and draw their most central members.

    The library of a released model is not changed: its figure is bundled; --out draws another.

    [bold]slotlab concepts show runs/first/concepts[/bold]

    [bold]slotlab concepts show scenes-64 --members 20 --out concepts.png[/bold]
    """
    from slotlab.checkpoints import load
    from slotlab.composition import ConceptLibrary
    from slotlab.composition.library import PICTURE_FILE
    from slotlab.figures.composition import concept_figure
    from slotlab.figures.grid import write_png
    from slotlab.released import is_released, library_folder
    from slotlab.reporting.tables import concept_table

    folder = library_folder(library)
    concepts = ConceptLibrary.load(folder)
    say(concept_table(concepts))
    released = is_released(folder.parent)
    figure = out or folder / PICTURE_FILE
    if out is not None or not released:
        run = model or (folder.parent if released else concepts.sources.get("model"))
        if run is None:
            raise ConfigError(f"{library}: does not say where its model is; name it with --model")
        loaded = load(run, device)
        concepts.check(loaded)
        write_png(concept_figure(loaded, concepts, concepts.dataset(data), members=members), figure)
    say(f"figure: {figure.resolve()}")


@command(app, shared=True)
def compose(
    run: options.Run,
    library: options.Library,
    images: options.ImageOptions,
    out: Annotated[Path, Option(metavar="DIR", help="Output folder. Re-run the same command to resume.")],
    protocol: Annotated[str, Option(help="report, shuffle, scene or whole.")] = "report",
    concept: Annotated[
        list[int] | None, Option(metavar="K", help="Instead of a protocol: a member of this concept; may be repeated.")
    ] = None,
    count: Annotated[int, Option(help="Number of compositions.")] = 2048,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 32,
    score: Annotated[bool, Option("--score", help="Score them against the real images of --data.")] = False,
    data: options.OptionalData = None,
    split: options.Split = "val",
    real_count: Annotated[int | None, Option(help="Use at most this many real images. Default: all.")] = None,
    features: options.Features = "inception",
    inception: options.Inception = None,
    sheet: Annotated[
        int, Option(min=0, help="Number of compositions on sheet.png, beside their sources; 0: no sheet.")
    ] = 8,
    device: options.Device = "auto",
) -> None:
    """Compose new images from slots of many images.

    [bold]slotlab compose runs/first runs/first/concepts --protocol scene --count 100 --out
    new[/bold]

    [bold]slotlab compose scenes-64 scenes-64 --concept 0 --concept 3 --concept 3 --out two[/bold]

    [bold]slotlab compose scenes-64 scenes-64 --out new --score --data scenes:plain --features
    efficientnet-lite0[/bold]
    """
    from slotlab.checkpoints import load
    from slotlab.composition import ConceptLibrary, compose, score_compositions
    from slotlab.composition.compositions import IMAGES_FOLDER, PLANS_FILE
    from slotlab.composition.scoring import SCORE_FOLDER
    from slotlab.errors import DataError
    from slotlab.fidelity import open_network
    from slotlab.figures.composition import contact_sheet
    from slotlab.figures.grid import write_png
    from slotlab.models import that_paints
    from slotlab.released import is_released, library_folder, model_folder
    from slotlab.reporting.sections import SHEET_PICTURE
    from slotlab.reporting.tables import composition_table
    from slotlab.training.checkpoint import weights_of

    if score and data is None:
        raise ConfigError("--score needs --data, the real images to compare with")
    run_folder, folder = model_folder(run), library_folder(library)
    model = that_paints(load(run_folder, device))
    concepts = ConceptLibrary.load(folder, model)
    network = real = None
    if score and data is not None:  # opened now: what is missing should not be missed after hours of sampling
        network = open_network(features, inception, device)
        real = open_from_options(data, model.resolution, split, real_count, images)
    weights, more = weights_of(run_folder), {"count": count, "seed": seed, "batch_size": batch_size}
    steps = compose.steps(model, concepts, out, protocol=protocol, concepts=concept, weights=weights, **more)
    shown("composing", count, steps)
    if sheet and speaks():
        try:
            picture = contact_sheet(model, concepts, concepts.dataset(), out, count=min(sheet, count))
            write_png(picture, out / SHEET_PICTURE)
        except DataError as error:
            say(f"no {SHEET_PICTURE}: {error}", error=True)
    if network is not None and real is not None:
        beside = None if is_released(folder.parent) else folder / SCORE_FOLDER
        steps = score_compositions.steps(model, concepts, out, real, network, beside)
        say(composition_table(shown("scoring", None, steps)))
    say(f"{count} compositions: {out / IMAGES_FOLDER}; the source of each slot: {out / PLANS_FILE}")
