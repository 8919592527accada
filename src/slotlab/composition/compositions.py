"""New pictures of slots that come from many images, painted into a folder; an interrupted one goes on exactly."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slotlab.composition.library import BACKGROUND, ConceptLibrary
from slotlab.distributed import place_among_processes, wait_for_all
from slotlab.errors import CheckpointError, ConfigError, nearest
from slotlab.files import remove, replacing
from slotlab.models import Model, with_slots
from slotlab.models.building import evaluating
from slotlab.models.randomness import seeded_generator

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


SETTINGS_FILE, PLANS_FILE, IMAGES_FOLDER = "composition.json", "compositions.jsonl", "images"
FORMAT, VERSION = "slotlab-composition", 1
CHOSEN = "chosen"  # what the protocol is called where concepts were named


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
    on_batch: Callable[[int], None] | None = None,
) -> Path:
    """Paints `count` compositions into `out`, or those that are still missing there.

    Writes `composition.json` (the protocol), `compositions.jsonl` (for each picture where its slots come from; all
    lines before the first picture) and `images/000000.png` and so on, each whole or not at all.

    What is random in a picture depends on `seed` and its number alone, and which pictures are painted together on
    `batch_size` and the numbers, so that a composition that was interrupted comes out as if it had not been. Several
    processes take turns with the batches, and paint what one would have.

    Args:
        model: that made the library's slots; put into evaluation mode for the time.
        library: where the slots come from.
        out: a new or empty folder, or the same composition begun before.
        protocol: "report", "shuffle" or "scene", see `slotlab.composition.compositions`.
        count: number of pictures, at least 1.
        seed: 0 or more.
        batch_size: pictures at a time.
        concepts: paint one member of each of these instead of following a protocol; they may repeat.
        weights: for the protocol, which weights these are, such as "moving average".
        on_batch: told the number of pictures done (or found done) after each batch.

    Returns:
        The folder of the pictures.

    Raises:
        CheckpointError: the library is of another model.
        ConfigError: an unknown protocol, a value out of range, a library too small for the protocol, or `out` holds
            something else or another composition.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol: unknown {protocol!r}{nearest(protocol, PROTOCOLS)}")
    for name, value, least in (("count", count, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name}: must be {least} or more, not {value}")
    out = Path(out)
    library.check(with_slots(model))
    described = {**model.describe(), **({} if weights is None else {"weights": weights})}
    settings = {
        "format": FORMAT,
        "version": VERSION,
        "protocol": protocol if concepts is None else CHOSEN,
        **({} if concepts is None else {"concepts": list(concepts)}),
        "count": count,
        "seed": seed,
        "batch_size": batch_size,
        "model": {"fingerprint": library.table.facts["fingerprint"], **described},
        "library": library.describe(),
    }
    _check_folder(out, settings)
    plans = PROTOCOLS[protocol](library, count, seed) if concepts is None else chosen(library, concepts, count, seed)
    place = place_among_processes()
    wait_for_all()  # all have checked the folder before the first writes to it
    if place.is_first:
        _begin(out, settings, library, plans)
    wait_for_all()
    for start in range(place.rank * batch_size, count, place.count * batch_size):
        together = plans[start : start + batch_size]
        for size in sorted({len(plan.rows) for plan in together}):
            group = [plan for plan in together if len(plan.rows) == size]
            if not all(image_path(out, plan.number).is_file() for plan in group):
                _paint(model, library, group, seed, out)
        if on_batch is not None:
            on_batch(len(together))
    wait_for_all()
    return out / IMAGES_FOLDER


def image_path(out: str | Path, number: int) -> Path:
    """Where picture `number` of the composition in `out` lies."""
    return Path(out) / IMAGES_FOLDER / f"{number:06d}.png"


def read_plans(out: str | Path, count: int | None = None) -> list[Plan]:
    """The plans of the composition in `out`, or its first `count`.

    Raises:
        CheckpointError: there is no composition, or it is damaged.
    """
    path, plans = Path(out) / PLANS_FILE, []
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if count is not None and len(plans) >= count:
                    break
                content = json.loads(line)
                rows = tuple(slot["row"] for slot in content["slots"])
                plans.append(Plan(content["number"], rows, content["wanted"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not the plans of a composition ({error}); compose again") from None
    return plans


def read_settings(out: str | Path) -> dict[str, Any] | None:
    """The protocol of the composition in `out`; None if there is none.

    Raises:
        ConfigError: `composition.json` cannot be read.
    """
    path = Path(out) / SETTINGS_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not readable ({error}); compose into a new folder") from None


def write_image(image: Tensor, path: Path) -> None:
    """Writes an image [3, H, W] in [0, 1] as PNG with 8 bits, whole or not at all."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    with replacing(path) as temporary:
        Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy()).save(temporary, format="png")


def _check_folder(out: Path, settings: dict[str, Any]) -> None:
    found = read_settings(out)
    if found is None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out}: holds something else than a composition; name a new folder")
        return
    wanted = json.loads(json.dumps(settings))
    if found != wanted:
        other = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        said = [f"{key} {found.get(key)} there, {wanted.get(key)} here" if _short(key) else key for key in other]
        raise ConfigError(
            f"{out}: holds another composition ({'; '.join(said)}); name a new folder, or go on with its own options"
        )


def _short(key: str) -> bool:
    return key not in ("model", "library")


def _begin(out: Path, settings: dict[str, Any], library: ConceptLibrary, plans: Sequence[Plan]) -> None:
    images = out / IMAGES_FOLDER
    images.mkdir(parents=True, exist_ok=True)
    for left in images.glob(".*.tmp"):  # of a process that was killed while it wrote
        remove(left)
    with replacing(out / SETTINGS_FILE) as path:
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    with replacing(out / PLANS_FILE) as path, path.open("w", encoding="utf-8") as lines:
        for plan in plans:
            lines.write(json.dumps(origin(library, plan)) + "\n")


def origin(library: ConceptLibrary, plan: Plan) -> dict[str, Any]:
    """Where the slots of a picture come from, as JSON values: a line of `compositions.jsonl`."""
    table = library.table
    slots = [
        {
            "row": row,
            "index": int(table.index[row]),
            "slot": int(table.number[row]),
            "concept": int(library.concept[row]),
        }
        for row in plan.rows
    ]
    return {
        "number": plan.number,
        "image": f"{IMAGES_FOLDER}/{plan.number:06d}.png",
        "wanted": plan.wanted,
        "slots": slots,
    }


@torch.inference_mode()
def paint_plans(
    model: Model, library: ConceptLibrary, plans: Sequence[Plan], seed: int = 0, batch_size: int = 32
) -> list[Tensor]:
    """The picture [3, R, R] in [0, 1] of each plan, on the model's device, as `compose` paints it.

    Args:
        model: that made the library's slots, which is not checked; put into evaluation mode for the time.
        library: where the slots come from.
        plans: of `slotlab.composition.compositions`; those of equally many slots are painted together.
        seed: of the noise of samples.
        batch_size: pictures at a time.
    """
    slot_model, device = with_slots(model), next(model.parameters()).device
    painted: dict[int, Tensor] = {}
    with evaluating(model):
        for size in sorted({len(plan.rows) for plan in plans}):
            places = [place for place, plan in enumerate(plans) if len(plan.rows) == size]
            for start in range(0, len(places), batch_size):
                some = places[start : start + batch_size]
                rows = np.array([plans[place].rows for place in some])
                slots = torch.from_numpy(np.asarray(library.table.slots)[rows]).to(device)
                poses = library.table.poses
                given = None if poses is None else torch.from_numpy(np.asarray(poses)[rows]).to(device)
                generators = [seeded_generator(seed, plans[place].number) for place in some]
                images, _ = slot_model.paint(slots, given, generators)
                painted |= dict(zip(some, images, strict=True))
    return [painted[place] for place in range(len(plans))]


def _paint(model: Model, library: ConceptLibrary, group: Sequence[Plan], seed: int, out: Path) -> None:
    """Paints pictures of equally many slots together, and writes those that are missing."""
    for plan, image in zip(group, paint_plans(model, library, group, seed, len(group)), strict=True):
        path = image_path(out, plan.number)
        if not path.is_file():
            write_image(image, path)
