import dataclasses

import numpy as np
import pytest
import torch
from reporting_samples import made_output

from slotlab.figures.grid import BACKGROUND, PALETTE, Cell, Heading, cut_out, grid, heat_map, label_map
from slotlab.figures.slots import segmentation_grid
from slotlab.reporting import attention_grid, reconstruction_grid, segmentation_colours, slot_grid

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(2, 32, 32, dtype=torch.int64)
MASK[:, 4:12, 4:12], MASK[:, 20:30, 8:28] = 1, 2


def pixels(picture) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture)


def not_blank(picture) -> bool:
    return picture.mode == "RGB" and len(picture.getcolors(1 << 24)) > 50


def test_reconstruction_grid_grows_with_images_and_masks():
    output = made_output()
    with_masks = reconstruction_grid(IMAGES, output, MASK, cell=64)
    without = reconstruction_grid(IMAGES, output, cell=64)
    single = reconstruction_grid(IMAGES[:1], made_output(batch=1), cell=64)
    assert not_blank(with_masks)
    assert with_masks.width > without.width >= 5 * 64
    assert without.height >= single.height + 64


def test_slot_grid_has_a_column_per_slot_and_three_rows():
    few, many = (slot_grid(IMAGES[0], made_output(slots=slots), cell=64) for slots in (3, 5))
    column = (many.width - few.width) / 2
    assert 64 <= column < 110
    assert few.height >= 3 * 64
    assert not_blank(many)


def test_slot_grid_without_slot_pictures_cuts_out_the_image():
    drawn, cut = (slot_grid(IMAGES[0], made_output(pictures=pictures), cell=64) for pictures in (True, False))
    assert not_blank(cut)
    assert drawn.height - cut.height >= 64


def test_empty_slots_are_marked():
    output = made_output()
    masks = torch.zeros_like(output.masks)
    masks[:, 1] = 1
    picture = slot_grid(IMAGES[0], dataclasses.replace(output, masks=masks), cell=64)
    colours = {tuple(colour) for colour in pixels(picture)[:30].reshape(-1, 3).tolist()}
    assert PALETTE[1] in colours  # only the slot in use has its chip
    assert not {PALETTE[0], PALETTE[2], PALETTE[3]} & colours


def test_attention_grid_has_a_row_per_iteration():
    output = made_output()
    three = attention_grid(IMAGES[0], output, cell=64)
    one = attention_grid(IMAGES[0], dataclasses.replace(output, attention=output.attention[:, -1:]), cell=64)
    assert three.height - one.height >= 2 * 64
    assert not_blank(three)


def test_attention_has_one_scale_for_all_slots():
    low, high = torch.full((8, 8), 0.2), torch.full((8, 8), 1.0)
    assert pixels(heat_map(low, (16, 16))).sum() < pixels(heat_map(high, (16, 16))).sum()
    np.testing.assert_array_equal(pixels(heat_map(high, (16, 16))), pixels(heat_map(5 * high, (16, 16))))


def test_permuted_labels_give_the_same_picture():
    order = torch.tensor([2, 0, 1])
    for options in ({}, {"image": IMAGES[0]}):
        plain = segmentation_colours(MASK[0], MASK[0], **options)
        renamed = segmentation_colours(order[MASK[0]], MASK[0], **options)
        np.testing.assert_array_equal(pixels(plain), pixels(renamed))
    true = segmentation_colours(MASK[0], background=True)
    np.testing.assert_array_equal(pixels(true), pixels(segmentation_colours(order[MASK[0]], MASK[0])))


def test_segmentation_keeps_the_edges_of_pixels():
    picture = pixels(segmentation_colours(MASK[0], background=True, cell=128))
    assert picture.shape == (128, 128, 3)
    assert tuple(picture[0, 0]) == BACKGROUND
    assert tuple(picture[16, 16]) == tuple(picture[47, 47]) == PALETTE[0]
    assert tuple(picture[48, 47]) == BACKGROUND


def test_overlay_outlines_the_segments_and_shows_the_image():
    black, white = (
        pixels(segmentation_colours(MASK[0], background=True, image=torch.full((3, 32, 32), level)))
        for level in (0.0, 1.0)
    )
    assert (black == 255).all(axis=2).sum() > 100
    assert white.mean() > black.mean() + 60


def test_pictures_keep_their_proportions():
    assert label_map(torch.zeros(4, 8, dtype=torch.int64), {0: BACKGROUND}, (128, 64)).size == (128, 64)
    assert segmentation_colours(torch.zeros(4, 8, dtype=torch.int64)).size == (128, 64)


def test_cut_out_shows_the_image_only_where_the_mask_is():
    mask = torch.zeros(8, 8)
    mask[:, :4] = 1
    picture = pixels(cut_out(torch.zeros(3, 8, 8), mask, (8, 8), soft=False))
    assert (picture[:, :4] == 0).all()
    assert (picture[:, 4:] > 200).all()


def test_segmentation_grid_lays_segments_over_the_images():
    assert not_blank(segmentation_grid(IMAGES, made_output(), MASK, cell=64))
    assert segmentation_grid(IMAGES, made_output(), cell=64).width >= 3 * 64


def test_values_out_of_range_and_not_finite_can_be_drawn():
    output = made_output()
    wild = dataclasses.replace(output, reconstruction=torch.full_like(output.reconstruction, float("nan")))
    assert not_blank(reconstruction_grid(5 * IMAGES - 2, wild, MASK, cell=64))


def test_more_slots_than_colours():
    assert not_blank(slot_grid(IMAGES[0], made_output(slots=36), mask=MASK[0], cell=16))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda output: reconstruction_grid(IMAGES[:1], output), "1 images, but the output is of 2"),
        (lambda output: reconstruction_grid(IMAGES[..., :16], output), "does not fit the output"),
        (lambda output: reconstruction_grid(IMAGES, output, MASK[0]), "mask: .* does not fit"),
        (lambda output: slot_grid(IMAGES[0], output, 2), "index: 2 is not among the 2 images"),
        (lambda output: attention_grid(IMAGES[0], output, mask=MASK[0, :4]), "mask: .* does not fit"),
        (lambda output: segmentation_colours(MASK[0], MASK[0, :4]), "reference: .* does not fit"),
    ],
)
def test_what_does_not_fit_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(made_output())


def test_a_grid_may_have_gaps():
    cell = Cell(label_map(torch.zeros(4, 4, dtype=torch.int64), {0: PALETTE[0]}, (16, 16)))
    picture = pixels(grid([[cell, None], [cell, cell]], [Heading("a"), Heading("b")]))
    assert (picture == PALETTE[0]).all(axis=2).sum() == 3 * 16 * 16
