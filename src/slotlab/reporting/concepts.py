"""Figures of a concept library and of compositions: slots cut out of the images that they come from."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from slotlab.composition.library import BACKGROUND, ConceptLibrary
from slotlab.composition.recompose import image_path, read_plans
from slotlab.composition.seeing import see
from slotlab.data import SlotDataset
from slotlab.data.decoding import decode_image
from slotlab.errors import ConfigError, DataError
from slotlab.models import Model, with_slots
from slotlab.models.evaluating import evaluating
from slotlab.models.randomness import seeded_generator
from slotlab.reporting import cells
from slotlab.reporting.canvas import Cell, Heading, grid
from slotlab.reporting.cells import cell_size

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
        out: a folder that `slotlab.composition.compose` wrote.
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
        row: list[Cell | None] = [Cell(cells.photograph(image, cell_size(image, cell)), f"number {plan.number}")]
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
            owners = see(slot_model, images, generators).owners.cpu()
            for place, position in enumerate(some):
                for row in by_position[position]:
                    if int(table.index[row]) != int(index[place]):
                        raise ConfigError(
                            f"data: image {position} of it is number {int(index[place])}, but the library's is number "
                            f"{int(table.index[row])}; give the data set and split that the library was fitted to"
                        )
                    image = images[place].cpu()
                    mask = (owners[place] == int(table.number[row])).float()
                    found[row] = cells.cut_out(image, mask, cell_size(image, cell))
    return found


def _images(dataset: SlotDataset, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
    if positions[-1] >= len(dataset):
        raise ConfigError(
            f"data: it has {len(dataset)} images, but the library uses number {positions[-1]}; give the data set and "
            "split that the library was fitted to"
        )
    batch = dataset.batch(positions)
    return batch["image"], batch["index"].cpu()
