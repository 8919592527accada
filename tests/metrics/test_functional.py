import math
import subprocess
import sys

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
            (LABELS, LABELS - 7, "`target` has a negative id, -7"),
            (torch.arange(5000)[None], torch.arange(5000)[None], "not a segmentation"),
        ],
    )
    def test_bad_input(self, predicted, target, message):
        with pytest.raises(ValueError, match=message):
            contingency(predicted, target)


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


def evaluator_miou(predicted, target):
    """The three means by the evaluator's definition, from binary masks."""
    slots = max(predicted.max(), target.max()) + 1
    one_hot = [np.stack([labels == i for i in range(slots)]) for labels in (predicted, target)]
    iou = np.zeros((slots, slots))
    for i, true in enumerate(one_hot[1]):
        for j, guess in enumerate(one_hot[0]):
            if true.any() and guess.any():
                iou[i, j] = np.logical_and(true, guess).sum() / np.logical_or(true, guess).sum()
    rows, columns = linear_sum_assignment(iou, maximize=True)
    matched = iou[rows, columns]
    pairs = sum(one_hot[1][i].any() or one_hot[0][j].any() for i, j in zip(rows, columns, strict=True))
    objects = sum(mask.any() for mask in one_hot[1])
    foreground = matched[1:].sum() / (pairs - 1) if pairs > 1 else np.nan
    return {
        "clevrtex": matched.sum() / pairs,
        "clevrtex-foreground": foreground,
        "ground-truth": matched.sum() / objects,
    }


class TestMeanIoU:
    @pytest.mark.parametrize("definition", MEAN_IOU_DEFINITIONS)
    @pytest.mark.parametrize(("slots", "objects"), [(11, 6), (4, 9), (7, 7), (1, 4), (5, 1)])
    def test_equals_the_evaluators_definition(self, definition, slots, objects):
        predicted, target = blobs(slots, ids=slots), blobs(100 + objects, ids=objects)
        predicted[0], target[0] = blobs(1, ids=slots)[0], blobs(1, ids=slots)[0] % objects
        for labels, ids in ((predicted, slots), (target, objects)):  # no id between others is missing: no ties
            labels[:, 0, :ids] = torch.arange(ids)
        expected = [evaluator_miou(*pair)[definition] for pair in zip(predicted.numpy(), target.numpy(), strict=True)]
        ours = mean_iou(predicted, target, definition)
        torch.testing.assert_close(ours, torch.tensor(expected), atol=1e-12, rtol=0, equal_nan=True)

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
