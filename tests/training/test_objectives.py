import pytest
import torch

from slotlab.models import SlotOutput
from slotlab.training.objectives import mask_area_penalty


def output(masks):
    empty = torch.zeros(len(masks), masks.shape[1], 1)
    return SlotOutput(empty, empty[:, None], (1, 1), masks, torch.zeros(len(masks), 3, *masks.shape[-2:]))


def test_sharing_a_background_costs_more_than_giving_it_to_one_slot():
    one = torch.tensor([1.0, 0, 0, 0])[None, :, None, None].expand(1, 4, 2, 2)
    assert mask_area_penalty(output(one)).item() == pytest.approx(0)
    shared = torch.full((1, 4, 2, 2), 0.25)
    assert mask_area_penalty(output(shared)).item() == pytest.approx(0.75)
