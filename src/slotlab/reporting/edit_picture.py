"""Pictures of an edit: which number each slot has, and what the edit did to the image; and the files of an edit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from slotlab.atomic import replacing
from slotlab.composition.edits import Scene
from slotlab.composition.scene_pictures import Edited
from slotlab.reporting import cells
from slotlab.reporting.canvas import Cell, Heading, Scale, font, grid
from slotlab.reporting.cells import cell_size
from slotlab.reporting.colours import palette_colour, slot_colours
from slotlab.reporting.figures import EMPTY_SHARE, ERROR_TOP

CELL = 176
COLUMNS = 7
NUMBER_SIZE = 18


def slots_picture(scene: Scene, *, cell: int = CELL) -> Image.Image:
    """The image, the image with the number of each slot written on it, and a numbered cut-out of each slot."""
    pictures = [_photograph(scene.image, cell), _numbered(scene.image, scene.segmentation(), cell)]
    headings = ["image", "numbers of the slots"]
    return grid(*_lines(pictures, headings, _legend(scene, cell)))


def edit_picture(scene: Scene, edited: Edited, *, cell: int = CELL) -> Image.Image:
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
        Cell(cells.cut_out(edited.image, edited.region.float(), size, soft=False), f"changed slots: {changed}"),
        Cell(cells.heat_map(difference, size, ERROR_TOP), outside),
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
    the slots; `slots.npz` with slots [J, D], numbers [J], changed, and poses [J, 4] where there are any; `edit.png`,
    the labelled picture.
    """
    size = (edited.image.shape[2], edited.image.shape[1])
    _write(cells.photograph(edited.image, size), folder / f"{prefix}edited.png")
    _write(_mask(edited.segmentation()), folder / f"{prefix}mask.png")
    arrays = {
        "slots": edited.plan.slots.numpy(),
        "numbers": np.array(edited.plan.numbers),
        "changed": np.array(sorted(edited.changed), dtype=np.int64),
    }
    if edited.plan.poses is not None:
        arrays["poses"] = edited.plan.poses.numpy()
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
        picture = cells.cut_out(scene.image, (owners == slot).float(), size, soft=False)
        draw = ImageDraw.Draw(picture)
        box = draw.textbbox((6, 4), str(slot), font=font(NUMBER_SIZE))
        draw.rectangle((0, 0, box[2] + 6, box[3] + 4), fill=palette_colour(slot))
        _write_number(draw, (6, 4), slot, "la")
        share = float((owners == slot).float().mean())
        owned = "empty" if share < EMPTY_SHARE else f"{share:.{0 if share >= 0.01 else 1}%} of image"
        shown.append(Cell(picture, f"slot {slot}: {owned}"))
    return shown


def _photograph(image: Tensor, cell: int) -> Cell:
    return Cell(cells.photograph(image, cell_size(image, cell)))


def _numbered(image: Tensor, segmentation: Tensor, cell: int) -> Cell:
    """A segmentation over its image, with each slot's number at the pixel deepest inside what it owns."""
    from scipy.ndimage import distance_transform_edt

    size = cell_size(image, cell)
    numbers = segmentation.unique().tolist()
    picture = cells.overlay(image, segmentation, slot_colours(numbers), size)
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
    return cells.palette_map(segmentation.numpy().astype(np.uint8))


def _write(picture: Image.Image, path: Path) -> Path:
    with replacing(path) as temporary:
        picture.save(temporary, format="png")
    return path
