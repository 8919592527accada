"""Which slots go into which new picture: protocols, or concepts as chosen; pure functions.

The plan of picture `n` depends on the library, the seed and `n` alone: not on how many pictures are planned.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from slotlab.composition.library import BACKGROUND, ConceptLibrary
from slotlab.errors import ConfigError

TRIES = 50


@dataclass(frozen=True)
class Plan:
    """Picture `number` is painted from the slots in `rows` of the library; `wanted` of them had been asked for."""

    number: int
    rows: tuple[int, ...]
    wanted: int


def report(library: ConceptLibrary, count: int, seed: int = 0) -> list[Plan]:
    """One member drawn uniformly from each concept, background included; no two slots come from one image.

    Raises:
        ConfigError: the images of the library do not suffice for that.
    """
    return [
        Plan(number, _one_of_each(library, library.members, _random(seed, number)), library.concepts)
        for number in range(count)
    ]


def shuffle(library: ConceptLibrary, count: int, seed: int = 0) -> list[Plan]:
    """Slot `i` comes from image `b + i` of the library's images in an order shuffled by the seed, whatever it shows.

    SlotDiffusion's recipe. Slots that were dropped as empty are left out, so that a picture may have fewer slots than
    the model; if all would be, it is painted from the largest slot of image `b`. After as many pictures as there are
    images the order is shuffled anew. No two slots come from one image.

    Raises:
        ConfigError: the library has fewer images than the model has slots.
    """
    table = library.table
    slots = int(table.facts["slots_per_image"])
    images, places = np.unique(table.index, return_inverse=True)
    if len(images) < slots:
        raise ConfigError(
            f"protocol shuffle: the library has {len(images)} images, but each picture needs slots of {slots}; fit it "
            "to more"
        )
    row_of = np.full((len(images), slots), -1, dtype=np.int64)
    row_of[places, table.number] = np.arange(len(table))
    by_area = np.argsort(table.area, kind="stable")
    largest = np.empty(len(images), dtype=np.int64)
    largest[places[by_area]] = by_area  # the last, and so the largest, of each image stays
    plans, order = [], np.empty(0)
    for number in range(count):
        round_, b = divmod(number, len(images))
        if b == 0:
            order = np.random.default_rng((seed, round_)).permutation(len(images))
        chosen = [int(row_of[order[(b + i) % len(images)], i]) for i in range(slots)]
        rows = tuple(row for row in chosen if row >= 0) or (int(largest[order[b]]),)
        plans.append(Plan(number, rows, slots))
    return plans


def scene(library: ConceptLibrary, count: int, seed: int = 0) -> list[Plan]:
    """One background and objects that do not collide, as many as some image of the library has.

    The number of objects is that of an image drawn uniformly. Each object is drawn uniformly from all object slots,
    and again, up to 50 times, while it comes from an image already used or collides: two slots collide where the
    distance of their centres is less than the sum of their radii, the radius being that of a disc of the slot's area.
    An object for which no free slot was found is left out (`Plan.wanted` tells). Slots keep their places.

    Raises:
        ConfigError: the library has no object slots.
    """
    table = library.table
    objects = np.flatnonzero(library.concept != BACKGROUND)
    if not len(objects):
        raise ConfigError("protocol scene: the library has no object slots; take a better trained model")
    images, places = np.unique(table.index, return_inverse=True)
    per_image = np.bincount(places[objects], minlength=len(images))
    radius = 2 * np.sqrt(np.asarray(table.area, np.float64) / math.pi)
    centre = np.asarray(table.centre, np.float64)
    plans = []
    for number in range(count):
        random = _random(seed, number)
        rows = [int(random.choice(library.members[BACKGROUND]))]
        wanted = int(per_image[random.integers(len(images))])
        for _ in range(wanted):
            for _ in range(TRIES):
                row = int(objects[random.integers(len(objects))])
                others = rows[1:]
                near = np.linalg.norm(centre[others] - centre[row], axis=1) < radius[others] + radius[row]
                if not near.any() and table.index[row] not in table.index[rows]:
                    rows.append(row)
                    break
        plans.append(Plan(number, tuple(rows), wanted + 1))
    return plans


def chosen(library: ConceptLibrary, concepts: Sequence[int], count: int, seed: int = 0) -> list[Plan]:
    """One member drawn uniformly from each of the `concepts` named, which may repeat; no two come from one image.

    Raises:
        ConfigError: no concept is named, there is no such concept, or the images of the library do not suffice.
    """
    if not concepts:
        raise ConfigError("concepts: name at least one")
    for concept in concepts:
        if not 0 <= concept < library.concepts:
            raise ConfigError(
                f"concepts: there is no concept {concept}; there are {library.concepts}, numbered 0 (the background) "
                f"to {library.concepts - 1}"
            )
    members = [library.members[concept] for concept in concepts]
    return [
        Plan(number, _one_of_each(library, members, _random(seed, number)), len(concepts)) for number in range(count)
    ]


PROTOCOLS: dict[str, Callable[[ConceptLibrary, int, int], list[Plan]]] = {
    "report": report,
    "shuffle": shuffle,
    "scene": scene,
}


def _random(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, number))


def _one_of_each(
    library: ConceptLibrary, concepts: Sequence[np.ndarray], random: np.random.Generator
) -> tuple[int, ...]:
    """A row from each of `concepts`, given as their members, no two of one image."""
    index = library.table.index
    for _ in range(TRIES):
        rows: list[int] = []
        for members in concepts:
            row = _unused(index, members, rows, random)
            if row is None:
                break
            rows.append(row)
        else:
            return tuple(rows)
    raise ConfigError(
        f"no {len(concepts)} slots, one of each concept asked for, could be found that come from different "
        f"images (the library has {len(np.unique(index))}); fit it to more images, or with fewer concepts"
    )


def _unused(index: np.ndarray, members: np.ndarray, rows: list[int], random: np.random.Generator) -> int | None:
    """A member drawn uniformly from those of images not used yet; None if there is none."""
    for _ in range(TRIES):
        row = int(members[random.integers(len(members))])
        if index[row] not in index[rows]:
            return row
    free = members[~np.isin(index[members], index[rows])]
    return int(random.choice(free)) if len(free) else None
