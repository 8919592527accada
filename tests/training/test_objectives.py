import pytest
import torch

from slotlab.models import SlotOutput
from slotlab.presets.config import TrainingSettings
from slotlab.training.objectives import (
    attention_disagreement,
    background_share,
    background_weight,
    mask_area_penalty,
    with_penalties,
)


def output(masks):
    empty = torch.zeros(len(masks), masks.shape[1], 1)
    return SlotOutput(empty, empty[:, None], (1, 1), masks, torch.zeros(len(masks), 3, *masks.shape[-2:]))


def test_sharing_a_background_costs_more_than_giving_it_to_one_slot():
    one = torch.tensor([1.0, 0, 0, 0])[None, :, None, None].expand(1, 4, 2, 2)
    assert mask_area_penalty(output(one)).item() == pytest.approx(0)
    shared = torch.full((1, 4, 2, 2), 0.25)
    assert mask_area_penalty(output(shared)).item() == pytest.approx(0.75)


def test_only_slot_0_may_cover_the_background_for_nothing():
    masks = torch.zeros(1, 3, 2, 2)
    masks[:, 0] = 1
    assert background_share(output(masks)).item() == pytest.approx(0)
    assert background_share(output(masks.flip(1))).item() == pytest.approx(1)
    halves = torch.tensor([0.5, 0.5, 0])[None, :, None, None].expand(1, 3, 2, 2).clone().requires_grad_()
    background_share(output(halves)).backward()
    assert halves.grad is not None
    assert (halves.grad[:, 0] < 0).all()
    assert not halves.grad[:, 1:].any()


def test_the_pull_of_the_background_starts_late_and_ends_where_it_is_told_to():
    settings = TrainingSettings(
        steps=30, background_penalty=0.03, background_penalty_start=10, final_background_penalty=0.01
    )
    masks = torch.full((1, 2, 2, 2), 0.5)
    loss = torch.tensor(1.0)
    penalties = [with_penalties(loss, output(masks), settings, step).item() - 1 for step in (9, 10, 20, 30)]
    assert penalties == pytest.approx([0, 0.015, 0.01, 0.005], abs=1e-6)
    constant = settings.model_copy(update={"final_background_penalty": None})
    assert background_weight(constant, 20) == background_weight(constant, 30) == 0.03


def test_attention_that_covers_what_the_masks_cover_costs_least():
    masks = torch.zeros(1, 2, 4, 4)
    masks[:, 0, :, :2] = 1
    masks[:, 1, :, 2:] = 1
    agreeing = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])[None, None]  # a grid of 2x2 cells
    scene = SlotOutput(torch.zeros(1, 2, 1), agreeing, (2, 2), masks, torch.zeros(1, 3, 4, 4))
    assert attention_disagreement(scene).item() == pytest.approx(0, abs=1e-4)
    unsure = SlotOutput(scene.slots, torch.full_like(agreeing, 0.5), (2, 2), masks, scene.reconstruction)
    assert attention_disagreement(unsure).item() == pytest.approx(0.6931, abs=1e-3)


def test_attention_learns_from_the_masks_and_not_they_from_it():
    masks = torch.rand(1, 2, 4, 4, requires_grad=True)
    attention = torch.full((1, 3, 2, 4), 0.5, requires_grad=True)
    scene = SlotOutput(torch.zeros(1, 2, 1), attention, (2, 2), masks, torch.zeros(1, 3, 4, 4))
    attention_disagreement(scene).backward()
    assert masks.grad is None
    assert attention.grad is not None
    assert attention.grad[:, -1].abs().sum() > 0
    assert not attention.grad[:, :-1].any()
