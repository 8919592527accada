"""The command edit: edits given as words such as `2=other.png:0`."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from typer import Argument, Option

from slotlab.cli import options
from slotlab.cli.options import app, command, say
from slotlab.errors import ConfigError

if TYPE_CHECKING:
    from slotlab.composition.edits import EditedSlots, Scene
    from slotlab.models import Model

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
        >>> from slotlab.cli.edit import EditWords, edit_by_words
        >>> from slotlab.composition.edits import read_scene
        >>> model = slotlab.load("scenes-64")
        >>> scene = read_scene(model, slotlab.render([3], variant="plain").image[0])
        >>> edit, _ = edit_by_words(model, scene, EditWords(remove=[2], replace=["1=scenes-64:3"]))
        >>> edit.numbers
        (0, 1, 3, 4, 5, 6)
    """
    from slotlab.composition import edits
    from slotlab.composition.library import load_library
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
