from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from slotlab.metrics import VideoScores
from slotlab.metrics.functional import slot_identity


def clips(seed, ids, count=3, frames=5, size=12):
    """Label maps of square cells that change little from frame to frame."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, ids, (count, 1, size // 3, size // 3), generator=generator).repeat(1, frames, 1, 1)
    other = torch.randint(0, ids, coarse.shape, generator=generator)
    coarse = torch.where(torch.rand(coarse.shape, generator=generator) < 0.3, other, coarse)
    return coarse.repeat_interleave(3, 2).repeat_interleave(3, 3)


def reference(predicted, target):
    """The definitions, one object and one frame after another."""
    kept = seen = switches = 0
    objects = [int(number) for number in np.unique(target) if number > 0]
    for number in objects:
        slots = []
        for owners, ids in zip(predicted, target, strict=True):
            inside = owners[ids == number].tolist()
            if inside:
                most = Counter(inside)
                slots.append(min(slot for slot, pixels in most.items() if pixels == max(most.values())))
        kept, seen = kept + max(Counter(slots).values()), seen + len(slots)
        switches += sum(one != other for one, other in pairwise(slots))
    return kept / seen, switches / len(objects)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ids", [3, 9])
def test_identity_is_its_definition(seed, ids):
    predicted, target = clips(seed, ids) * 37 + 5, clips(seed + 10, 5) - 1  # ids with gaps; -1: ignored
    share, switches = slot_identity(predicted, target)
    expected = [reference(*pair) for pair in zip(predicted.numpy(), target.numpy(), strict=True)]
    assert share.tolist() == pytest.approx([one[0] for one in expected])
    assert switches.tolist() == pytest.approx([one[1] for one in expected])


def test_identity_of_known_clips():
    target = torch.tensor([1, 1, 0, 1]).view(1, 4, 1, 1)  # out of sight in the third frame
    kept = torch.tensor([3, 3, 7, 3]).view(1, 4, 1, 1)
    assert [float(one) for one in slot_identity(kept, target)] == [1.0, 0.0]
    swapped = torch.tensor([3, 2, 2, 3]).view(1, 4, 1, 1)
    assert [float(one) for one in slot_identity(swapped, target)] == pytest.approx([2 / 3, 2.0])
    assert all(one.isnan().all() for one in slot_identity(kept, torch.zeros_like(target)))


def test_renaming_slots_of_a_whole_clip_changes_nothing_but_of_a_frame_it_does():
    target = clips(0, 4)
    predicted = torch.randperm(4, generator=torch.Generator().manual_seed(0))[target]
    whole, frame = VideoScores(), VideoScores()
    whole.update(predicted, target)
    assert [one.mean for one in whole.compute().values()] == pytest.approx([1, 1, 1, 1, 0])
    predicted[:, 2] = (predicted[:, 2] + 1) % 4
    frame.update(predicted, target)
    found = frame.compute()
    assert found["fg_ari"].mean < 0.9 and found["identity"].mean == pytest.approx(0.8, abs=0.01)
    assert found["switches"].mean == pytest.approx(2, abs=0.05)


def test_scores_of_a_clip_are_those_of_all_its_frames_as_one_map():
    predicted, target = clips(1, 4), clips(2, 4)
    scores = VideoScores()
    for pair in zip(predicted.split(1), target.split(1), strict=True):
        scores.update(*pair)
    expected = {"ari": [], "fg_ari": [], "mbo": []}
    for owners, ids in zip(predicted.flatten(1).numpy(), target.flatten(1).numpy(), strict=True):
        expected["ari"].append(adjusted_rand_score(ids, owners))
        expected["fg_ari"].append(adjusted_rand_score(ids[ids > 0], owners[ids > 0]))
        tubes = [
            [(owners == slot) & (ids == number), (owners == slot) | (ids == number)]
            for number in (1, 2, 3)
            for slot in range(4)
        ]
        overlap = np.array([both.sum() / either.sum() for both, either in tubes]).reshape(3, 4)
        expected["mbo"].append(overlap.max(axis=1).mean())
    for name, values in expected.items():
        assert scores.compute()[name].mean == pytest.approx(np.mean(values))
