import dataclasses
import itertools

import numpy as np
import pytest
import torch

from slotlab.figures.grid import PALETTE
from slotlab.figures.slots import attention_grid, image_colours, reconstruction_grid, segmentation_grid, slot_grid
from slotlab.models import SlotOutput

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(2, 32, 32, dtype=torch.int64)
MASK[:, 4:12, 4:12], MASK[:, 20:30, 8:28] = 1, 2


def made_output(batch: int = 2, slots: int = 4, size: int = 32, *, pictures: bool = True) -> SlotOutput:
    """A `SlotOutput` of random numbers, with the sums that the type promises."""
    generator = torch.Generator().manual_seed(0)
    masks = (6 * torch.rand(batch, slots, size, size, generator=generator)).softmax(dim=1)
    images = torch.rand(batch, slots, 3, size, size, generator=generator)
    attention = torch.randn(batch, 3, slots, size * size // 4, generator=generator).softmax(dim=2)
    return SlotOutput(
        slots=torch.zeros(batch, slots, 8),
        attention=attention,
        attention_grid=(size // 2, size // 2),
        masks=masks,
        reconstruction=(masks[:, :, None] * images).sum(dim=1),
        slot_images=images if pictures else None,
    )


def pixels(picture) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture)


def not_blank(picture) -> bool:
    return picture.mode == "RGB" and len(picture.getcolors(1 << 24)) > 50


def test_grids_grow_with_images_masks_slots_and_slot_pictures():
    output = made_output()
    with_masks, without = (reconstruction_grid(IMAGES, output, mask, cell=64) for mask in (MASK, None))
    single = reconstruction_grid(IMAGES[:1], made_output(batch=1), cell=64)
    assert with_masks.width > without.width >= 5 * 64
    assert without.height >= single.height + 64
    few, many = (slot_grid(IMAGES[0], made_output(slots=slots), cell=64) for slots in (3, 5))
    assert 64 <= (many.width - few.width) / 2 < 110
    assert few.height >= 3 * 64
    drawn, cut = (slot_grid(IMAGES[0], made_output(pictures=pictures), cell=64) for pictures in (True, False))
    assert drawn.height - cut.height >= 64
    assert all(map(not_blank, (with_masks, many, cut)))


def test_empty_slots_are_marked():
    output = made_output()
    masks = torch.zeros_like(output.masks)
    masks[:, 1] = 1
    picture = slot_grid(IMAGES[0], dataclasses.replace(output, masks=masks), cell=64)
    colours = {tuple(colour) for colour in pixels(picture)[:30].reshape(-1, 3).tolist()}
    assert PALETTE[1] in colours  # only the slot in use has its chip
    assert not {PALETTE[0], PALETTE[2], PALETTE[3]} & colours


def test_a_slot_has_one_colour_in_all_figures_of_an_image():
    output = made_output()
    colours = image_colours(output[1], MASK[1])
    for draw in (slot_grid, attention_grid):
        row = map(tuple, pixels(draw(IMAGES[1], output, 1, mask=MASK[1], cell=64))[18].tolist())
        chips = [colour for colour, run in itertools.groupby(row) if len([*run]) == 11]
        assert chips == [colours[slot] for slot in range(4)]


def test_attention_grid_has_a_row_per_iteration():
    output = made_output()
    three = attention_grid(IMAGES[0], output, cell=64)
    one = attention_grid(IMAGES[0], dataclasses.replace(output, attention=output.attention[:, -1:]), cell=64)
    assert three.height - one.height >= 2 * 64
    assert not_blank(three)


def test_segmentation_grid_lays_segments_over_the_images():
    assert not_blank(segmentation_grid(IMAGES, made_output(), MASK, cell=64))
    assert segmentation_grid(IMAGES, made_output(), cell=64).width >= 3 * 64


def test_values_out_of_range_and_not_finite_and_more_slots_than_colours_can_be_drawn():
    output = made_output()
    wild = dataclasses.replace(output, reconstruction=torch.full_like(output.reconstruction, float("nan")))
    assert not_blank(reconstruction_grid(5 * IMAGES - 2, wild, MASK, cell=64))
    assert not_blank(slot_grid(IMAGES[0], made_output(slots=36), mask=MASK[0], cell=16))


def test_images_and_masks_of_another_shape_are_refused():
    for images, mask in ((IMAGES[:1], None), (IMAGES[..., :16], None), (IMAGES, MASK[:, :4])):
        with pytest.raises((ValueError, RuntimeError)):
            reconstruction_grid(images, made_output(), mask)
