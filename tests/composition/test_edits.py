"""How scenes are read, slots edited, and edits painted."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from composition_samples import blobs, output_of, pictures, scene_of
from PIL import Image

from slotlab.composition import edits
from slotlab.composition.edits import background_slot, paint_edit, read_scene, take_background
from slotlab.errors import ConfigError
from slotlab.models.sampling import SamplingSettings, seeded_generator

GROUND, THING, DOUBLE = [-0.9, -0.9, 5.0, 5.0], [0.5, 0.5, 0.3, 0.3], [0.5, 0.5, 0.29, 0.29]


def centre(mask):
    """Centre of a mask in [-1, 1]: x, y."""
    places = (torch.arange(mask.shape[0]) + 0.5) / mask.shape[0] * 2 - 1
    share = mask / mask.sum()
    return float((share.sum(dim=0) * places).sum()), float((share.sum(dim=1) * places).sum())


# Reading


def test_a_scene_is_what_the_model_makes_of_the_image(any_model, squares):
    any_model.train()
    scene = read_scene(any_model, pictures(squares)[0])
    assert any_model.training
    any_model.eval()
    assert scene.slots.shape == (4, 8)
    assert scene.masks.sum(dim=0).allclose(torch.ones(16, 16), atol=1e-5)
    stored = torch.from_numpy(np.asarray(Image.open(pictures(squares)[0])).copy()).permute(2, 0, 1) / 255
    assert scene.image.allclose(stored)
    assert scene.slots.equal(read_scene(any_model, stored).slots)
    assert not scene.slots.equal(read_scene(any_model, stored, seed=1).slots)
    assert scene.slot_at(3, 11) == int(scene.segmentation()[11, 3]) == int(scene.masks[:, 11, 3].argmax())


def test_another_size_is_cut_to_the_centred_square_and_resized(model, tmp_path):
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    Image.fromarray(wide).save(tmp_path / "wide.png")
    expected = np.asarray(Image.fromarray(wide[:, 16:48]).resize((16, 16), Image.Resampling.BILINEAR))
    scene = read_scene(model, tmp_path / "wide.png")
    assert (scene.image * 255).round().byte().equal(torch.from_numpy(expected.copy()).permute(2, 0, 1))
    cropped = read_scene(model, torch.from_numpy(wide).permute(2, 0, 1) / 255, crop=0.5).image
    assert (cropped * 255).round().byte().equal(torch.from_numpy(wide[8:24, 24:40].copy()).permute(2, 0, 1))


# Editing


def test_removed_and_kept_slots(scene):
    plan = edits.remove(scene, [1])
    assert plan.numbers == (0, 2, 3)
    assert plan.slots.equal(scene.slots[[0, 2, 3]])
    assert edits.keep(scene, [3, 0, 2]).slots.equal(plan.slots)


def test_an_added_slot_comes_last_with_the_next_number(scenes):
    plan = edits.add(scenes[0], scenes[1], 2)
    assert plan.numbers == (0, 1, 2, 3, 4)
    assert plan.slots[4].equal(scenes[1].slots[2])
    assert plan.slots[:4].equal(scenes[0].slots)
    assert edits.remove(plan, [4]).slots.equal(scenes[0].slots)
    assert edits.add(edits.remove(plan, [4]), scenes[1], 0).numbers == (0, 1, 2, 3, 5)


def test_a_swap_exchanges_and_twice_is_the_identity(scenes):
    before = [scene.slots.clone() for scene in scenes]
    one, two = edits.swap(*scenes, 1, 3)
    assert one.slots[1].equal(before[1][3])
    assert two.slots[3].equal(before[0][1])
    assert edits.changed_slots(scenes[0], one) == {1}
    back = edits.swap(one, two, 1, 3)
    assert back[0].slots.equal(before[0])
    assert back[1].slots.equal(before[1])
    assert [scene.slots.equal(was) for scene, was in zip(scenes, before, strict=True)] == [True, True]


def test_interpolation_goes_from_the_slot_to_the_other(scenes):
    other = scenes[1].slots[0]
    assert edits.interpolate(scenes[0], 1, other, 0).slots.equal(scenes[0].slots)
    assert edits.interpolate(scenes[0], 1, other, 1).slots[1].equal(other)
    half = edits.interpolate(scenes[0], 1, other, 0.5)
    assert half.slots[1].allclose((scenes[0].slots[1] + other) / 2)
    assert edits.changed_slots(scenes[0], half) == {1}


def test_a_background_is_what_owns_the_border_and_is_taken_from_another_scene():
    mine = scene_of([[2, 2, 2, 2], [2, 0, 0, 2], [2, 0, 0, 1], [2, 2, 2, 1]], seed=0)
    theirs = scene_of([[1, 1, 1, 1], [1, 0, 0, 1], [1, 2, 2, 1], [1, 1, 1, 1]], seed=1)
    assert (background_slot(mine), background_slot(theirs)) == (2, 1)
    plan = take_background(edits.remove(mine, [0]), mine, theirs)
    assert plan.numbers == (1, 2)
    assert plan.slots[1].equal(theirs.slots[1])
    assert plan.slots[0].equal(mine.slots[1])
    with pytest.raises(ConfigError, match="an earlier edit removed it"):
        take_background(edits.remove(mine, [2]), mine, theirs)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s, _: edits.remove(s, [4]), r"slot 4: there are 4 slots, numbered 0 to 3"),
        (lambda s, _: edits.keep(s, [-1]), r"slot -1: there are 4 slots"),
        (lambda s, _: edits.add(s, s, 9), r"slot 9: there are 4 slots"),
        (lambda s, _: edits.swap(s, s, 0, 7), r"slot 7: there are 4 slots"),
        (lambda s, _: edits.remove(edits.remove(s, [1]), [1]), r"slot 1: an earlier edit removed it; left are 0, 2, 3"),
        (lambda s, _: edits.remove(s, range(4)), r"no slot would be left"),
        (lambda s, _: edits.keep(s, []), r"no slot would be left"),
        (lambda s, m: edits.move(m, s, 0, 0.1, 0), r"move: .*model.kind=relative-slot-autoencoder"),
        (lambda s, m: edits.resize(m, s, 0, 2), r"resize: .*model.kind=relative-slot-autoencoder"),
        (lambda s, _: edits.replace(s, 0, torch.zeros(5)), r"shape \[5\] does not fit slots of width 8"),
        (lambda s, _: edits.add(s, scene_of([[0]], width=12), 0), r"shape \[12\] does not fit slots of width 8"),
        (lambda s, _: edits.interpolate(s, 0, torch.zeros(8), 1.5), r"amount: must be from 0 .* not 1.5"),
        (lambda s, _: s.slot_at(16, 0), r"pixel \(16, 0\): the image has 16x16 pixels"),
    ],
)
def test_edits_that_cannot_be_done_say_why(model, scene, edit, message):
    with pytest.raises(ConfigError, match=message):
        edit(scene, model)


# Painting


def test_keeping_all_changes_nothing_and_the_smallest_edit_next_to_nothing(any_model, scenes):
    edited = paint_edit(any_model, scenes[0], edits.keep(scenes[0], range(4)))
    assert edited.changed == frozenset()
    assert not edited.region.any()
    assert edited.outside_error == 0
    assert edited.image.equal(edited.before)
    assert not edited.image.requires_grad
    for slot in range(4):
        edited = paint_edit(any_model, scenes[0], edits.interpolate(scenes[0], slot, scenes[1].slots[slot], 1e-6))
        assert edited.image.allclose(edited.before, atol=1e-3)


def test_a_removed_slot_is_gone_and_an_added_one_is_painted(any_model, scenes):
    scene = scenes[0]
    gone = int(scene.segmentation().flatten().mode().values)
    edited = paint_edit(any_model, scene, edits.remove(scene, [gone]))
    assert edited.masks.shape == (3, 16, 16)
    assert edited.masks.sum(dim=0).allclose(torch.ones(16, 16), atol=1e-5)
    assert gone not in edited.segmentation().unique()
    assert edited.changed == {gone}
    added = paint_edit(any_model, scene, edits.add(scene, scenes[1], 2))
    assert added.masks.shape == (5, 16, 16)
    assert added.changed == {4}


def test_the_region_is_what_changed_slots_owned(model, scene):
    gone = scene.slot_at(0, 0)
    edited = paint_edit(model, scene, edits.remove(scene, [gone]))
    assert edited.region.equal(scene.segmentation() == gone)
    squared = (edited.image - edited.before).square().mean(dim=0)
    assert squared[edited.region].mean() > edited.outside_error
    assert edited.outside_error == pytest.approx(float(squared[~edited.region].mean()))
    whole = paint_edit(model, scene, edits.keep(edits.add(scene, scene, 0), [4]))
    assert whole.changed == {0, 1, 2, 3, 4}
    assert whole.region.all()
    assert math.isnan(whole.outside_error)


def test_where_an_object_was_the_background_shows_and_not_a_slot_that_resembles_it(tiny_preset):
    model, scene = blobs(tiny_preset, [GROUND, THING, DOUBLE])
    where = scene.segmentation() == 1
    assert where.any()
    edited = paint_edit(model, scene, edits.remove(scene, [1]))
    assert set(edited.segmentation()[where].tolist()) == {0}
    assert edited.masks.sum(dim=0).allclose(torch.ones(16, 16), atol=1e-5)
    moved = paint_edit(model, scene, edits.move(model, scene, 1, -0.3, -0.3))
    assert set(moved.segmentation()[where & ~(moved.segmentation() == 1)].tolist()) == {0}
    assert (moved.segmentation() == 1).any()
    without_background = paint_edit(model, scene, edits.keep(scene, [2]))
    assert without_background.masks.equal(torch.ones(1, 16, 16))


def test_without_one_background_its_place_is_left_to_the_other_slots(tiny_preset):
    model, scene = blobs(tiny_preset, [[-0.9, 0.0, 5.0, 5.0], [0.9, 0.0, 5.0, 5.0], THING])
    edited = paint_edit(model, scene, edits.remove(scene, [2]))
    assert edited.masks.equal(model.paint(scene.slots[None, :2])[1][0])


def test_slots_are_moved_and_resized_by_models_that_can(tiny_preset):
    model, scene = blobs(tiny_preset, [[0.0, 0, 0.1, 0.1], [-0.9, -0.9, 0.3, 0.3], [0.9, 0.9, 0.3, 0.3]])
    plan = edits.move(model, scene, 0, 0.2, -0.25)
    edited = paint_edit(model, scene, plan)
    assert edited.changed == {0}
    assert centre(edited.masks[0]) == pytest.approx((0.4, -0.5), abs=0.1)
    assert edited.region.equal((scene.segmentation() == 0) | (edited.segmentation() == 0))
    small, large = (
        paint_edit(model, scene, edits.resize(model, scene, 0, factor)).masks[0].sum() for factor in (0.5, 2)
    )
    assert small < 0.8 * scene.masks[0].sum() < 0.8 / 1.2 * large


def test_a_denoiser_does_not_see_slots_that_owned_nothing_once_an_object_has_gone(diffusion, squares):
    seen = read_scene(diffusion, pictures(squares)[0])
    masks = torch.zeros(1, 4, 16, 16)
    masks[0, 0], masks[0, 1, 4:8, 4:8] = 0.5, 1
    slots = seen.slots[[0, 1, 0, 0]]  # slots 2 and 3 are equal to slot 0, and own nothing beside it
    scene = dataclasses.replace(seen, output=output_of(slots[None], masks))
    edited = paint_edit(diffusion, scene, edits.remove(scene, [1]))
    ground, _ = diffusion.paint(scene.slots[None, :1], generator=seeded_generator(0))
    assert edited.plan.numbers == (0, 2, 3)
    assert edited.masks[0].equal(torch.ones(16, 16))
    assert not edited.masks[1:].any()
    assert edited.image.equal(ground[0])
    altered = paint_edit(diffusion, scene, edits.replace(scene, 1, seen.slots[2]))
    assert altered.image.equal(diffusion.paint(altered.plan.slots[None], generator=seeded_generator(0))[0][0])


def test_keep_outside_keeps_what_is_beyond_the_soft_edge(tiny_preset):
    model, scene = blobs(tiny_preset, [[-0.6, -0.6, 0.1, 0.1], THING], sharpness=0.5)  # all show everywhere
    plan = edits.replace(scene, 0, scene.slots[0] + 0.1)
    free, kept = (paint_edit(model, scene, plan, keep_outside=keep) for keep in (False, True))
    assert free.region.equal(kept.region)
    beyond = torch.ones(16, 16, dtype=torch.bool)
    for y, x in kept.region.nonzero().tolist():
        beyond[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = False
    assert beyond.any() and kept.region.any()
    assert kept.image[:, kept.region].equal(free.image[:, free.region])
    assert kept.image[:, beyond].equal(kept.before[:, beyond])
    assert not free.image[:, beyond].equal(free.before[:, beyond])
    edge = ~beyond & ~kept.region
    halfway = (free.image + free.before) / 2
    assert kept.image[:, edge].allclose(halfway[:, edge], atol=1e-6)
    assert kept.outside_error < free.outside_error


def test_a_sampled_edit_repeats_with_its_seed_and_can_be_stopped(diffusion, squares):
    scene = read_scene(diffusion, pictures(squares)[0])
    plan, settings = edits.remove(scene, [1]), SamplingSettings("ddim", 3)
    edited = paint_edit(diffusion, scene, plan, 4, sampling=settings)
    assert not edited.image.equal(paint_edit(diffusion, scene, plan, 4).image)
    assert not edited.image.equal(paint_edit(diffusion, scene, plan, 5, sampling=settings).image)
    seen = list(paint_edit.steps(diffusion, scene, plan, 4, sampling=settings))
    done, steps, images = seen[-1]
    assert done == steps
    assert images[0].allclose(edited.image, atol=1e-4)
    diffusion.train()
    stopped = paint_edit.steps(diffusion, scene, plan)
    next(stopped)
    stopped.close()
    assert diffusion.training
    diffusion.eval()
