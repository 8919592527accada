"""The edits of `slotlab edit`: reads words such as `2=other.png:0` and does what they say."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from slotlab.cli.options import FORMS, EditWords
from slotlab.composition import edits
from slotlab.composition.edits import EditedSlots, Scene, read_scene
from slotlab.composition.library import load_library
from slotlab.errors import ConfigError
from slotlab.models import Model
from slotlab.models.randomness import seeded_generator

WHOLE, NUMBER = r"(-?\d+)", r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
# The parts of a word; others are names of files, which may contain colons and equals signs.
PARTS: dict[str, tuple[str, Callable[[str], Any]]] = dict.fromkeys(("K", "J", "CONCEPT"), (WHOLE, int))
PARTS |= dict.fromkeys(("AMOUNT", "DX", "DY", "FACTOR"), (NUMBER, float))


class Swapped(NamedTuple):
    """The other image of a swap: its file, its scene, and its slots after the swaps."""

    image: str
    scene: Scene
    plan: EditedSlots


def edit_by_words(
    model: Model, scene: Scene, words: EditWords, seed: int = 0, crop: float = 1.0
) -> tuple[EditedSlots, list[Swapped]]:
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
    scenes: dict[str, Scene] = {}
    swapped: dict[str, EditedSlots] = {}

    def other(image: str) -> Scene:
        if image not in scenes:
            scenes[image] = read_scene(model, image, seed, crop)
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
