import dataclasses
import math

import pytest
import torch
from edit_samples import blobs, pictures, same, seeded_model

from slotlab.composition import edits
from slotlab.composition.edits import paint_edit, read_scene
from slotlab.errors import ConfigError
from slotlab.models.randomness import seeded_generator


def centre(mask):
    """Centre of a mask in [-1, 1]: x, y."""
    places = (torch.arange(mask.shape[0]) + 0.5) / mask.shape[0] * 2 - 1
    share = mask / mask.sum()
    return float((share.sum(dim=0) * places).sum()), float((share.sum(dim=1) * places).sum())


# What each edit changes


def test_keeping_all_changes_nothing(any_model, scenes):
    plan = edits.keep(scenes[0], range(4))
    edited = paint_edit(any_model, scenes[0], plan)
    assert plan.numbers == (0, 1, 2, 3)
    assert edited.changed == frozenset()
    assert not edited.region.any()
    assert edited.outside_error == 0
    assert edited.image.equal(edited.before)


def test_a_removed_slot_is_gone(any_model, scenes):
    scene = scenes[0]
    gone = int(scene.segmentation().flatten().mode().values)
    plan = edits.remove(scene, [gone])
    edited = paint_edit(any_model, scene, plan)
    rest = [slot for slot in range(4) if slot != gone]
    assert plan.numbers == tuple(rest)
    assert plan.slots.equal(scene.slots[rest])
    assert edited.masks.shape == (3, 16, 16)
    assert edited.masks.sum(dim=0).allclose(torch.ones(16, 16), atol=1e-5)
    assert gone not in edited.segmentation().unique()
    assert edited.changed == {gone}
    assert same(edits.keep(scene, rest), plan)


def test_the_region_is_what_the_removed_slot_owned(model, scene):
    gone = scene.slot_at(0, 0)
    edited = paint_edit(model, scene, edits.remove(scene, [gone]))
    assert edited.region.equal(scene.segmentation() == gone)
    inside = (edited.image - edited.before).square().mean(dim=0)
    assert inside[edited.region].mean() > edited.outside_error
    outside = inside[~edited.region]
    assert edited.outside_error == pytest.approx(float(outside.mean()) if len(outside) else math.nan, nan_ok=True)


def test_where_an_object_was_the_background_shows_and_not_a_slot_that_resembles_it(tiny_preset):
    ground, thing, double = [-0.9, -0.9, 5.0, 5.0], [0.5, 0.5, 0.3, 0.3], [0.5, 0.5, 0.29, 0.29]
    model, scene = blobs(tiny_preset, [ground, thing, double])
    where = scene.segmentation() == 1
    assert where.any()
    edited = paint_edit(model, scene, edits.remove(scene, [1]))
    assert set(edited.segmentation()[where].tolist()) == {0}
    assert edited.masks.sum(dim=0).allclose(torch.ones(16, 16), atol=1e-5)
    moved = paint_edit(model, scene, edits.move(scene, 1, -0.3, -0.3))
    assert set(moved.segmentation()[where & ~(moved.segmentation() == 1)].tolist()) == {0}
    assert (moved.segmentation() == 1).any()
    alone = paint_edit(model, scene, edits.keep(scene, [2]))
    assert alone.masks.equal(torch.ones(1, 16, 16))


def test_the_smallest_edit_changes_next_to_nothing(any_model, scenes):
    for slot in range(4):
        edited = paint_edit(any_model, scenes[0], edits.interpolate(scenes[0], slot, scenes[1].slots[slot], 1e-6))
        assert edited.image.allclose(edited.before, atol=1e-3)


def test_without_one_background_its_place_is_left_to_the_other_slots(tiny_preset):
    left, right, thing = [-0.9, 0.0, 5.0, 5.0], [0.9, 0.0, 5.0, 5.0], [0.5, 0.5, 0.3, 0.3]
    model, scene = blobs(tiny_preset, [left, right, thing])
    edited = paint_edit(model, scene, edits.remove(scene, [2]))
    assert edited.masks.equal(model.paint(scene.slots[:2][None], scene.poses[:2][None])[1][0])


def test_where_the_background_went_too_the_other_slots_share_the_place(tiny_preset):
    ground, thing, double = [-0.9, -0.9, 5.0, 5.0], [0.5, 0.5, 0.3, 0.3], [0.5, 0.5, 0.29, 0.29]
    model, scene = blobs(tiny_preset, [ground, thing, double])
    edited = paint_edit(model, scene, edits.remove(scene, [0, 1]))
    assert edited.masks.equal(torch.ones(1, 16, 16))


def test_a_denoiser_does_not_see_slots_that_owned_nothing_once_an_object_has_gone(diffusion, squares):
    seen = read_scene(diffusion, pictures(squares)[0])
    masks = torch.zeros(4, 16, 16)
    masks[0], masks[1, 4:8, 4:8] = 0.5, 1
    slots = seen.slots[[0, 1, 0, 0]]  # slots 2 and 3 are equal to slot 0, and own nothing beside it
    scene = dataclasses.replace(seen, slots=slots, masks=masks)
    edited = paint_edit(diffusion, scene, edits.remove(scene, [1]))
    ground, _ = diffusion.paint(scene.slots[:1][None], generator=seeded_generator(0))
    assert edited.plan.numbers == (0, 2, 3)
    assert edited.masks[0].equal(torch.ones(16, 16))
    assert not edited.masks[1:].any()
    assert edited.image.equal(ground[0])
    altered = paint_edit(diffusion, scene, edits.replace(scene, 1, seen.slots[2]))
    assert altered.image.equal(diffusion.paint(altered.plan.slots[None], generator=seeded_generator(0))[0][0])


def test_nothing_outside_gives_no_error(model, scene):
    everything = edits.keep(edits.add(edits.keep(scene, range(4)), scene, 0), [4])
    edited = paint_edit(model, scene, everything)
    assert edited.changed == {0, 1, 2, 3, 4}
    assert edited.region.all()
    assert math.isnan(edited.outside_error)


def test_an_added_slot_comes_last_with_the_next_number(any_model, scenes):
    plan = edits.add(scenes[0], scenes[1], 2)
    assert plan.numbers == (0, 1, 2, 3, 4)
    assert plan.slots[4].equal(scenes[1].slots[2])
    assert plan.slots[:4].equal(scenes[0].slots)
    if scenes[1].poses is not None:
        assert plan.poses[4].equal(scenes[1].poses[2])
    edited = paint_edit(any_model, scenes[0], plan)
    assert edited.masks.shape == (5, 16, 16)
    assert edited.changed == {4}
    assert same(edits.remove(plan, [4]), scenes[0])
    assert edits.add(edits.remove(plan, [4]), scenes[1], 0).numbers == (0, 1, 2, 3, 5)


def test_a_swap_exchanges_and_twice_is_the_identity(any_model, scenes):
    one, two = edits.swap(*scenes, 1, 3)
    assert one.slots[1].equal(scenes[1].slots[3])
    assert two.slots[3].equal(scenes[0].slots[1])
    if one.poses is not None:
        assert one.poses[1].equal(scenes[1].poses[3])
        assert two.poses[3].equal(scenes[0].poses[1])
    assert edits.changed_slots(scenes[0], one) == {1}
    back = edits.swap(one, two, 1, 3)
    assert same(back[0], scenes[0])
    assert same(back[1], scenes[1])
    assert paint_edit(any_model, scenes[0], back[0]).outside_error == 0


def test_the_scene_itself_is_never_altered(scenes):
    slots = [scene.slots.clone() for scene in scenes]
    edits.swap(*scenes, 0, 1)
    edits.replace(scenes[0], 0, torch.zeros(8))
    edits.interpolate(scenes[0], 1, torch.zeros(8), 0.5)
    assert all(scene.slots.equal(was) for scene, was in zip(scenes, slots, strict=True))


def test_a_replaced_slot_keeps_its_pose_unless_given_one(relative, squares):
    scene = read_scene(relative, pictures(squares)[0])
    vector = torch.arange(8.0)
    plan = edits.replace(scene, 2, vector)
    assert plan.slots[2].equal(vector)
    assert plan.poses.equal(scene.poses)
    pose = torch.tensor([0.5, -0.5, 0.1, 0.2])
    assert edits.replace(scene, 2, vector, pose).poses[2].equal(pose)


def test_interpolation_goes_from_the_slot_to_the_other(any_model, scenes):
    other = scenes[1].slots[0]
    assert same(edits.interpolate(scenes[0], 1, other, 0), scenes[0])
    assert edits.interpolate(scenes[0], 1, other, 1).slots[1].equal(other)
    half = edits.interpolate(scenes[0], 1, other, 0.5)
    assert half.slots[1].allclose((scenes[0].slots[1] + other) / 2)
    assert edits.changed_slots(scenes[0], half) == {1}


# Poses


@pytest.mark.parametrize(("dx", "dy"), [(0.25, 0), (-0.25, 0), (0, 0.25), (0, -0.25), (0.2, -0.2)])
def test_a_moved_slot_is_painted_where_it_was_moved_to(tiny_preset, dx, dy):
    model, scene = blobs(tiny_preset, [[0.0, 0, 0.1, 0.1], [-0.9, -0.9, 0.5, 0.5], [0.9, 0.9, 0.5, 0.5]])
    plan = edits.move(scene, 0, dx, dy)
    assert plan.poses[0].allclose(torch.tensor([2 * dx, 2 * dy, 0.1, 0.1]))
    assert plan.poses[1:].equal(scene.poses[1:])
    edited = paint_edit(model, scene, plan)
    (x0, y0), (x, y) = centre(scene.masks[0]), centre(edited.masks[0])
    assert (x0, y0) == pytest.approx((0, 0), abs=0.05)
    assert (x, y) == pytest.approx((2 * dx, 2 * dy), abs=0.1)
    assert edited.region.equal((scene.segmentation() == 0) | (edited.segmentation() == 0))


def test_a_resized_slot_owns_more_or_less(tiny_preset):
    model, scene = blobs(tiny_preset, [[0.0, 0, 0.1, 0.1], [-0.9, -0.9, 0.3, 0.3], [0.9, 0.9, 0.3, 0.3]])
    area = {
        factor: float(paint_edit(model, scene, edits.resize(scene, 0, factor)).masks[0].sum()) for factor in (0.5, 1, 2)
    }
    assert area[0.5] < 0.8 * area[1]
    assert area[2] > 1.2 * area[1]
    plan = edits.resize(scene, 0, 2)
    assert plan.poses[0].allclose(torch.tensor([0, 0, 0.2, 0.2]))


def test_poses_of_an_encoded_image_are_moved_too(relative, squares):
    scene = read_scene(relative, pictures(squares)[0])
    x, y = scene.poses[1, :2].tolist()
    plan = edits.move(scene, 1, -x / 2, -y / 2)
    assert plan.poses[1, :2].allclose(torch.zeros(2), atol=1e-6)
    edited = paint_edit(relative, scene, plan)
    assert edited.changed == {1}
    assert not edited.image.equal(edited.before)


# Errors


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: edits.remove(s, [4]), r"slot 4: there are 4 slots, numbered 0 to 3"),
        (lambda s: edits.keep(s, [-1]), r"slot -1: there are 4 slots"),
        (lambda s: edits.add(s, s, 9), r"slot 9: there are 4 slots"),
        (lambda s: edits.swap(s, s, 0, 7), r"slot 7: there are 4 slots"),
        (lambda s: edits.remove(edits.remove(s, [1]), [1]), r"slot 1: an earlier edit removed it; left are 0, 2, 3"),
        (lambda s: edits.remove(s, range(4)), r"no slot would be left"),
        (lambda s: edits.keep(s, []), r"no slot would be left"),
        (lambda s: edits.move(s, 0, 0.1, 0), r"move: .*slot_attention.frame=relative and decoder.position=relative"),
        (lambda s: edits.resize(s, 0, 2), r"resize: .*slot_attention.frame=relative"),
        (lambda s: edits.replace(s, 0, torch.zeros(5)), r"vector: expected a slot of width 8, not \[5\]"),
        (lambda s: edits.replace(s, 0, torch.zeros(8), torch.zeros(4)), r"pose: this model's slots have no pose"),
        (lambda s: edits.interpolate(s, 0, torch.zeros(8), 1.5), r"amount: must be from 0 .* not 1.5"),
        (lambda s: s.slot_at(16, 0), r"pixel \(16, 0\): the image has 16x16 pixels"),
    ],
)
def test_edits_that_cannot_be_done_say_why(scene, edit, message):
    with pytest.raises(ConfigError, match=message):
        edit(scene)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: edits.move(s, 0, 3, 0), r"move: the centre of slot 0 would be at .* outside"),
        (lambda s: edits.move(s, 0, math.nan, 0), r"outside"),
        (lambda s: edits.resize(s, 0, 0), r"resize: the factor must be above 0, not 0"),
        (lambda s: edits.resize(s, 0, 1000), r"resize: slot 0 can be resized by .* not 1000"),
        (lambda s: edits.replace(s, 0, torch.zeros(8), torch.zeros(3)), r"pose: expected 4 numbers"),
    ],
)
def test_poses_stay_in_their_range(relative, squares, edit, message):
    with pytest.raises(ConfigError, match=message):
        edit(read_scene(relative, pictures(squares)[0]))


def test_scenes_of_two_models_do_not_mix(tiny_preset, model, relative, scene, squares):
    wide = read_scene(seeded_model(tiny_preset, **{"slot_attention.dim": 12}), pictures(squares)[0])
    with pytest.raises(ConfigError, match=r"slots of width 12 do not fit a scene of width 8"):
        edits.add(scene, wide, 0)
    with pytest.raises(ConfigError, match=r"one scene has poses and the other has none"):
        edits.swap(scene, read_scene(relative, pictures(squares)[0]), 0, 0)
    with pytest.raises(ConfigError, match=r"slots of width 12 do not fit a model of width 8"):
        paint_edit(model, wide, edits.remove(wide, [0]))
