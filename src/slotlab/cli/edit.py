"""The edits of `slotlab edit`: reads words such as `2=other.png:0` and does what they say."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from slotlab.cli.options import EditWords
from slotlab.composition import edits
from slotlab.composition.edits import EditedSlots, Scene, read_scene
from slotlab.composition.library import load_library
from slotlab.errors import ConfigError
from slotlab.models import Model
from slotlab.models.randomness import seeded_generator

WHOLE, NUMBER = r"(-?\d+)", r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
# The name of a file may contain colons and equals signs.
FORMS = {
    "swap": ("K=IMAGE:J", f"{WHOLE}=(.+):{WHOLE}"),
    "replace": ("K=LIBRARY:CONCEPT", f"{WHOLE}=(.+):{WHOLE}"),
    "interpolate": ("K=IMAGE:J:AMOUNT", f"{WHOLE}=(.+):{WHOLE}:{NUMBER}"),
    "add": ("IMAGE:J", f"(.+):{WHOLE}"),
    "move": ("K:DX,DY", f"{WHOLE}:{NUMBER},{NUMBER}"),
    "resize": ("K:FACTOR", f"{WHOLE}:{NUMBER}"),
}


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
    for word in words.swap or ():
        slot, image, theirs = _parts("swap", word)
        edit, swapped[image] = edits.swap(edit, swapped.get(image) or other(image), int(slot), int(theirs))
    for number, word in enumerate(words.replace or ()):
        slot, library, concept = _parts("replace", word)
        try:
            member = load_library(library, model).draw(int(concept), seeded_generator(seed, number))
        except ConfigError as error:
            raise ConfigError(f"--replace {word}: {error}: slotlab concepts show {library}") from None
        edit = edits.replace(edit, int(slot), member)
    for word in words.interpolate or ():
        slot, image, theirs, amount = _parts("interpolate", word)
        vector = edits.keep(other(image), [int(theirs)]).slots[0]
        edit = edits.interpolate(edit, int(slot), vector, float(amount))
    for word in words.add or ():
        image, theirs = _parts("add", word)
        edit = edits.add(edit, other(image), int(theirs))
    if words.background is not None:
        edit = edits.take_background(edit, scene, other(words.background))
    for word in words.move or ():
        slot, dx, dy = _parts("move", word)
        edit = edits.move(model, edit, int(slot), float(dx), float(dy))
    for word in words.resize or ():
        slot, factor = _parts("resize", word)
        edit = edits.resize(model, edit, int(slot), float(factor))
    return edit, [Swapped(image, scenes[image], theirs) for image, theirs in swapped.items()]


def _parts(edit: str, word: str) -> Sequence[str]:
    form, pattern = FORMS[edit]
    match = re.fullmatch(pattern, word)
    if match is None:
        raise ConfigError(f"--{edit} {word}: not of the form {form}; see slotlab edit --help")
    return match.groups()
