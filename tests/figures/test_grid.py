import itertools

import numpy as np
import pytest
import torch

from slotlab.figures.grid import (
    BACKGROUND,
    PALETTE,
    Cell,
    Heading,
    cut_out,
    grid,
    heat_map,
    label_map,
    matched_colours,
    overlay,
    palette_colour,
    true_colours,
)


def labelled(*rows: str) -> torch.Tensor:
    return torch.tensor([[int(cell) for cell in row] for row in rows])


TRUE = labelled("00000", "01100", "01100", "00222", "00222")


def test_palette_has_distinct_colours_for_24_labels_and_more():
    assert len(PALETTE) >= 24
    for first, second in itertools.combinations([*PALETTE, BACKGROUND, (255, 255, 255)], 2):
        assert sum(abs(a - b) for a, b in zip(first, second, strict=True)) > 40


def test_background_is_neutral_and_gaps_between_ids_use_up_no_colours():
    colours = {0: BACKGROUND, 3: palette_colour(0), 7: palette_colour(1), 9: palette_colour(2)}
    assert true_colours(labelled("0077", "0993")) == colours


def test_a_perfect_prediction_in_another_numbering_gets_the_true_colours():
    renamed = torch.tensor([5, 0, 3])[TRUE]
    truth = true_colours(TRUE)
    assert matched_colours(renamed, TRUE) == {5: truth[0], 0: truth[1], 3: truth[2]}


def test_each_colour_is_given_once_and_leftovers_get_colours_the_truth_lacks():
    split = labelled("00000", "01100", "01100", "44222", "44223")
    colours = matched_colours(split, TRUE, labels=range(6))
    assert set(colours) == set(range(6))
    assert len(set(colours.values())) == 6
    assert [colours[label] for label in (0, 1, 2)] == [BACKGROUND, palette_colour(0), palette_colour(1)]
    assert [colours[label] for label in (4, 3)] == [palette_colour(2), palette_colour(3)]


def test_ignored_pixels_are_white_and_decide_nothing():
    ignored = labelled("00000", "01100", "01100", "00222", "00222")
    ignored[:, :3] = -1
    assert true_colours(ignored)[-1] == (255, 255, 255)
    segmentation = labelled("33300", "33300", "33300", "33311", "33311")
    assert matched_colours(segmentation, ignored) == {0: BACKGROUND, 1: palette_colour(0), 3: palette_colour(1)}


@pytest.mark.parametrize("seed", range(5))
def test_numbering_makes_no_difference(seed):
    generator = torch.Generator().manual_seed(seed)
    segmentation = torch.randint(0, 7, (12, 12), generator=generator)
    truth = torch.randint(0, 4, (12, 12), generator=generator)
    order = torch.randperm(7, generator=generator)
    plain = matched_colours(segmentation, truth)
    renamed = matched_colours(order[segmentation], truth)
    assert all(renamed[int(order[label])] == colour for label, colour in plain.items())


MASK = torch.zeros(2, 32, 32, dtype=torch.int64)
MASK[:, 4:12, 4:12], MASK[:, 20:30, 8:28] = 1, 2


def pixels(picture) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture)


def test_attention_has_one_scale_for_all_slots():
    low, high = torch.full((8, 8), 0.2), torch.full((8, 8), 1.0)
    assert pixels(heat_map(low, (16, 16))).sum() < pixels(heat_map(high, (16, 16))).sum()
    np.testing.assert_array_equal(pixels(heat_map(high, (16, 16))), pixels(heat_map(5 * high, (16, 16))))


def test_segmentation_keeps_the_edges_of_pixels():
    picture = pixels(label_map(MASK[0], true_colours(MASK[0]), (128, 128)))
    assert picture.shape == (128, 128, 3)
    assert tuple(picture[0, 0]) == BACKGROUND
    assert tuple(picture[16, 16]) == tuple(picture[47, 47]) == PALETTE[0]
    assert tuple(picture[48, 47]) == BACKGROUND


def test_overlay_outlines_the_segments_and_shows_the_image():
    black, white = (
        pixels(overlay(torch.full((3, 32, 32), level), MASK[0], true_colours(MASK[0]), (128, 128)))
        for level in (0.0, 1.0)
    )
    assert (black == 255).all(axis=2).sum() > 100
    assert white.mean() > black.mean() + 60


def test_images_keep_their_proportions():
    assert label_map(torch.zeros(4, 8, dtype=torch.int64), {0: BACKGROUND}, (128, 64)).size == (128, 64)


def test_cut_out_shows_the_image_only_where_the_mask_is():
    mask = torch.zeros(8, 8)
    mask[:, :4] = 1
    picture = pixels(cut_out(torch.zeros(3, 8, 8), mask, (8, 8), soft=False))
    assert (picture[:, :4] == 0).all()
    assert (picture[:, 4:] > 200).all()


def test_a_grid_may_have_gaps():
    cell = Cell(label_map(torch.zeros(4, 4, dtype=torch.int64), {0: PALETTE[0]}, (16, 16)))
    picture = pixels(grid([[cell], [cell, cell]], [Heading("a"), Heading("b")]))
    assert (picture == PALETTE[0]).all(axis=2).sum() == 3 * 16 * 16
