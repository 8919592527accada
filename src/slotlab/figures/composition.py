"""Pictures of an edit: which number each slot has, and what the edit did to the image; and the files of an edit."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from slotlab.composition.compositions import image_path, read_plans
from slotlab.composition.edits import Edited, Scene
from slotlab.composition.library import BACKGROUND, ConceptLibrary
from slotlab.data import SlotDataset
from slotlab.data.images import decode_image
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
)
from slotlab.figures.slots import EMPTY_SHARE, ERROR_TOP
from slotlab.files import replacing
from slotlab.models import Model, with_slots
from slotlab.models.building import evaluating
from slotlab.models.randomness import seeded_generator

CELL = 96
TOGETHER = 32


def concept_picture(
    model: Model, library: ConceptLibrary, dataset: SlotDataset, *, members: int = 10, cell: int = CELL
) -> Image.Image:
    """A row per concept: the slots nearest to its centroid, the nearest first, cut out of their images.

    Args:
        model: that made the library's slots.
        library: the concepts.
        dataset: what the library was fitted to, opened in the same way.
        members: slots per concept, at least 1.
        cell: side of a picture in pixels.

    Raises:
        CheckpointError: the library is of another model.
        ConfigError: `members` is out of its range, or `dataset` is not the library's.
        DataError: an image cannot be read.
    """
    if members < 1:
        raise ConfigError(f"members={members}: expected 1 or more")
    central = [library.central(concept, members) for concept in range(library.concepts)]
    cut = cut_outs(model, library, dataset, {int(row) for rows in central for row in rows}, cell)
    pictures: list[list[Cell | None]] = [
        [Cell(cut[int(row)], f"image {library.table.index[row]}") for row in rows] + [None] * (members - len(rows))
        for rows in central
    ]
    headings = [Heading("nearest" if place == 0 else str(place + 1), faint=place > 0) for place in range(members)]
    labels = [
        f"{'background' if concept == BACKGROUND else f'concept {concept}'}: {size:,} slots"
        for concept, size in enumerate(library.sizes)
    ]
    return grid(pictures, headings, labels)


def contact_sheet(
    model: Model, library: ConceptLibrary, dataset: SlotDataset, out: str | Path, *, count: int = 8, cell: int = CELL
) -> Image.Image:
    """The first `count` compositions in the folder `out`, each beside the slots that it was painted from.

    Args:
        model: that made the library's slots.
        library: the composition's.
        dataset: what the library was fitted to, opened in the same way.
        out: a folder that `slotlab.composition.compositions` wrote.
        count: number of compositions, at least 1.
        cell: side of a picture in pixels.

    Raises:
        CheckpointError: the library is of another model, or `out` holds no composition.
        ConfigError: `count` is out of its range, or `dataset` is not the library's.
        DataError: an image cannot be read.
    """
    if count < 1:
        raise ConfigError(f"count={count}: expected 1 or more")
    plans = read_plans(out, count)
    cut = cut_outs(model, library, dataset, {row for plan in plans for row in plan.rows}, cell)
    most = max(len(plan.rows) for plan in plans)
    table, rows = library.table, []
    for plan in plans:
        path = image_path(out, plan.number)
        if not path.is_file():
            raise DataError(f"{path}: missing; finish the composition with the command that began it")
        pixels, _ = decode_image(path, str(path))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
        row: list[Cell | None] = [Cell(photograph(image, cell_size(image, cell)), f"number {plan.number}")]
        row += [
            Cell(cut[one], f"image {table.index[one]}, slot {table.number[one]}\nconcept {library.concept[one]}")
            for one in plan.rows
        ]
        rows.append(row + [None] * (most + 1 - len(row)))
    headings = [Heading("composition"), Heading("painted from")] + [Heading("")] * (most - 1)
    return grid(rows, headings)


@torch.inference_mode()
def cut_outs(
    model: Model, library: ConceptLibrary, dataset: SlotDataset, rows: Iterable[int], cell: int = CELL
) -> dict[int, Image.Image]:
    """The pixels that each row's slot owns, cut out of its image, by row; masks are computed anew.

    Args:
        model: that made the library's slots.
        library: the slots.
        dataset: what the library was fitted to, opened in the same way.
        rows: of the library's slots.
        cell: side of a picture in pixels.

    Raises:
        CheckpointError: the library is of another model.
        ConfigError: `dataset` is not the library's.
        DataError: an image cannot be read.
    """
    library.check(model)
    slot_model, table = with_slots(model), library.table
    by_position: dict[int, list[int]] = {}
    for row in rows:
        by_position.setdefault(int(table.position[row]), []).append(row)
    positions = sorted(by_position)
    found: dict[int, Image.Image] = {}
    with evaluating(model):
        for start in range(0, len(positions), TOGETHER):
            some = positions[start : start + TOGETHER]
            images, index = _images(dataset, some)
            generators = [seeded_generator(int(table.facts["seed"]), int(one)) for one in index]
            output = slot_model.segment(images.to(next(model.parameters()).device), generators)
            owners = output.segmentation(slot_model.finer_masks).cpu()
            for place, position in enumerate(some):
                for row in by_position[position]:
                    if int(table.index[row]) != int(index[place]):
                        raise ConfigError(
                            f"data: image {position} of it is number {int(index[place])}, but the library's is number "
                            f"{int(table.index[row])}; give the data set and split that the library was fitted to"
                        )
                    image = images[place].cpu()
                    mask = (owners[place] == int(table.number[row])).float()
                    found[row] = cut_out(image, mask, cell_size(image, cell))
    return found


def _images(dataset: SlotDataset, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
    if positions[-1] >= len(dataset):
        raise ConfigError(
            f"data: it has {len(dataset)} images, but the library uses number {positions[-1]}; give the data set and "
            "split that the library was fitted to"
        )
    batch = dataset.batch(positions)
    return batch["image"], batch["index"].cpu()


EDIT_CELL = 176
COLUMNS = 7
NUMBER_SIZE = 18


def slots_picture(scene: Scene, *, cell: int = EDIT_CELL) -> Image.Image:
    """The image, the image with the number of each slot written on it, and a numbered cut-out of each slot."""
    pictures = [_photograph(scene.image, cell), _numbered(scene.image, scene.segmentation(), cell)]
    headings = ["image", "numbers of the slots"]
    return grid(*_lines(pictures, headings, _legend(scene, cell)))


def edit_picture(scene: Scene, edited: Edited, *, cell: int = EDIT_CELL) -> Image.Image:
    """What an edit did: image, numbers, painted before and after, numbers after, region, difference; then the slots.

    Args:
        scene: as it was read.
        edited: what `paint_edit` made of it.
        cell: side of a picture in pixels.
    """
    after, size = edited.segmentation(), cell_size(scene.image, cell)
    difference = (edited.image - edited.before).abs().mean(dim=0)
    outside = "nothing outside" if edited.region.all() else f"error outside {edited.outside_error:.2g}"
    changed = ", ".join(map(str, sorted(edited.changed))) or "none"
    pictures = [
        _photograph(scene.image, cell),
        _numbered(scene.image, scene.segmentation(), cell),
        _photograph(edited.before, cell),
        _photograph(edited.image, cell),
        _numbered(edited.image, after, cell),
        Cell(cut_out(edited.image, edited.region.float(), size, soft=False), f"changed slots: {changed}"),
        Cell(heat_map(difference, size, ERROR_TOP), outside),
    ]
    headings = [
        *("image", "numbers of the slots", "painted before", "painted after", "numbers after"),
        *("changed region", "difference"),
    ]
    scale = Scale("difference: mean absolute difference of the channels", ERROR_TOP)
    return grid(*_lines(pictures, headings, _legend(scene, cell)), scale=scale)


def write_slots(folder: Path, scene: Scene) -> Path:
    """Writes `slots.png` (`slots_picture`) into `folder` and returns its path."""
    return _write(slots_picture(scene), folder / "slots.png")


def write_edit(folder: Path, scene: Scene, edited: Edited, prefix: str = "") -> None:
    """Writes what an edit made into `folder`, each file whole or not at all, its name after `prefix`.

    `edited.png`, the image; `mask.png`, a palette image (16-bit grey from slot 256 on) whose values are the numbers of
    the slots; `slots.npz` with slots [J, D], numbers [J] and changed; `edit.png`, the labelled picture.
    """
    size = (edited.image.shape[2], edited.image.shape[1])
    _write(photograph(edited.image, size), folder / f"{prefix}edited.png")
    _write(_mask(edited.segmentation()), folder / f"{prefix}mask.png")
    arrays = {
        "slots": edited.plan.slots.numpy(),
        "numbers": np.array(edited.plan.numbers),
        "changed": np.array(sorted(edited.changed), dtype=np.int64),
    }
    with replacing(folder / f"{prefix}slots.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    _write(edit_picture(scene, edited), folder / f"{prefix}edit.png")


def _lines(
    pictures: Sequence[Cell], headings: Sequence[str], legend: Sequence[Cell]
) -> tuple[list[list[Cell | None]], list[Heading]]:
    """Rows of `COLUMNS` cells: first the pictures under their headings, then the legend."""
    columns = max(len(pictures), min(COLUMNS, len(legend)))
    rows: list[list[Cell | None]] = [[*pictures]]
    for start in range(0, len(legend), columns):
        rows.append([*legend[start : start + columns]])
    return rows, [Heading(title) for title in (*headings, *[""] * (columns - len(headings)))]


def _legend(scene: Scene, cell: int) -> list[Cell]:
    """What each slot owns, cut out, with its number and its share of the pixels."""
    owners, size = scene.segmentation(), cell_size(scene.image, cell)
    shown = []
    for slot in range(len(scene.masks)):
        picture = cut_out(scene.image, (owners == slot).float(), size, soft=False)
        draw = ImageDraw.Draw(picture)
        box = draw.textbbox((6, 4), str(slot), font=font(NUMBER_SIZE))
        draw.rectangle((0, 0, box[2] + 6, box[3] + 4), fill=palette_colour(slot))
        _write_number(draw, (6, 4), slot, "la")
        share = float((owners == slot).float().mean())
        owned = "empty" if share < EMPTY_SHARE else f"{share:.{0 if share >= 0.01 else 1}%} of image"
        shown.append(Cell(picture, f"slot {slot}: {owned}"))
    return shown


def _photograph(image: Tensor, cell: int) -> Cell:
    return Cell(photograph(image, cell_size(image, cell)))


def _numbered(image: Tensor, segmentation: Tensor, cell: int) -> Cell:
    """A segmentation over its image, with each slot's number at the pixel deepest inside what it owns."""
    from scipy.ndimage import distance_transform_edt

    size = cell_size(image, cell)
    numbers = segmentation.unique().tolist()
    picture = overlay(image, segmentation, slot_colours(numbers), size)
    draw = ImageDraw.Draw(picture)
    height, width = segmentation.shape
    for slot in numbers:
        owned = (segmentation == slot).numpy()
        if owned.mean() < EMPTY_SHARE:
            continue
        depth = np.asarray(distance_transform_edt(np.pad(owned, 1)))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        centre = ((float(column) + 0.5) * size[0] / width, (float(row) + 0.5) * size[1] / height)
        _write_number(draw, centre, slot, "mm")
    return Cell(picture)


def _write_number(draw: ImageDraw.ImageDraw, place: tuple[float, float], slot: int, anchor: str) -> None:
    draw.text(place, str(slot), "white", font(NUMBER_SIZE), anchor=anchor, stroke_width=2, stroke_fill="black")


def _mask(segmentation: Tensor) -> Image.Image:
    """Numbers of slots [H, W] as a palette image with the colours of the figures."""
    if int(segmentation.max()) > 255:
        return Image.fromarray(segmentation.numpy().astype(np.uint16))
    return palette_map(segmentation.numpy().astype(np.uint8))


def _write(picture: Image.Image, path: Path) -> Path:
    with replacing(path) as temporary:
        picture.save(temporary, format="png")
    return path
