"""The words of `slotlab edit`, such as `2=other.png:0`, and the edits that they ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from slotlab.composition import edits
from slotlab.composition.edits import Plan, Scene, read_scene, take_background
from slotlab.errors import ConfigError
from slotlab.models import Model
from slotlab.models.randomness import seeded_generator


@dataclass(frozen=True)
class EditWords:
    """What a command line asks for, in the order in which it is done; see `slotlab edit --help` for each form."""

    keep: Sequence[int] = ()
    remove: Sequence[int] = ()
    swap: Sequence[str] = ()
    replace: Sequence[str] = ()
    interpolate: Sequence[str] = ()
    add: Sequence[str] = ()
    move: Sequence[str] = ()
    resize: Sequence[str] = ()
    background: str | None = None

    def __bool__(self) -> bool:
        """Whether any edit is asked for."""
        return any(getattr(self, field.name) for field in fields(self))


class Swapped(NamedTuple):
    """The other image of a swap: its file, its scene as read, and its slots after the swaps."""

    image: str
    scene: Scene
    plan: Plan


def edit_by_words(
    model: Model, scene: Scene, words: EditWords, seed: int = 0, crop: float = 1.0
) -> tuple[Plan, list[Swapped]]:
    """Does the edits of `words` to a scene.

    Args:
        model: what the scene was read with; other images are read with it, and libraries must be of it.
        scene: as read.
        words: what to do.
        seed: of the initial slots of other images, and of the member of a concept that replaces a slot.
        crop: of other images.

    Returns:
        The edited slots, and what each image named in `swap` became.

    Raises:
        ConfigError: words of another form, or an edit that cannot be done.
        DataError: another image cannot be read.
        CheckpointError: a library cannot be read, or is of another model.
    """
    plan = edits.keep(scene, words.keep) if words.keep else edits.keep(scene, range(len(scene.slots)))
    plan = edits.remove(plan, words.remove)
    others: dict[str, Scene] = {}
    given: dict[str, Plan] = {}

    def other(image: str) -> Scene:
        if image not in others:
            others[image] = read_scene(model, image, seed, crop)
        return others[image]

    for word in words.swap:
        slot, image, theirs = _slot_of_image("swap", word, "K=IMAGE:J")
        plan, given[image] = edits.swap(plan, given.get(image, other(image)), slot, theirs)
    for number, word in enumerate(words.replace):
        slot, library, concept = _slot_of_image("replace", word, "K=LIBRARY:CONCEPT")
        plan = edits.replace(plan, slot, _member(model, library, concept, seeded_generator(seed, number)))
    for word in words.interpolate:
        front, _, last = word.rpartition(":")
        slot, image, theirs = _slot_of_image("interpolate", front, "K=IMAGE:J:AMOUNT", word)
        amount = _number("interpolate", last, "K=IMAGE:J:AMOUNT", word)
        plan = edits.interpolate(plan, slot, edits.keep(other(image), [theirs]).slots[0], amount)
    for word in words.add:
        image, _, last = word.rpartition(":")
        if not image:
            raise _unlike("add", "IMAGE:J", word)
        theirs = _whole("add", last, "IMAGE:J", word)
        plan = edits.add(plan, other(image), theirs)
    if words.background is not None:
        plan = take_background(plan, scene, other(words.background))
    for word in words.move:
        slot, _, way = word.partition(":")
        dx, _, dy = way.partition(",")
        form = "K:DX,DY"
        right, down = _number("move", dx, form, word), _number("move", dy, form, word)
        plan = edits.move(plan, _whole("move", slot, form, word), right, down)
    for word in words.resize:
        slot, _, factor = word.partition(":")
        form = "K:FACTOR"
        plan = edits.resize(plan, _whole("resize", slot, form, word), _number("resize", factor, form, word))
    return plan, [Swapped(image, others[image], theirs) for image, theirs in given.items()]


def _slot_of_image(edit: str, word: str, form: str, whole: str | None = None) -> tuple[int, str, int]:
    """The parts of `K=IMAGE:J`; the file's name may have colons and equals signs of its own."""
    whole = word if whole is None else whole
    slot, _, rest = word.partition("=")
    file, _, number = rest.rpartition(":")
    if not file:
        raise _unlike(edit, form, whole)
    return _whole(edit, slot, form, whole), file, _whole(edit, number, form, whole)


def _whole(edit: str, text: str, form: str, word: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _unlike(edit, form, word) from None


def _number(edit: str, text: str, form: str, word: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _unlike(edit, form, word) from None


def _unlike(edit: str, form: str, word: str) -> ConfigError:
    return ConfigError(f"--{edit} {word}: not of the form {form}; see slotlab edit --help")


def _member(model: Model, name: str, concept: int, generator: torch.Generator) -> Tensor:
    """A member [D] of a concept of the model's library of that name, drawn with `generator`."""
    from slotlab.composition.library import load_library

    library = load_library(name, model)
    if not 0 <= concept < library.concepts:
        raise ConfigError(
            f"--replace: {name} has no concept {concept}; there are {library.concepts}, numbered 0 (the "
            f"background) to {library.concepts - 1}: slotlab concepts show {name}"
        )
    rows = library.members[concept]
    if not len(rows):
        raise ConfigError(f"--replace: concept {concept} of {name} has no members; choose another")
    row = rows[int(torch.randint(len(rows), (), generator=generator))]
    return torch.tensor(library.table.slots[row])
