"""Compositions: new images painted from slots of different images, in a resumable folder."""

import json
import math
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slotlab.composition.library import BACKGROUND, ConceptLibrary
from slotlab.distributed import place_among_processes, wait_for_all
from slotlab.errors import CheckpointError, ConfigError, nearest
from slotlab.files import Workspace, regular, replacing
from slotlab.models import Model, that_paints
from slotlab.models.building import evaluating
from slotlab.models.sampling import seeded_generator
from slotlab.progress import in_steps

TRIES = 50
SETTINGS_FILE, PLANS_FILE, IMAGES_FOLDER = "composition.json", "compositions.jsonl", "images"


class Plan(NamedTuple):
    """Image `number` is painted from `rows` of the library; the protocol wanted `wanted` rows."""

    number: int
    rows: tuple[int, ...]
    wanted: int


def report(library: ConceptLibrary, count: int, seed: int = 0) -> list[Plan]:
    """One member of each concept, background included, drawn uniformly from different images.

    Example:
        >>> import slotlab
        >>> from slotlab.composition.compositions import report
        >>> library = slotlab.load_library("scenes-64")
        >>> [plan] = report(library, count=1)
        >>> library.concept[list(plan.rows)].tolist()
        [0, 1, 2, 3, 4, 5, 6]
    """
    return chosen(library, range(library.concepts), count, seed)


def shuffle(library: ConceptLibrary, count: int, seed: int = 0) -> list[Plan]:
    """Slot `i` comes from image `b + i` of the library's images in an order shuffled by the seed.

    SlotDiffusion's recipe (Wu et al. 2023). Slots that were dropped as empty are left out, so an
    image may have fewer slots than the model; if all were, it is painted from the largest slot of
    image `b`. The order is shuffled again after as many compositions as the library has images.
    """
    table = library.table
    slots = int(table.facts["slots_per_image"])
    images, places = np.unique(table.index, return_inverse=True)
    if len(images) < slots:
        raise ConfigError(
            f"protocol shuffle: the library has {len(images)} images, but each composition needs slots of {slots}; "
            "fit the library to more images"
        )
    row_of = {(image, number): row for row, (image, number) in enumerate(zip(places, table.number, strict=True))}
    largest = {places[row]: int(row) for row in np.argsort(table.area, kind="stable")}
    plans, order = [], np.empty(0)
    for number in range(count):
        round_, b = divmod(number, len(images))
        if b == 0:
            order = np.random.default_rng((seed, round_)).permutation(len(images))
        drawn = (row_of.get((order[(b + i) % len(images)], i)) for i in range(slots))
        rows = tuple(row for row in drawn if row is not None) or (largest[order[b]],)
        plans.append(Plan(number, rows, slots))
    return plans


def scene(library: ConceptLibrary, count: int, seed: int = 0) -> list[Plan]:
    """One background, and as many objects as an image of the library has, which do not collide.

    All are drawn uniformly. An object is drawn up to 50 times while it comes from an image already
    used or collides: two slots collide if the distance of their centres is less than the sum of
    their radii, the radius of a disc of the slot's area. An object without a free place is left
    out; `Plan.wanted` counts it. Slots keep their places.
    """
    return _scenes(library, count, seed)


def whole(library: ConceptLibrary, count: int, seed: int = 0) -> list[Plan]:
    """As `scene`, with whole objects rather than fragments.

    Objects are drawn in proportion to the eighth power of `SlotTable.fill`. Among the slots of 200
    textured test scenes (textured-64), 75 % overlap an object by an IoU of 0.5 or more; drawn like
    this, 92 %.
    """
    if library.table.fill is None:
        raise ConfigError("protocol whole: this library does not know how masks are filled; fit it again, or use scene")
    return _scenes(library, count, seed, library.table.fill.astype(np.float64) ** 8)


def _scenes(library: ConceptLibrary, count: int, seed: int, weights: np.ndarray | None = None) -> list[Plan]:
    """The plans of `scene`, objects drawn in proportion to `weights` [N] if given."""
    table = library.table
    objects = np.flatnonzero(library.concept != BACKGROUND)
    if not len(objects):
        raise ConfigError("protocol scene: the library has no object slots; use a better trained model")
    images, places = np.unique(table.index, return_inverse=True)
    per_image = np.bincount(places[objects], minlength=len(images))
    radius = 2 * np.sqrt(np.asarray(table.area, np.float64) / math.pi)
    centre = np.asarray(table.centre, np.float64)
    chance = None if weights is None else weights[objects] / weights[objects].sum()
    plans = []
    for number in range(count):
        random = np.random.default_rng((seed, number))
        rows = [int(random.choice(library.members[BACKGROUND]))]
        wanted = int(per_image[random.integers(len(images))])
        for _ in range(wanted):
            for _ in range(TRIES):
                row = int(random.choice(objects, p=chance))
                others = rows[1:]
                near = np.linalg.norm(centre[others] - centre[row], axis=1) < radius[others] + radius[row]
                if not near.any() and table.index[row] not in table.index[rows]:
                    rows.append(row)
                    break
        plans.append(Plan(number, tuple(rows), wanted + 1))
    return plans


def chosen(library: ConceptLibrary, concepts: Sequence[int], count: int, seed: int = 0) -> list[Plan]:
    """One member of each of the `concepts`, which may repeat, drawn from different images."""
    if not concepts:
        raise ConfigError("concepts: name at least one")
    members, index = [library.members_of(concept) for concept in concepts], library.table.index
    plans = []
    for number in range(count):
        random = np.random.default_rng((seed, number))
        rows = next(filter(None, (_one_of_each(index, members, random) for _ in range(TRIES))), None)
        if rows is None:
            raise ConfigError(
                f"found no {len(concepts)} slots, one of each concept, that come from different images (the library "
                f"has {len(np.unique(index))}); fit it to more images, or with fewer concepts"
            )
        plans.append(Plan(number, rows, len(concepts)))
    return plans


def _one_of_each(
    index: np.ndarray, concepts: Sequence[np.ndarray], random: np.random.Generator
) -> tuple[int, ...] | None:
    """A row of each concept, no two of one image; None if the images drawn leave no other."""
    rows: list[int] = []
    for members in concepts:
        tries = (int(members[random.integers(len(members))]) for _ in range(TRIES))
        row = next((row for row in tries if index[row] not in index[rows]), None)
        if row is None:
            free = members[~np.isin(index[members], index[rows])]
            if not len(free):
                return None
            row = int(random.choice(free))
        rows.append(row)
    return tuple(rows)


PROTOCOLS: dict[str, Callable[[ConceptLibrary, int, int], list[Plan]]] = {
    "report": report,
    "shuffle": shuffle,
    "scene": scene,
    "whole": whole,
}


@in_steps
def compose(
    model: Model,
    library: ConceptLibrary,
    out: str | Path,
    *,
    protocol: str = "report",
    count: int = 2048,
    seed: int = 0,
    batch_size: int = 32,
    concepts: Sequence[int] | None = None,
    weights: str | None = None,
) -> Generator[int, None, Path]:
    """Paints compositions into the folder `out`; call it again with the same arguments to resume.

    Writes `composition.json` (the settings), `compositions.jsonl` (the source of each image's
    slots) and `images/000000.png` and so on. What is random in an image depends on `seed` and its
    number only. Several processes take turns with the batches and paint what one would.

    Args:
        model: the library's model.
        library: where the slots come from.
        out: a new or empty folder, or one in which the same composition was begun.
        protocol: "report", "shuffle", "scene" or "whole": the functions of these names.
        count: number of images.
        seed: 0 or more.
        batch_size: images painted at a time.
        concepts: paint one member of each of these concepts instead of following a protocol.
        weights: which weights of the run these are, such as "moving average", for the protocol.

    Returns:
        The folder of the images.

    Raises:
        CheckpointError: the library is another model's.
        ConfigError: an unknown protocol, a value out of range, a library too small for the
            protocol, or `out` holds something else.

    Example:
        >>> import slotlab, tempfile
        >>> from slotlab.composition import compose
        >>> model, library = slotlab.load("scenes-64"), slotlab.load_library("scenes-64")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     images = compose(model, library, folder, protocol="scene", count=2)
        ...     sorted(path.name for path in images.iterdir())
        ['000000.png', '000001.png']
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol: unknown {protocol!r}{nearest(protocol, PROTOCOLS)}")
    for name, value, least in (("count", count, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name}: must be {least} or more, not {value}")
    out = Path(out)
    library.check(model)
    described = that_paints(model).describe() | ({} if weights is None else {"weights": weights})
    settings: dict[str, Any] = {
        "format": "slotlab-composition",
        "version": 1,
        **({"protocol": protocol} if concepts is None else {"protocol": "chosen", "concepts": list(concepts)}),
        **{"count": count, "seed": seed, "batch_size": batch_size},
        "model": {"fingerprint": library.table.facts["fingerprint"], **described},
        "library": library.describe(),
    }
    work = Workspace(out, SETTINGS_FILE, settings, "a composition")
    work.check()
    plans = PROTOCOLS[protocol](library, count, seed) if concepts is None else chosen(library, concepts, count, seed)
    place = place_among_processes()
    wait_for_all()  # every process has checked the folder before the first one writes to it
    if place.is_first:
        work.begin()
        with replacing(out / PLANS_FILE) as path:
            path.write_text("".join(json.dumps(origin(library, plan)) + "\n" for plan in plans), encoding="utf-8")
    wait_for_all()
    for start in range(place.rank * batch_size, count, place.count * batch_size):
        together = plans[start : start + batch_size]
        missing = [plan for plan in together if not image_path(out, plan.number).is_file()]
        sizes = {len(plan.rows) for plan in missing}  # whole groups have the same last digits
        painted = [plan for plan in together if len(plan.rows) in sizes]
        for plan, image in zip(painted, paint_plans(model, library, painted, seed), strict=True):
            if plan in missing:
                write_image(image, image_path(out, plan.number))
        yield len(together)
    wait_for_all()
    return out / IMAGES_FOLDER


@torch.inference_mode()
def paint_plans(model: Model, library: ConceptLibrary, plans: Sequence[Plan], seed: int = 0) -> list[Tensor]:
    """The image [3, R, R] in [0, 1] of each plan; as many slots are painted together."""
    slot_model, device = that_paints(model), next(model.parameters()).device
    images: dict[int, Tensor] = {}
    with evaluating(model):
        for size in sorted({len(plan.rows) for plan in plans}):
            group = [plan for plan in plans if len(plan.rows) == size]
            slots = torch.from_numpy(library.slots[np.array([plan.rows for plan in group])]).to(device)
            painted = slot_model.generate(slots, generator=[seeded_generator(seed, plan.number) for plan in group])
            images |= dict(zip((plan.number for plan in group), painted, strict=True))
    return [images[plan.number] for plan in plans]


def origin(library: ConceptLibrary, plan: Plan) -> dict[str, Any]:
    """The source of a composition's slots, as JSON values: a line of `compositions.jsonl`."""
    table = library.table
    columns = {"index": table.index, "slot": table.number, "concept": library.concept}
    slots = [{"row": row, **{name: int(column[row]) for name, column in columns.items()}} for row in plan.rows]
    image = image_path("", plan.number).as_posix()
    return {"number": plan.number, "image": image, "wanted": plan.wanted, "slots": slots}


def read_plans(out: str | Path, count: int | None = None) -> list[Plan]:
    """The first `count` plans of the composition in `out`, or all."""
    path = Path(out) / PLANS_FILE
    try:
        lines = [json.loads(line) for line in regular(path).read_text(encoding="utf-8").splitlines()[:count]]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not the plans of a composition ({error}); compose again") from None
    return [Plan(line["number"], tuple(slot["row"] for slot in line["slots"]), line["wanted"]) for line in lines]


def image_path(out: str | Path, number: int) -> Path:
    """The path of image `number` of the composition in `out`."""
    return Path(out) / IMAGES_FOLDER / f"{number:06d}.png"


def write_image(image: Tensor, path: Path) -> None:
    """Writes an image [3, H, W] in [0, 1] as an 8-bit PNG, whole or not at all."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    with replacing(path) as temporary:
        Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy()).save(temporary, format="png")
