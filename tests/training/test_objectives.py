from dataclasses import replace

import pytest
import torch

import slotlab
from slotlab.config import TrainingSettings
from slotlab.models import SlotOutput
from slotlab.models.output import DiffusionOutput, merge_slots
from slotlab.training.objectives import (
    Teacher,
    attention_disagreement,
    background_penalty,
    background_weight,
    colour_error,
    cross_attention_disagreement,
    mask_area_penalty,
    sharing_penalty,
    teacher_disagreement,
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


def test_the_lesser_of_two_slots_that_share_an_object_gives_way():
    halves = torch.tensor([[5.0, 0, 0], [0, 5, 0], [0, 5, 0], [0, 0, 5]]).T[None, :, None].clone().requires_grad_()
    masks = torch.softmax(halves, dim=1)
    penalty = sharing_penalty(output(masks))
    penalty.backward()
    assert halves.grad is not None
    greater, lesser = halves.grad[0, 1, 0, 1:3].sum(), halves.grad[0, 2, 0, 3]
    assert lesser > greater / 2 > 0  # per pixel: descending, the lesser loses more
    owned = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 9, 0], [0, 9, 0]]).T[None, :, None]
    assert sharing_penalty(output(torch.softmax(owned, dim=1))) < penalty


def two_slots(ground, thing, logits):
    """Left half `ground`, as slot 0 paints it; right half `thing`, which only slot 1 paints."""
    images = torch.cat([torch.full((1, 3, 2, 1), ground), torch.full((1, 3, 2, 1), thing)], dim=3)
    slot_images = torch.stack([torch.full_like(images, ground), images], dim=1)
    masks = torch.softmax(logits, dim=1)
    mixed = (masks[:, :, None] * slot_images).sum(dim=1)
    scene = SlotOutput(torch.zeros(1, 2, 1), torch.zeros(1, 1, 2, 1), (1, 1), masks, mixed, slot_images)
    return scene, images


def test_slot_0_is_pulled_to_the_background_alone_however_sure_the_masks_are():
    logits = torch.tensor([-5.0, 5.0])[None, :, None, None].expand(1, 2, 2, 2).clone().requires_grad_()
    background_penalty(*two_slots(0.2, 0.9, logits)).backward()
    assert logits.grad is not None
    ground, thing = logits.grad[0, 0, :, 0], logits.grad[0, 0, :, 1]
    assert (ground < -0.2).all()  # of four pixels' mean: almost the whole -1/4 of an unbounded logarithm
    assert (thing.abs() < 1e-6).all()


def test_an_image_that_slot_0_paints_and_owns_costs_nothing():
    owned = torch.tensor([20.0, -20.0])[None, :, None, None].expand(1, 2, 2, 2)
    assert background_penalty(*two_slots(0.2, 0.2, owned)).item() == pytest.approx(0, abs=1e-5)
    assert background_penalty(*two_slots(0.2, 0.9, owned)).item() > 1


def test_slot_0_learns_to_paint_the_background_where_others_have_it():
    scene, images = two_slots(0.2, 0.2, torch.tensor([-20.0, 20.0])[None, :, None, None].expand(1, 2, 2, 2))
    painted = torch.full((1, 2, 3, 2, 2), 0.3, requires_grad=True)
    background_penalty(replace(scene, slot_images=painted), images).backward()
    assert painted.grad is not None
    assert (painted.grad[:, 0] > 0.1).all()  # too bright
    assert not painted.grad[:, 1].any()


def test_a_model_that_paints_no_slots_cannot_have_a_background_penalty():
    with pytest.raises(ValueError, match="the image of each slot"):
        background_penalty(output(torch.full((1, 2, 2, 2), 0.5)), torch.zeros(1, 3, 2, 2))


def test_the_pull_of_the_background_starts_late_and_ends_where_it_is_told_to():
    settings = TrainingSettings(
        steps=30, background_penalty=0.03, background_penalty_start=10, final_background_penalty=0.01
    )
    scene, images = two_slots(0.2, 0.9, torch.zeros(1, 2, 2, 2))
    cost = background_penalty(scene, images).item()
    loss = torch.tensor(1.0)
    penalties = [with_penalties(loss, scene, images, settings, step).item() - 1 for step in (9, 10, 20, 30)]
    assert penalties == pytest.approx([0, 0.03 * cost, 0.02 * cost, 0.01 * cost], abs=1e-6)
    constant = settings.model_copy(update={"final_background_penalty": None})
    assert background_weight(constant, 20) == background_weight(constant, 30) == 0.03


@pytest.mark.parametrize(
    ("name", "penalty"),
    [
        ("mask_penalty", mask_area_penalty),
        ("sharing_penalty", sharing_penalty),
        ("attention_loss", attention_disagreement),
    ],
)
def test_a_penalty_starts_at_its_step_with_its_weight(name, penalty):
    shared = output(torch.full((1, 3, 2, 2), 1 / 3))
    shared = replace(shared, attention=torch.full((1, 1, 3, 1), 1 / 3))
    settings = TrainingSettings(**{name: 0.5, f"{name}_start": 10})
    images, loss = torch.zeros(1, 3, 2, 2), torch.tensor(1.0)
    assert penalty(shared) > 0
    assert with_penalties(loss, shared, images, settings, 9) == loss
    assert with_penalties(loss, shared, images, settings, 10) == loss + 0.5 * penalty(shared)


def test_brightness_is_no_error_of_colour():
    images = torch.full((2, 3, 2, 2), 0.5)
    darker, redder = torch.full_like(images, 0.4), images.clone()
    redder[:, 0] += 0.3
    masks = torch.ones(2, 1, 2, 2)
    scene = output(masks)
    assert colour_error(replace(scene, reconstruction=darker), images).item() == pytest.approx(0, abs=1e-6)
    # 2 x 0.3 in one channel is 0.4, -0.2 and -0.2 about the mean
    assert colour_error(replace(scene, reconstruction=redder), images).item() == pytest.approx(0.24)


def diffusion_output(attention, cross_attention):
    masks, nothing = torch.full((1, 2, 16, 16), 0.5), torch.zeros(1)
    unused = dict.fromkeys(("timesteps", "noise", "target", "predicted", "weights"), nothing)
    seen = (torch.zeros(1, 2, 1), attention, (4, 4), masks, torch.zeros(1, 3, 0, 0))
    return DiffusionOutput(*seen, cross_attention=cross_attention, **unused)


def test_attention_that_covers_what_the_masks_cover_costs_least():
    masks = torch.zeros(1, 2, 4, 4)
    masks[:, 0, :, :2] = 1
    masks[:, 1, :, 2:] = 1
    agreeing = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])[None, None]  # a grid of 2x2 cells
    scene = SlotOutput(torch.zeros(1, 2, 1), agreeing, (2, 2), masks, torch.zeros(1, 3, 4, 4))
    assert attention_disagreement(scene).item() == pytest.approx(0, abs=1e-4)
    unsure = SlotOutput(scene.slots, torch.full_like(agreeing, 0.5), (2, 2), masks, scene.reconstruction)
    assert attention_disagreement(unsure).item() == pytest.approx(0.6931, abs=1e-3)


def test_a_denoiser_that_reads_each_slot_where_attention_has_it_costs_least():
    attention = torch.zeros(1, 3, 2, 16)  # on a grid of 4x4: slot 0 on the left, 1 on the right
    attention[:, -1, 0] = torch.tensor([1.0, 1, 0, 0]).repeat(4)
    attention[:, -1, 1] = torch.tensor([0.0, 0, 1, 1]).repeat(4)
    sides = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, :, None, :].expand(1, 2, 2, 2)
    assert cross_attention_disagreement(diffusion_output(attention, sides)).item() == pytest.approx(0, abs=1e-4)
    unsure = diffusion_output(attention, torch.full((1, 2, 2, 2), 0.5))
    assert cross_attention_disagreement(unsure).item() == pytest.approx(0.6931, abs=1e-3)


def test_a_denoiser_learns_from_attention_and_not_it_from_the_denoiser():
    attention = torch.full((1, 3, 2, 16), 0.5, requires_grad=True)
    cross_attention = torch.full((1, 2, 2, 2), 0.5, requires_grad=True)
    settings = TrainingSettings(cross_attention_loss=0.5)
    output = diffusion_output(attention, cross_attention)
    with_penalties(torch.tensor(1.0), output, torch.zeros(1, 3, 16, 16), settings, 0).backward()
    assert attention.grad is None
    assert cross_attention.grad is not None and cross_attention.grad.abs().sum() > 0


def test_attention_learns_from_the_masks_and_not_they_from_it():
    masks = torch.rand(1, 2, 4, 4, requires_grad=True)
    attention = torch.full((1, 3, 2, 4), 0.5, requires_grad=True)
    scene = SlotOutput(torch.zeros(1, 2, 1), attention, (2, 2), masks, torch.zeros(1, 3, 4, 4))
    attention_disagreement(scene).backward()
    assert masks.grad is None
    assert attention.grad is not None and attention.grad[:, -1].abs().sum() > 0
    assert not attention.grad[:, :-1].any()


def test_a_teacher_s_labels_go_to_the_slots_that_fit_them_whatever_their_numbers():
    labels = torch.tensor([[[0, 0, 1], [2, 2, 1]]])
    attention = torch.nn.functional.one_hot(torch.tensor([2, 2, 0, 1, 1, 0]), 4).T.float()[None, None]
    taught = replace(output(torch.zeros(1, 4, 2, 3)), attention=attention, attention_grid=(2, 3))
    assert teacher_disagreement(taught, labels).item() == pytest.approx(0, abs=1e-5)
    wrong = replace(taught, attention=attention.roll(1, dims=3))
    assert teacher_disagreement(wrong, labels) > 1
    pixels = labels.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    assert teacher_disagreement(wrong, pixels) > 1 > teacher_disagreement(taught, pixels)
    soft = torch.full((1, 1, 4, 6), 0.25, requires_grad=True)
    teacher_disagreement(replace(taught, attention=soft), labels).backward()
    assert soft.grad.abs().sum() > 0


def test_a_merged_teacher_gives_one_label_to_an_object_that_has_two_slots():
    model, images = slotlab.load("textured-64"), slotlab.render(range(6), resolution=64, max_objects=6).image
    batch, rows = {"image": images, "index": torch.arange(6)}, slice(None)
    apart = Teacher("textured-64", model, seed=0).labels(batch, rows, (64, 64))
    merged = Teacher("textured-64", model, seed=0, merged=True).labels(batch, rows, (64, 64))
    numbers = [[len(one.unique()) for one in labels] for labels in (merged, apart)]
    assert all(fewer <= more for fewer, more in zip(*numbers, strict=True)) and sum(numbers[0]) < sum(numbers[1])
    assert merged.equal(merge_slots(model.segment(images)).posterior.argmax(dim=1))


def test_a_balanced_teacher_weighs_a_mistake_by_how_small_its_mask_is():
    labels = torch.tensor([[[0, 0, 0], [0, 0, 1]]])

    def cost(place, balance):
        attention = torch.nn.functional.one_hot(labels.flatten(1), 2).transpose(1, 2).float()
        attention[0, :, place] = 0.5
        scene = replace(output(torch.zeros(1, 2, 2, 3)), attention=attention[:, None], attention_grid=(2, 3))
        return teacher_disagreement(scene, labels, balance).item()

    assert cost(0, 0.0) == pytest.approx(cost(5, 0.0), rel=1e-3)
    assert cost(5, 0.5) / cost(0, 0.5) == pytest.approx(5**0.5, rel=0.01)
