"""Figures of concepts, compositions and edits, and the files that an edit writes."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from slotlab.composition.compositions import image_path, read_plans
from slotlab.composition.edits import Edited, Scene
from slotlab.composition.library import BACKGROUND, ConceptLibrary
from slotlab.data import SlotDataset
from slotlab.data.images import read_image
from slotlab.errors import ConfigError, DataError
from slotlab.figures.grid import (
    Cell,
    Heading,
    Scale,
    cell_size,
    cut_out,
    font,
    grid,
    heat_map,
    overlay,
    palette_colour,
    palette_map,
    photograph,
    slot_colours,
    write_png,
)
from slotlab.figures.slots import EMPTY_SHARE, ERROR_TOP, share_of_image
from slotlab.files import replacing
from slotlab.models import Model, that_paints
from slotlab.models.building import evaluating
from slotlab.models.sampling import seeded_generator

CELL, EDIT_CELL = 96, 176
COLUMNS = 7
NUMBER_SIZE = 18
BATCH = 32


def concept_figure(
    model: Model, library: ConceptLibrary, dataset: SlotDataset, *, members: int = 10, cell: int = CELL
) -> Image.Image:
    """A row per concept: the `members` slots nearest to its centroid, cut out of their images.

    `model`, `dataset` and the errors are as in `cut_outs`.
    """
    central = [library.central(concept, members) for concept in range(library.concepts)]
    cut = cut_outs(model, library, dataset, {int(row) for rows in central for row in rows}, cell)
    cells = [[Cell(cut[int(row)], f"image {library.table.index[row]}") for row in rows] for rows in central]
    headings = [Heading("nearest" if place == 0 else str(place + 1), faint=place > 0) for place in range(members)]
    names = [f"concept {concept}" for concept in range(library.concepts)]
    names[BACKGROUND] = "background"
    labels = [f"{name}: {size:,} slots" for name, size in zip(names, library.sizes, strict=True)]
    return grid(cells, headings, labels)


def contact_sheet(
    model: Model, library: ConceptLibrary, dataset: SlotDataset, out: str | Path, *, count: int = 8, cell: int = CELL
) -> Image.Image:
    """The first `count` compositions in `out`, each beside the slots it was painted from.

    `out` is a folder that `slotlab compose` wrote; the rest and the errors are as in `cut_outs`.

    Raises:
        CheckpointError: `out` holds no composition.
        DataError: a composition's image is missing.
    """
    plans, table = read_plans(out, count), library.table
    cut = cut_outs(model, library, dataset, {row for plan in plans for row in plan.rows}, cell)
    most = max(len(plan.rows) for plan in plans)
    rows = []
    for plan in plans:
        path = image_path(out, plan.number)
        if not path.is_file():
            raise DataError(f"{path}: missing; re-run the slotlab compose command to finish the composition")
        image = torch.from_numpy(read_image(path).copy()).permute(2, 0, 1) / 255
        slots = [
            Cell(cut[one], f"image {table.index[one]}, slot {table.number[one]}\nconcept {library.concept[one]}")
            for one in plan.rows
        ]
        rows.append([Cell(photograph(image, cell_size(image, cell)), f"number {plan.number}"), *slots])
    headings = [Heading("composition"), Heading("painted from")] + [Heading("")] * (most - 1)
    return grid(rows, headings)


@torch.inference_mode()
def cut_outs(
    model: Model, library: ConceptLibrary, dataset: SlotDataset, rows: Iterable[int], cell: int = CELL
) -> dict[int, Image.Image]:
    """The pixels that the slot of each library row owns, cut out of its image, by row.

    Args:
        model: the model of the library.
        library: the slots.
        dataset: the data set that the library was fitted to, opened in the same way.
        rows: the library's slots to cut out.
        cell: longer side of a result in pixels.

    Raises:
        CheckpointError: the library is of another model.
        ConfigError: `dataset` is not the library's.
        DataError: an image cannot be read.
    """
    library.check(model)
    slot_model, table, found = that_paints(model), library.table, {}
    by_position: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        by_position[int(table.position[row])].append(row)
    positions = sorted(by_position)
    remedy = "give the data set and split that the library was fitted to"
    if positions and positions[-1] >= len(dataset):
        raise ConfigError(f"data: has {len(dataset)} images, but the library uses number {positions[-1]}; {remedy}")
    with evaluating(model):
        for start in range(0, len(positions), BATCH):
            together = positions[start : start + BATCH]
            batch = dataset.batch(together)
            index = batch["index"].tolist()
            if index != (wanted := [int(table.index[by_position[position][0]]) for position in together]):
                raise ConfigError(f"data: has images {index} where the library has {wanted}; {remedy}")
            generators = [seeded_generator(int(table.facts["seed"]), number) for number in index]
            output = slot_model.segment(batch["image"].to(next(model.parameters()).device), generators)
            segmentations = output.segmentation(slot_model.finer_masks).cpu()
            for position, image, owners in zip(together, batch["image"].cpu(), segmentations, strict=True):
                for row in by_position[position]:
                    mask = (owners == int(table.number[row])).float()
                    found[row] = cut_out(image, mask, cell_size(image, cell))
    return found


def edit_figure(scene: Scene, edited: Edited, *, cell: int = EDIT_CELL) -> Image.Image:
    """What an edit did: image, numbers, painted before and after, region, difference; the slots."""
    size = cell_size(scene.image, cell)
    outside = "nothing outside" if edited.region.all() else f"error outside {edited.outside_error:.2g}"
    changed = ", ".join(map(str, sorted(edited.changed))) or "none"
    region = cut_out(edited.image, edited.region.float(), size, soft=False)
    difference = heat_map((edited.image - edited.before).abs().mean(dim=0), size, ERROR_TOP)
    shown = {
        "painted before": Cell(photograph(edited.before, size)),
        "painted after": Cell(photograph(edited.image, size)),
        "numbers after": _numbered(edited.image, edited.segmentation(), size),
        "changed region": Cell(region, f"changed slots: {changed}"),
        "difference": Cell(difference, outside),
    }
    return _with_slots(shown, scene, size, Scale("difference: mean absolute difference of the channels", ERROR_TOP))


def write_slots(folder: Path, scene: Scene) -> Path:
    """Writes `slots.png`, an image with its slots' numbers and a cut-out of each; its path."""
    write_png(_with_slots({}, scene, cell_size(scene.image, EDIT_CELL)), folder / "slots.png")
    return folder / "slots.png"


def write_edit(folder: Path, scene: Scene, edited: Edited, prefix: str = "") -> None:
    """Writes the files of an edit into `folder`, each whole or not at all, named after `prefix`.

    `edited.png`, the image; `mask.png`, a palette image whose values are slot numbers (16-bit grey
    from slot 256 on); `slots.npz` with slots [J, D], numbers [J] and changed; `edit.png`, a figure.
    """
    size = (edited.image.shape[2], edited.image.shape[1])
    write_png(photograph(edited.image, size), folder / f"{prefix}edited.png")
    owners = edited.segmentation().numpy()
    deep = int(owners.max()) > 255
    mask = Image.fromarray(owners.astype(np.uint16)) if deep else palette_map(owners.astype(np.uint8))
    write_png(mask, folder / f"{prefix}mask.png")
    with replacing(folder / f"{prefix}slots.npz") as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            slots=edited.plan.slots.numpy(),
            numbers=np.array(edited.plan.numbers),
            changed=np.array(sorted(edited.changed), dtype=np.int64),
        )
    write_png(edit_figure(scene, edited), folder / f"{prefix}edit.png")


def _with_slots(more: dict[str, Cell], scene: Scene, size: tuple[int, int], scale: Scale | None = None) -> Image.Image:
    """A grid of an image, its numbered slots and more, and below what each slot owns."""
    owners, slots = scene.segmentation(), []
    cells = {"image": Cell(photograph(scene.image, size)), "numbers of the slots": _numbered(scene.image, owners, size)}
    cells |= more
    for slot in range(len(scene.masks)):
        owned = (owners == slot).float()
        image = cut_out(scene.image, owned, size, soft=False)
        draw = ImageDraw.Draw(image)
        box = draw.textbbox((6, 4), str(slot), font=font(NUMBER_SIZE))
        draw.rectangle((0, 0, box[2] + 6, box[3] + 4), fill=palette_colour(slot))
        _write_number(draw, (6, 4), slot, "la")
        slots.append(Cell(image, f"slot {slot}: {share_of_image(float(owned.mean()))}"))
    columns = max(len(cells), min(COLUMNS, len(slots)))
    rows = [list(cells.values()), *(slots[start : start + columns] for start in range(0, len(slots), columns))]
    titles = [*cells, *[""] * (columns - len(cells))]
    return grid(rows, [Heading(title) for title in titles], scale=scale)


def _numbered(image: Tensor, segmentation: Tensor, size: tuple[int, int]) -> Cell:
    """A segmentation over its image, each slot's number at the pixel deepest inside its segment."""
    from scipy.ndimage import distance_transform_edt

    numbers = segmentation.unique().tolist()
    shown = overlay(image, segmentation, slot_colours(numbers), size)
    draw = ImageDraw.Draw(shown)
    height, width = segmentation.shape
    for slot in numbers:
        owned = (segmentation == slot).numpy()
        if owned.mean() < EMPTY_SHARE:
            continue
        depth = np.asarray(distance_transform_edt(np.pad(owned, 1)))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        centre = ((float(column) + 0.5) * size[0] / width, (float(row) + 0.5) * size[1] / height)
        _write_number(draw, centre, slot, "mm")
    return Cell(shown)


def _write_number(draw: ImageDraw.ImageDraw, place: tuple[float, float], slot: int, anchor: str) -> None:
    draw.text(place, str(slot), "white", font(NUMBER_SIZE), anchor=anchor, stroke_width=2, stroke_fill="black")
