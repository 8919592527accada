import itertools

import pytest
import torch

from slotlab.figures.grid import BACKGROUND, PALETTE, matched_colours, palette_colour, slot_colours, true_colours


def labelled(*rows: str) -> torch.Tensor:
    return torch.tensor([[int(cell) for cell in row] for row in rows])


TRUE = labelled("00000", "01100", "01100", "00222", "00222")


def test_palette_has_distinct_colours_for_24_labels_and_more():
    assert len(PALETTE) >= 24
    for first, second in itertools.combinations([*PALETTE, BACKGROUND, (255, 255, 255)], 2):
        assert sum(abs(a - b) for a, b in zip(first, second, strict=True)) > 40


def test_background_is_neutral_and_gaps_between_ids_use_up_no_colours():
    assert true_colours(labelled("0077", "0993")) == {
        0: BACKGROUND,
        3: palette_colour(0),
        7: palette_colour(1),
        9: palette_colour(2),
    }


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
    assert [colours[label] for label in (4, 3)] == [palette_colour(2), palette_colour(3)]  # the larger one first


@pytest.mark.parametrize("seed", range(5))
def test_numbering_makes_no_difference(seed):
    generator = torch.Generator().manual_seed(seed)
    segmentation = torch.randint(0, 7, (12, 12), generator=generator)
    truth = torch.randint(0, 4, (12, 12), generator=generator)
    order = torch.randperm(7, generator=generator)
    plain = matched_colours(segmentation, truth)
    renamed = matched_colours(order[segmentation], truth)
    assert all(renamed[int(order[label])] == colour for label, colour in plain.items())


def test_without_truth_a_slot_has_the_same_colour_everywhere():
    assert slot_colours([3, 5])[3] == slot_colours([3])[3] == PALETTE[3]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        matched_colours(TRUE, TRUE[:3])
