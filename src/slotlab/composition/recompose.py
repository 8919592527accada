"""New pictures of slots that come from many images, painted into a folder; an interrupted one goes on exactly."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slotlab.atomic import remove, replacing
from slotlab.composition.library import ConceptLibrary
from slotlab.composition.plans import PROTOCOLS, Plan, chosen
from slotlab.errors import CheckpointError, ConfigError, nearest
from slotlab.models import Model, with_slots
from slotlab.models.evaluating import evaluating
from slotlab.models.randomness import seeded_generator
from slotlab.processes import place_among_processes, wait_for_all

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
        protocol: "report", "shuffle" or "scene", see `slotlab.composition.plans`.
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
        plans: of `slotlab.composition.plans`; those of equally many slots are painted together.
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
