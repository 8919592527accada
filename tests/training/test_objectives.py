import pytest
import torch

from slotlab.models import SlotOutput
from slotlab.training.objectives import mask_area_penalty, reconstruction_loss


def output(masks, reconstruction=None):
    image = torch.zeros(len(masks), 3, *masks.shape[-2:]) if reconstruction is None else reconstruction
    empty = torch.zeros(len(masks), masks.shape[1], 1)
    return SlotOutput(empty, empty[:, None], (1, 1), masks, image)


def test_the_loss_is_that_of_the_brief():
    reconstruction, images = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    in_both_signs = ((2 * reconstruction - 1) - (2 * images - 1)) ** 2
    expected = in_both_signs.sum() / (2 * 4 * 4)
    masks = torch.ones(2, 1, 4, 4)
    assert reconstruction_loss(output(masks, reconstruction), images).item() == pytest.approx(expected.item())


def test_sharing_a_background_costs_more_than_giving_it_to_one_slot():
    one = torch.tensor([1.0, 0, 0, 0])[None, :, None, None].expand(1, 4, 2, 2)
    assert mask_area_penalty(output(one)).item() == pytest.approx(0)
    shared = torch.full((1, 4, 2, 2), 0.25)
    assert mask_area_penalty(output(shared)).item() == pytest.approx(0.75)
