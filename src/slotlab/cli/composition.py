"""Commands that make new images of slots: concepts fit, concepts show, compose, edit."""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer import Argument, Option

from slotlab.cli import options
from slotlab.cli.options import app, command, open_from_options, say, shown, speaks
from slotlab.errors import ConfigError

if TYPE_CHECKING:
    from slotlab.composition.edits import EditedSlots, Scene
    from slotlab.models import Model

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

    [bold]slotlab concepts fit runs/first --data scenes:plain --max-objects 6 --count 2000 --out
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

    [bold]slotlab compose scenes-64 scenes-64 --out new --score --data scenes:plain --max-objects 6 --features
    efficientnet-lite0[/bold]
    """
    from slotlab.checkpoints import load
    from slotlab.composition import PROTOCOLS, ConceptLibrary, compose, score_compositions
    from slotlab.composition.compositions import IMAGES_FOLDER, PLANS_FILE
    from slotlab.composition.scoring import SCORE_FOLDER
    from slotlab.composition.slots import check_still
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
        if protocol != "shuffle":  # with which the composition is compared
            PROTOCOLS["shuffle"](concepts, 1, 0)
        network = open_network(features, inception, device)
        real = open_from_options(data, model.resolution, split, real_count, images)
        check_still(real)
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


Words = list[str] | None

FORMS = {
    "swap": "K=IMAGE:J",
    "replace": "K=LIBRARY:CONCEPT",
    "interpolate": "K=IMAGE:J:AMOUNT",
    "add": "IMAGE:J",
    "move": "K:DX,DY",
    "resize": "K:FACTOR",
}


@dataclass(frozen=True)
class EditWords:
    """The edits of `slotlab edit`, those with several parts in the forms of `FORMS`."""

    keep: Annotated[list[int] | None, Option(metavar="K", help="Leave out all slots but these.")] = None
    remove: Annotated[list[int] | None, Option(metavar="K", help="Leave out a slot.")] = None
    swap: Annotated[Words, Option(metavar=FORMS["swap"], help="Exchange slot K for slot J of another image.")] = None
    replace: Annotated[
        Words, Option(metavar=FORMS["replace"], help="Put a member of a concept in the place of slot K.")
    ] = None
    interpolate: Annotated[
        Words, Option(metavar=FORMS["interpolate"], help="Mix slot K (amount 0) with slot J of another image (1).")
    ] = None
    add: Annotated[
        Words, Option(metavar=FORMS["add"], help="Add slot J of another image; it gets the next number.")
    ] = None
    background: Annotated[str | None, Option(metavar="IMAGE", help="Take the background of another image.")] = None
    move: Annotated[
        Words,
        Option(metavar=FORMS["move"], help="Move right and down by fractions of the side (relative frames only)."),
    ] = None
    resize: Annotated[
        Words, Option(metavar=FORMS["resize"], help="Make a slot larger or smaller (relative frames only).")
    ] = None

    def __bool__(self) -> bool:
        """Whether there is any edit."""
        return any(vars(self).values())


WHOLE, NUMBER = r"(-?\d+)", r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
# The parts of a word; others are names of files, which may contain colons and equals signs.
PARTS: dict[str, tuple[str, Callable[[str], Any]]] = dict.fromkeys(("K", "J", "CONCEPT"), (WHOLE, int))
PARTS |= dict.fromkeys(("AMOUNT", "DX", "DY", "FACTOR"), (NUMBER, float))


@command(app)
def edit(
    run: options.Run,
    image: Annotated[Path, Argument(help="An image file.")],
    out: Annotated[Path, Option(metavar="DIR", help="Output folder.")],
    words: EditWords,
    keep_outside: Annotated[bool, Option("--keep-outside", help="Keep the pixels outside the edited region.")] = False,
    sampler: Annotated[
        str | None, Option(help="Slot diffusion: ddpm, ddim or dpm-solver++. Default: the model's own.")
    ] = None,
    steps: Annotated[int | None, Option(help="Slot diffusion: sampling steps. Default: the model's own.")] = None,
    crop: options.SquareCrop = 1.0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
) -> None:
    """Edit the objects of an image. Without an edit, write slots.png with the number of each slot.

    [bold]slotlab edit runs/first photo.png --out edits[/bold]

    [bold]slotlab edit scenes-64 photo.png --remove 2 --add other.png:4 --out edits[/bold]

    Numbers are those in slots.png (made with the same --seed). Edits are applied in this order:
    keep, remove, swap, replace, interpolate, add, background, move, resize.
    """
    from slotlab.checkpoints import load
    from slotlab.composition.edits import paint_edit, read_scene
    from slotlab.figures.composition import write_edit, write_slots
    from slotlab.models.sampling import SamplingSettings

    model = load(run, device)
    scene = read_scene(model, image, seed, crop)
    if not words:
        say(f"{len(scene.slots)} slots, numbered in {write_slots(out, scene)}; remove one with --remove K")
        return
    plan, swapped = edit_by_words(model, scene, words, seed, crop)
    sampling = None
    if sampler is not None or steps is not None:
        usual: SamplingSettings = getattr(model, "sampling", SamplingSettings())
        chosen: dict[str, Any] = {"sampler": sampler or usual.sampler, "steps": usual.steps if steps is None else steps}
        sampling = SamplingSettings(**chosen, guidance=usual.guidance)
    edited = paint_edit(model, scene, plan, seed, keep_outside, sampling=sampling)
    write_edit(out, scene, edited)
    for number, other in enumerate(swapped, start=1):
        edit = paint_edit(model, other.scene, other.plan, seed, keep_outside, sampling=sampling)
        write_edit(out, other.scene, edit, prefix=f"swapped-{number}-")
        say(f"swapped-{number}: {other.image}, mean squared error outside the region {edit.outside_error:.3g}")
    changed = ", ".join(map(str, sorted(edited.changed))) or "none"
    say(f"slots now: {', '.join(map(str, plan.numbers))}; changed: {changed}")
    say(f"edited region: {edited.region.float().mean():.1%} of the image")
    say(f"mean squared error outside the region, before and after: {edited.outside_error:.3g}")
    say(f"look at {out / 'edit.png'}")


class Swapped(NamedTuple):
    """The other image of a swap: its file, its scene, and its slots after the swaps."""

    image: str
    scene: "Scene"
    plan: "EditedSlots"


def edit_by_words(
    model: "Model", scene: "Scene", words: EditWords, seed: int = 0, crop: float = 1.0
) -> "tuple[EditedSlots, list[Swapped]]":
    """Does the edits of `words` to a scene; also returns the other image of each swap.

    Args:
        model: the model that read the scene; it also reads the other images.
        scene: as it was read.
        words: what to do.
        seed: for the initial slots of other images, and for the member of a concept.
        crop: of other images, a fraction of the shorter side.

    Raises:
        ConfigError: words of another form, or an edit that cannot be done.

    Example:
        >>> import slotlab
        >>> from slotlab.cli.composition import EditWords, edit_by_words
        >>> from slotlab.composition.edits import read_scene
        >>> model = slotlab.load("scenes-64")
        >>> scene = read_scene(model, slotlab.render([3], variant="plain").image[0])
        >>> edit, _ = edit_by_words(model, scene, EditWords(remove=[2], replace=["1=scenes-64:3"]))
        >>> edit.numbers
        (0, 1, 3, 4, 5, 6)
    """
    from slotlab.composition import edits, load_library
    from slotlab.models.sampling import seeded_generator

    scenes: dict[str, Scene] = {}
    swapped: dict[str, EditedSlots] = {}

    def other(image: str) -> "Scene":
        if image not in scenes:
            scenes[image] = edits.read_scene(model, image, seed, crop)
        return scenes[image]

    edit = edits.keep(scene, words.keep or range(len(scene.slots)))
    if words.remove:
        edit = edits.remove(edit, words.remove)
    for slot, image, theirs in _read(words, "swap"):
        edit, swapped[image] = edits.swap(edit, swapped.get(image) or other(image), slot, theirs)
    for number, (slot, library, concept) in enumerate(_read(words, "replace")):
        try:
            member = load_library(library, model).draw(concept, seeded_generator(seed, number))
        except ConfigError as error:
            word = f"--replace {slot}={library}:{concept}"
            raise ConfigError(f"{word}: {error}: slotlab concepts show {library}") from None
        edit = edits.replace(edit, slot, member)
    for slot, image, theirs, amount in _read(words, "interpolate"):
        edit = edits.interpolate(edit, slot, edits.keep(other(image), [theirs]).slots[0], amount)
    for image, theirs in _read(words, "add"):
        edit = edits.add(edit, other(image), theirs)
    if words.background is not None:
        edit = edits.take_background(edit, scene, other(words.background))
    for slot, dx, dy in _read(words, "move"):
        edit = edits.move(model, edit, slot, dx, dy)
    for slot, factor in _read(words, "resize"):
        edit = edits.resize(model, edit, slot, factor)
    return edit, [Swapped(image, scenes[image], theirs) for image, theirs in swapped.items()]


def _read(words: EditWords, edit: str) -> Iterator[list[Any]]:
    """The parts of each word of an edit: numbers and names."""
    names = re.findall("[A-Z]+", FORMS[edit])
    parts = [PARTS.get(name, ("(.+)", str)) for name in names]
    pattern = re.sub("[A-Z]+", "{}", FORMS[edit]).format(*(pattern for pattern, _ in parts))
    for word in getattr(words, edit) or ():
        match = re.fullmatch(pattern, word)
        if match is None:
            raise ConfigError(f"--{edit} {word}: not of the form {FORMS[edit]}; see slotlab edit --help")
        yield [convert(part) for (_, convert), part in zip(parts, match.groups(), strict=True)]
