"""The `slotlab` command: a thin layer over the public API."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slotlab.errors import ConfigError, SlotlabError

if TYPE_CHECKING:
    from slotlab.composition import ConceptLibrary
    from slotlab.data import SlotDataset

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
concepts_app = typer.Typer(no_args_is_help=True, help="Group the slots of many images into concepts.")
app.add_typer(concepts_app, name="concepts")

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

    For slot diffusion: [bold]slotlab data pack scenes:plain data/plain --resolution 64 --count 10000
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


@app.command("edit")
def edit_image(
    run: Annotated[Path, typer.Argument(help="A run folder, or any folder with a model.")],
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
    crop: Annotated[float, typer.Option(help="Centred square, fraction of the shorter side.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the initial slots, the noise, and the member of a concept.")] = 0,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Edit the objects of one image. Without an edit it writes slots.png, which shows the number of each slot.

    [bold]slotlab edit runs/first photo.png --out edits[/bold]

    [bold]slotlab edit runs/first photo.png --remove 2 --add other.png:4 --out edits[/bold]

    Numbers always mean those in slots.png (with the same --seed). The order: keep, remove, swap, replace,
    interpolate, add, move, resize.
    """
    from slotlab.composition.edit_words import EditWords, edit_by_words
    from slotlab.composition.edits import paint_edit, read_scene
    from slotlab.hub import load
    from slotlab.reporting.edit_picture import write_edit, write_slots

    _set_threads(threads)
    model = load(run, _device(device))
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
    )
    if not words:
        _say(f"{len(scene.slots)} slots, numbered in {write_slots(out, scene)}; remove one with --remove K")
        return
    plan, swapped = edit_by_words(model, scene, words, seed, crop)
    edited = paint_edit(model, scene, plan, seed, keep_outside)
    write_edit(out, scene, edited)
    for number, other in enumerate(swapped, start=1):
        edit = paint_edit(model, other.scene, other.plan, seed, keep_outside)
        write_edit(out, other.scene, edit, prefix=f"swapped-{number}-")
        _say(f"swapped-{number}: {other.image}, mean squared error outside the region {edit.outside_error:.3g}")
    changed = ", ".join(map(str, sorted(edited.changed))) or "none"
    _say(f"slots now: {', '.join(map(str, plan.numbers))}; changed: {changed}")
    _say(f"region: {edited.region.float().mean():.1%} of the image")
    _say(f"mean squared error outside the region, before against after: {edited.outside_error:.3g}")
    _say(f"look at {out / 'edit.png'}")


@concepts_app.command("fit")
def fit_concepts(
    run: Annotated[Path, typer.Argument(help="A run folder, or any folder with a model with slots.")],
    data: Data,
    out: Annotated[Path, typer.Option(metavar="LIBRARY", help="Folder of the library.")],
    concepts: Annotated[
        str | None,
        typer.Option(metavar="K|silhouette", help="Number of concepts, background included; default: of slots."),
    ] = None,
    split: Split = "train",
    crop: Crop = None,
    count: Annotated[int | None, typer.Option(help="At most so many images.")] = None,
    max_objects: Annotated[int | None, typer.Option(help="For scenes: most objects in a scene.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the initial slots, and of K-means.")] = 0,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Make a concept library: the slots of a data set, grouped by K-means.

    Example: [bold]slotlab concepts fit runs/first --data scenes:plain --count 2000 --out runs/first/concepts[/bold]
    """
    from rich.console import Console
    from rich.progress import Progress

    from slotlab.composition import fit_library
    from slotlab.data import open_data
    from slotlab.hub import load
    from slotlab.reporting.concept_tables import concept_table

    if concepts not in (None, "silhouette") and not concepts.isdecimal():
        raise ConfigError(f"--concepts: a number of at least 2, or silhouette, not {concepts!r}")
    _set_threads(threads)
    model = load(run, _device(device))
    opening: dict[str, Any] = {"split": split, "crop": crop, "count": count}
    opening |= {} if max_objects is None else {"max_objects": max_objects}
    dataset = open_data(data, resolution=model.resolution, **opening)
    with Progress(transient=True, console=Console(stderr=True)) as progress:
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
    Console().print(concept_table(library))
    _say(f"library: {out}; next: slotlab concepts show {out}, or slotlab compose {run} {out} --out DIR")


@concepts_app.command("show")
def show_concepts(
    library: Annotated[Path, typer.Argument(help="Folder of a library.")],
    model: Annotated[Path | None, typer.Option(help="Where the model is now, if not where it was.")] = None,
    data: Annotated[str | None, typer.Option(help="Where the data is now, if not where it was.")] = None,
    members: Annotated[int, typer.Option(help="Slots to show of each concept: the most central ones.")] = 10,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Print the sizes of the concepts, and draw their most central members into concepts.png in the library.

    Example: [bold]slotlab concepts show runs/first/concepts[/bold]
    """
    from rich.console import Console

    from slotlab.composition import ConceptLibrary
    from slotlab.hub import load
    from slotlab.reporting.concept_tables import concept_table
    from slotlab.reporting.concepts import concept_picture
    from slotlab.reporting.previews import write_png

    _set_threads(threads)
    concepts = ConceptLibrary.load(library)
    Console().print(concept_table(concepts))
    run = model or concepts.sources.get("model")
    if run is None:
        raise ConfigError(f"{library}: does not say where its model is; say it with --model")
    loaded = load(run, _device(device))
    concepts.check(loaded)
    picture = concept_picture(loaded, concepts, _library_data(concepts, data), members=members)
    write_png(picture, library / "concepts.png")
    _say(f"picture: {(library / 'concepts.png').resolve()}")


@app.command("compose")
def compose_images(
    run: Annotated[Path, typer.Argument(help="The run folder whose model made the library.")],
    library: Annotated[Path, typer.Argument(help="Folder of a library.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to; an interrupted one is gone on with.")],
    protocol: Annotated[str, typer.Option(help="report, shuffle or scene.")] = "report",
    count: Annotated[int, typer.Option(help="Number of pictures.")] = 2048,
    seed: Annotated[int, typer.Option(help="Of the choice of slots, and of the noise of samples.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.")] = 32,
    score: Annotated[bool, typer.Option("--score", help="Score the pictures against real ones; needs --data.")] = False,
    data: Annotated[
        str | None, typer.Option(metavar="PATH|scenes:VARIANT", help="Real images, for --score. " + DATA_HELP)
    ] = None,
    split: Split = "val",
    crop: Crop = None,
    real_count: Annotated[int | None, typer.Option(help="At most so many real images; default: all.")] = None,
    max_objects: Annotated[int | None, typer.Option(help="For scenes: most objects in a scene.")] = None,
    features: Annotated[
        str, typer.Option(help="inception, efficientnet-lite0, or the path of a TorchScript net.")
    ] = "inception",
    inception: Annotated[Path | None, typer.Option(help="Where inception-2015-12-05.pt is.")] = None,
    sheet: Annotated[int, typer.Option(help="Compositions on sheet.png, beside their sources; 0: no sheet.")] = 8,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Paint new pictures of slots that come from many images.

    [bold]slotlab compose runs/first runs/first/concepts --protocol scene --count 100 --out new[/bold]

    [bold]slotlab compose runs/first runs/first/concepts --out new --score --data scenes:plain
    --features efficientnet-lite0[/bold]
    """
    from rich.console import Console
    from rich.progress import Progress

    from slotlab.composition import ConceptLibrary, compose, score_compositions
    from slotlab.data import open_data
    from slotlab.errors import DataError
    from slotlab.fidelity import open_network
    from slotlab.hub import load
    from slotlab.reporting.concept_tables import composition_table
    from slotlab.reporting.concepts import contact_sheet
    from slotlab.reporting.previews import write_png
    from slotlab.training.checkpoint import weights_of

    if score and data is None:
        raise ConfigError("--score needs --data, the real images to compare with")
    _set_threads(threads)
    model = load(run, _device(device))
    concepts = ConceptLibrary.load(library, model)
    options: dict[str, Any] = {} if max_objects is None else {"max_objects": max_objects}
    real = None
    if score and data is not None:
        open_network(features, inception, _device(device))  # now, not after hours of painting, if it is missing
        real = open_data(data, split=split, resolution=model.resolution, crop=crop, count=real_count, **options)
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("painting", total=count)
        compose(
            model,
            concepts,
            out,
            protocol=protocol,
            count=count,
            seed=seed,
            batch_size=batch_size,
            weights=weights_of(run),
            on_batch=lambda done: progress.advance(task, done),
        )
        if sheet:
            try:
                picture = contact_sheet(model, concepts, _library_data(concepts, None), out, count=min(sheet, count))
                write_png(picture, out / "sheet.png")
            except DataError as error:
                print(f"no sheet.png: {error}", file=sys.stderr)
        scores = None
        if real is not None:
            scores = score_compositions(
                model,
                concepts,
                out,
                real,
                features=features,
                inception=inception,
                device=_device(device),
                on_batch=lambda what, done, total: progress.update(task, description=what, completed=done, total=total),
            )
    if scores is not None:
        Console().print(composition_table(scores))
    _say(f"compositions: {out / 'images'}, {count} pictures; where their slots come from: {out / 'compositions.jsonl'}")


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


def _library_data(library: "ConceptLibrary", data: str | None) -> "SlotDataset":
    """What a library was fitted to, opened in the same way, from `data` if it lies elsewhere now."""
    from slotlab.data import open_data
    from slotlab.errors import DataError

    spec = data or library.sources.get("data")
    if spec is None:
        raise DataError("the library does not say where its data is")
    try:
        return open_data(
            spec, resolution=library.table.facts["data"]["resolution"], **library.sources.get("opening", {})
        )
    except DataError as error:
        raise DataError(f"{error}. The library was fitted to {spec}; it has to be there to show its slots") from error


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
