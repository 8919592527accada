import itertools
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from slotlab.metrics.functional import (
    CHUNK_PIXELS,
    MEAN_IOU_DEFINITIONS,
    adjusted_rand_index,
    contingency,
    degenerate_of,
    mean_best_overlap,
    mean_iou,
    peak_signal_to_noise_ratio,
    squared_error,
)

LABELS = torch.zeros(2, 4, 4, dtype=torch.int64)


def blobs(seed, images=6, size=24, ids=5, cell=4):
    """Label maps of square cells, each with one of `ids` ids at random."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, ids, (images, size // cell, size // cell), generator=generator)
    return coarse.repeat_interleave(cell, 1).repeat_interleave(cell, 2)


def sklearn_ari(predicted, target, foreground_only=False):
    scores = []
    for one, true in zip(predicted.flatten(1).numpy(), target.flatten(1).numpy(), strict=True):
        keep = true > 0 if foreground_only else np.ones_like(true, dtype=bool)
        scores.append(adjusted_rand_score(true[keep], one[keep]))
    return torch.tensor(scores, dtype=torch.float64)


class TestContingency:
    @pytest.mark.parametrize("ids", [3, 11, 300])
    def test_counts_random(self, ids):
        predicted, target = torch.randint(0, ids, (2, 7, 30, 20), generator=torch.Generator().manual_seed(ids))
        table = contingency(predicted, target).sum(1)
        expected = torch.stack([torch.bincount(one.flatten(), minlength=ids) for one in target])
        assert [row[row > 0].tolist() for row in table] == [row[row > 0].tolist() for row in expected]
        assert torch.equal(table[:, 0], expected[:, 0])

    def test_large_ids_keep_the_background_in_column_zero(self):
        target = torch.tensor([[5_000_000_000, 7, 7, 7], [0, 7, 7, 0]])
        table = contingency(torch.zeros_like(target), target)
        assert table.tolist() == [[[0, 3, 1]], [[2, 2, 0]]]

    def test_chunks_of_differing_width_are_joined(self, monkeypatch):
        predicted, target = blobs(0, ids=4), blobs(1, ids=6)
        target[3:] %= 2
        whole = contingency(predicted, target)
        monkeypatch.setitem(CHUNK_PIXELS, "cpu", 1)
        assert torch.equal(contingency(predicted, target), whole)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16, torch.int64])
    def test_any_integer_dtype_and_strides_leave_the_input_alone(self, dtype):
        both = torch.stack([blobs(0), blobs(1)], dim=-1).to(dtype)
        before = both.clone()
        assert torch.equal(contingency(both[..., 0], both[..., 1]), contingency(blobs(0), blobs(1)))
        assert torch.equal(both, before)

    def test_no_images(self):
        assert adjusted_rand_index(LABELS[:0], LABELS[:0]).shape == (0,)

    @pytest.mark.parametrize(
        ("predicted", "target", "message"),
        [
            (torch.zeros(2, 4, 4), LABELS, "`predicted` must hold integer segment ids"),
            (LABELS, torch.zeros(2, 4, 4), "`target` must hold integer segment ids"),
            (LABELS.bool(), LABELS.bool(), "integer segment ids, not torch.bool"),
            (LABELS, torch.zeros(2, 8, 8).long(), r"differ in shape: \(2, 4, 4\) and \(2, 8, 8\)"),
            (LABELS[0, 0], LABELS[0, 0], r"must be \[B, H, W\] or \[B, N\]"),
            (LABELS[None], LABELS[None], r"must be \[B, H, W\] or \[B, N\]"),
            (LABELS[:, :0], LABELS[:, :0], "with pixels"),
            (LABELS - 1, LABELS, "`predicted` has a negative id, -1"),
            (torch.arange(5000)[None], torch.arange(5000)[None], "not a segmentation"),
        ],
    )
    def test_bad_input(self, predicted, target, message):
        with pytest.raises(ValueError, match=message):
            contingency(predicted, target)


SCORES = (
    adjusted_rand_index,
    lambda predicted, target: adjusted_rand_index(predicted, target, foreground_only=True),
    *(partial(mean_iou, definition=definition) for definition in MEAN_IOU_DEFINITIONS),
    mean_best_overlap,
    lambda predicted, target: mean_best_overlap(predicted, target, background=True),
)


class TestIgnoredPixels:
    @pytest.mark.parametrize("score", SCORES)
    def test_they_count_as_if_they_were_not_there(self, score):
        predicted, target = blobs(0, ids=7), blobs(1, ids=6)
        target[:3] *= 1000  # more cells than are indexed directly
        ignored = torch.rand(target.shape, generator=torch.Generator().manual_seed(2)) < 0.3
        ours = score(predicted, target.masked_fill(ignored, -1))
        for one, true, left, value in zip(predicted, target, ~ignored, ours, strict=True):
            assert torch.equal(value, score(one[left][None], true[left][None])[0])

    @pytest.mark.parametrize("score", SCORES)
    def test_a_perfect_prediction_with_a_void_ring_has_one(self, score):
        target = torch.zeros(1, 12, 12, dtype=torch.int8)
        target[0, 4:8, 4:8] = 1
        target[0, 9:11, 2:6] = 127
        predicted = target.clone()
        target[0, 3:9, 3:9] = torch.nn.functional.pad(target[0, 4:8, 4:8], (1, 1, 1, 1), value=-1)
        predicted[0, 3:6, 3:9] = 1  # whatever it says in the ring
        predicted[0, 3:6, 8] = 5
        assert score(predicted, target).item() == 1

    def test_images_of_ignored_pixels_alone(self):
        void = torch.full((2, 4, 4), -1)
        assert adjusted_rand_index(LABELS, void).tolist() == [1, 1]
        assert degenerate_of(contingency(LABELS, void)).all()
        assert mean_iou(LABELS, void).isnan().all() and mean_best_overlap(LABELS, void).isnan().all()


class TestAdjustedRandIndex:
    @pytest.mark.parametrize("foreground_only", [False, True])
    @pytest.mark.parametrize("ids", [(1, 1), (2, 5), (11, 8), (40, 200)])
    def test_equals_scikit_learn(self, ids, foreground_only):
        predicted, target = blobs(3, ids=ids[0], cell=2), blobs(4, ids=ids[1], cell=3)
        predicted[0] = target[0]
        ours = adjusted_rand_index(predicted, target, foreground_only)
        torch.testing.assert_close(ours, sklearn_ari(predicted, target, foreground_only), atol=1e-9, rtol=0)

    def test_equals_scikit_learn_where_float32_would_not(self):
        target = blobs(5, images=2, size=512, ids=11, cell=64)
        predicted = blobs(6, images=2, size=512, ids=11, cell=1)
        predicted[0] = torch.where(predicted[1] < 2, predicted[0], target[0])
        ours = adjusted_rand_index(predicted, target)
        torch.testing.assert_close(ours, sklearn_ari(predicted, target), atol=1e-9, rtol=0)
        assert abs(ours[1]) < 1e-3

    @pytest.mark.parametrize("foreground_only", [False, True])
    def test_every_map_of_four_pixels_as_scikit_learn(self, foreground_only):
        maps = torch.cartesian_prod(*[torch.arange(4)] * 4)
        predicted, target = maps.repeat(64, 1), maps[::4].repeat_interleave(256, 0)
        ours = adjusted_rand_index(predicted, target, foreground_only)
        some = torch.randperm(len(maps), generator=torch.Generator().manual_seed(0))[:300]
        expected = sklearn_ari(predicted[some], target[some], foreground_only)
        torch.testing.assert_close(ours[some], expected, atol=1e-12, rtol=0)


def test_degenerate():
    target = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 2, 2], [9, 9, 4, 4]])
    table = contingency(target, target)
    assert degenerate_of(table).tolist() == [True, True, False, False, False]
    assert degenerate_of(table, foreground_only=True).tolist() == [True, True, True, False, False]


def evaluator_miou(predicted, target, slots):
    """The three means as the published evaluator computes them for one image, from binary masks."""
    count = max(slots, int(target.max()) + 1)
    guesses, truths = ([labels == i for i in range(count)] for labels in (predicted, target))
    iou = np.zeros((count, count), dtype=np.float32)  # rows are predicted masks
    for (i, guess), (j, true) in itertools.product(enumerate(guesses), enumerate(truths)):
        if guess.any() and true.any():
            iou[i, j] = np.float32((guess & true).sum()) / np.float32((guess | true).sum())
    rows, columns = linear_sum_assignment(iou.T, maximize=True)  # rows are true masks
    best = iou.T[rows, columns].astype(np.float64)
    there = np.array([true.any() for true in truths])
    pairs = (there | np.array([guesses[i].any() for i in columns])).sum()
    with np.errstate(all="ignore"):
        means = best.sum() / pairs, best[1:].sum() / (pairs - 1), best.sum() / there.sum()
    return dict(zip(MEAN_IOU_DEFINITIONS, means, strict=True))


def sparse(seed, images, ids, used, cell=4):
    """Label maps with some of the ids only, other ones in each image."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(images, ids, generator=generator).topk(used).indices.sort(1).values
    return kept.gather(1, blobs(seed, images, ids=used, cell=cell).flatten(1)).view(images, 24, 24)


class TestMeanIoU:
    @pytest.mark.parametrize("definition", MEAN_IOU_DEFINITIONS)
    @pytest.mark.parametrize(
        ("slots", "used", "ids", "objects"),
        [(11, 11, 7, 7), (4, 4, 9, 9), (11, 4, 11, 7), (11, 9, 11, 3), (7, 3, 9, 5), (7, 2, 5, 5), (24, 6, 80, 5)],
    )
    def test_equals_the_evaluator_with_unused_slots_and_gaps(self, definition, slots, used, ids, objects):
        predicted, target = sparse(slots, 40, slots, used), sparse(100 + ids, 40, ids, objects, cell=3)
        expected = [
            evaluator_miou(*maps, slots)[definition] for maps in zip(predicted.numpy(), target.numpy(), strict=True)
        ]
        ours = mean_iou(predicted, target, definition, slots)
        torch.testing.assert_close(ours, torch.tensor(expected), atol=1e-12, rtol=0)

    def test_a_slot_and_an_object_that_are_left_over_may_make_two_pairs(self):
        predicted, target = torch.tensor([[0, 2, 3, 3]]), torch.tensor([[0, 0, 1, 2]])  # slot 1 is not used
        assert mean_iou(predicted, target, slots=4).item() == 0.25

    @pytest.mark.parametrize("definition", MEAN_IOU_DEFINITIONS)
    def test_same_partition_is_one_whatever_the_names_and_gaps(self, definition):
        target = blobs(0) * 3
        assert mean_iou(999 - target, target, definition).tolist() == [1.0] * 6

    def test_only_background(self):
        empty = torch.zeros(1, 4, 4, dtype=torch.int64)
        assert mean_iou(empty, empty).item() == 1
        assert mean_iou(empty, empty, "ground-truth").item() == 1
        for maps in (empty, empty + 1):  # only the background, and none
            assert mean_iou(maps, maps, "clevrtex-foreground").isnan().item()


class TestMeanBestOverlap:
    def test_by_hand_with_a_slot_used_twice(self):
        predicted = torch.tensor([[0, 0, 1, 1, 1, 1]])
        target = torch.tensor([[0, 0, 1, 1, 2, 2]])
        assert mean_best_overlap(predicted, target).item() == pytest.approx(0.5)
        assert mean_best_overlap(predicted, target, background=True).item() == pytest.approx(2 / 3)
        assert mean_iou(predicted, target, "ground-truth").item() == pytest.approx((1 + 0.5) / 3)

    def test_equals_a_loop(self):
        predicted, target = blobs(0, ids=7), blobs(1, ids=6)
        for one, true, value in zip(predicted, target, mean_best_overlap(predicted, target), strict=True):
            objects = [true == i for i in range(1, 6) if (true == i).any()]
            best = [max(((m & (one == j)).sum() / (m | (one == j)).sum()).item() for j in range(7)) for m in objects]
            assert value.item() == pytest.approx(np.mean(best), abs=1e-7)

    def test_no_object(self):
        empty = torch.zeros(1, 4, 4, dtype=torch.int64)
        assert mean_best_overlap(empty, empty).isnan().item()
        assert mean_best_overlap(empty, empty, background=True).item() == 1


class TestReconstruction:
    def test_psnr(self):
        image = torch.zeros(2, 3, 4, 4)
        assert peak_signal_to_noise_ratio(image + 0.1, image).tolist() == pytest.approx([20, 20], abs=1e-5)
        assert peak_signal_to_noise_ratio(image, image).tolist() == [math.inf, math.inf]

    def test_equals_torch_in_float64(self):
        reconstruction, image = torch.rand(2, 5, 3, 8, 6, generator=torch.Generator().manual_seed(0))
        loss = torch.nn.functional.mse_loss(reconstruction.double(), image.double(), reduction="none").mean((1, 2, 3))
        torch.testing.assert_close(squared_error(reconstruction, image, "mean"), loss)
        assert squared_error(reconstruction.bfloat16(), image).isfinite().all()

    @pytest.mark.parametrize(
        ("reconstruction", "image", "message"),
        [
            (torch.zeros(1, 3, 4, 4).byte(), torch.zeros(1, 3, 4, 4), "`reconstruction` must be floating"),
            (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4).byte(), r"`image` must be floating in \[0, 1\]"),
            (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8), r"must both be \[B, C, H, W\]"),
            (torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), r"must both be \[B, C, H, W\]"),
        ],
    )
    def test_bad_input(self, reconstruction, image, message):
        with pytest.raises(ValueError, match=message):
            squared_error(reconstruction, image)


def test_functional_is_light():
    code = "import sys, slotlab.metrics.functional; print({'torchmetrics', 'sklearn', 'lightning'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_ids_beyond_int64_are_refused_not_ignored():
    labels = torch.tensor([[0, 1, 1, 2]])
    huge = torch.tensor([[0, -5, -5, 2]]).view(torch.uint64)
    with pytest.raises(ValueError, match=r"`target` holds ids of 2\*\*63 or more; renumber them"):
        adjusted_rand_index(labels, huge)
