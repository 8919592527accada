import itertools
import math

import pytest
import torch

import slotlab
from slotlab.errors import ConfigError
from slotlab.scenes import render, render_videos
from slotlab.scenes.motion import START
from slotlab.scenes.shapes import SHAPES

OPTIONS = {"resolution": 32, "max_objects": 5}


@pytest.fixture(scope="module")
def clips():
    return render_videos(range(4), frames=14, **OPTIONS)


def test_shapes_types_and_ranges(clips):
    assert (clips.image.shape, clips.image.dtype) == ((4, 14, 3, 32, 32), torch.float32)
    assert (clips.mask.shape, clips.mask.dtype) == ((4, 14, 32, 32), torch.int64)
    assert clips.image.min() >= 0 and clips.image.max() <= 1
    frames, masks = slotlab.render_video(2, 14, **OPTIONS)
    assert torch.equal(frames, clips.image[2]) and torch.equal(masks, clips.mask[2])
    assert render_videos([], **OPTIONS).image.shape == (0, 12, 3, 32, 32)


def test_a_clip_is_the_same_bits_in_any_batch_and_length(clips):
    other = render_videos([3, 1_000_000, 1], frames=5, **OPTIONS)
    for place, index in ((0, 3), (2, 1)):
        assert torch.equal(other.image[place], clips.image[index, :5])
        assert torch.equal(other.mask[place], clips.mask[index, :5])


@pytest.mark.parametrize("variant", ["plain", "textured", "photographic"])
def test_one_frame_is_the_still_scene(variant):
    clip = render_videos([5], frames=START, variant=variant, **OPTIONS)
    still = render([5], variant=variant, **OPTIONS)
    start = clip.metadata[0]["start"]
    assert torch.equal(clip.image[0, start], still.image[0])
    assert torch.equal(clip.mask[0, start], still.mask[0])
    same = ("shape", "size", "material", "color")
    for one, other in zip(clip.metadata[0]["objects"], still.metadata[0]["objects"], strict=True):
        assert [one[name] for name in same] == [other[name] for name in same]
        assert one["3d_coords"][start] == other["3d_coords"]


def test_objects_keep_their_ids_and_move_without_meeting(clips):
    moved = 0.0
    for clip, masks in zip(clips.metadata, clips.mask, strict=True):
        objects = clip["objects"]
        seen = torch.stack([torch.bincount(mask.view(-1), minlength=17) for mask in masks])
        for number, one in enumerate(objects, start=1):
            assert one["visible_pixels"] == seen[:, number].tolist()
            steps = [math.dist(*pair) for pair in itertools.pairwise(one["3d_coords"])]
            assert max(steps) < 1
            moved = max(moved, *steps)
        for one, other in itertools.combinations(objects, 2):
            touching = sum(SHAPES[thing["shape"]].footprint * thing["scale"] for thing in (one, other))
            apart = min(math.dist(a[:2], b[:2]) for a, b in zip(one["3d_coords"], other["3d_coords"], strict=True))
            assert apart > touching - 0.2
    assert moved > 0.1


def test_clips_have_what_makes_video_hard():
    clips = render_videos(range(30), frames=12, resolution=16, max_objects=6)
    pixels = [torch.tensor(thing["visible_pixels"]) for clip in clips.metadata for thing in clip["objects"]]
    assert any(seen[0] == 0 and seen[-1] > 0 for seen in pixels)  # enters, or comes from behind another
    assert any(seen[0] > 0 and seen[-1] == 0 for seen in pixels)
    pans = [clip["camera"][0] != clip["camera"][-1] for clip in clips.metadata]
    assert 5 < sum(pans) < 25
    rests = [thing["3d_coords"][0] == thing["3d_coords"][-1] for clip in clips.metadata for thing in clip["objects"]]
    assert 0 < sum(rests) < len(rests) / 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"frames": 0}, "frames"), ({"variant": "moving"}, "variant"), ({"indices": [-1]}, "indices")],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ConfigError, match=message):
        render_videos(**{"indices": [0], **OPTIONS} | wrong)
