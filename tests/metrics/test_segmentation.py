import copy
import json
import math
from dataclasses import asdict

import pytest
import torch
from torchmetrics import MetricCollection

from slotlab import metrics
from slotlab.errors import ConfigError
from slotlab.metrics import AdjustedRandIndex, MeanBestOverlap, MeanIoU, Score, SegmentationScores
from slotlab.metrics.functional import adjusted_rand_index, mean_best_overlap, mean_iou


def label_maps(seed=0, images=7):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 5, (2, images, 4, 4), generator=generator)
    predicted, target = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    target[0] = 0  # degenerate in both ARIs, undefined for mBO
    target[1] = target[1] > 2  # one object: degenerate for FG-ARI
    return predicted, target


CASES = [
    (AdjustedRandIndex(), adjusted_rand_index, 1),
    (AdjustedRandIndex(foreground_only=True), lambda p, t: adjusted_rand_index(p, t, True), 2),
    (MeanIoU(), mean_iou, 0),
    (MeanIoU("ground-truth"), lambda p, t: mean_iou(p, t, "ground-truth"), 0),
    (MeanIoU("clevrtex-foreground"), lambda p, t: mean_iou(p, t, "clevrtex-foreground"), 0),
    (MeanBestOverlap(), mean_best_overlap, 1),
    (MeanBestOverlap(background=True), lambda p, t: mean_best_overlap(p, t, True), 0),
]


def expected_score(values, degenerate):
    values = values[~values.isnan()]
    return [values.mean().item(), values.std().item() / math.sqrt(len(values)), len(values), degenerate]


@pytest.mark.parametrize(("metric", "function", "degenerate"), CASES)
def test_class_is_the_mean_of_the_function(metric, function, degenerate):
    predicted, target = label_maps()
    metric = copy.deepcopy(metric)
    for part in (slice(0, 3), slice(3, 7)):
        metric.update(predicted[part], target[part])
    score = metric.compute()
    assert list(asdict(score).values()) == pytest.approx(expected_score(function(predicted, target), degenerate))


def test_segmentation_scores_equal_the_single_classes():
    predicted, target = label_maps()
    together = SegmentationScores(definition="ground-truth", background=True)
    single = {
        "ari": AdjustedRandIndex(),
        "fg_ari": AdjustedRandIndex(foreground_only=True),
        "miou": MeanIoU("ground-truth"),
        "mbo": MeanBestOverlap(background=True),
    }
    for metric in (together, *single.values()):
        metric.update(predicted, target)
    assert together.compute() == {name: metric.compute() for name, metric in single.items()}
    assert list(together.compute()) == ["ari", "fg_ari", "miou", "mbo"]


def test_merged_states_equal_one_pass():
    predicted, target = label_maps()
    whole, one, other = SegmentationScores(), SegmentationScores(), SegmentationScores()
    whole.update(predicted, target)
    one.update(predicted[:2], target[:2])
    other.update(predicted[2:], target[2:])
    one.merge_state(other)
    for name, score in whole.compute().items():
        assert asdict(one.compute()[name]) == pytest.approx(asdict(score), rel=1e-12)


def test_processes_are_summed_by_torchmetrics():
    predicted, target = label_maps()
    whole, one, other = SegmentationScores(), SegmentationScores(), SegmentationScores()
    whole.update(predicted, target)
    one.update(predicted[:2], target[:2])
    other.update(predicted[2:], target[2:])
    (state,) = other.metric_state.values()
    one.distributed_available_fn = lambda: True
    one.dist_sync_fn = lambda own, group=None: [own, state]  # what the two processes would gather
    for name, score in one.compute().items():
        assert asdict(score) == pytest.approx(asdict(whole.compute()[name]), rel=1e-12)
    assert [score.count for score in one._scores()] == [2, 2, 2, 1]  # its own sums again, after the reduction


def test_states_stay_float64_and_reset():
    metric = AdjustedRandIndex().float().half()
    metric.update(*label_maps())
    (state,) = metric.metric_state.values()
    assert state.dtype == torch.float64
    metric.reset()
    assert not metric.metric_state.popitem()[1].any()


def test_a_collection_keeps_metrics_apart_that_agree_on_the_first_batch():
    maps = torch.tensor([[[0, 1, 2, 3]], [[0, 0, 1, 1]]])
    singles = [metric for metric, _, _ in CASES]
    together = MetricCollection({str(number): copy.deepcopy(metric) for number, metric in enumerate(singles)})
    for predicted, target in ((maps[:1], maps[:1]), (maps[:1], maps[1:])):  # all is perfect in the first
        together.update(predicted, target)
    scores = together.compute()
    for number, (_, function, _) in enumerate(CASES):
        both = function(maps[:1], maps[:1]) + function(maps[:1], maps[1:])
        assert scores[str(number)].mean == pytest.approx(both.item() / 2)


def test_no_image_and_one_image():
    metric = MeanIoU()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        empty = metric.compute()
    assert (math.isnan(empty.mean), empty.count) == (True, 0)
    metric.reset()
    metric.update(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64))
    assert metric.compute().mean == 1
    assert math.isnan(metric.compute().standard_error)


def test_same_value_in_each_image_has_no_negative_variance():
    metric = MeanBestOverlap()
    metric.update(torch.tensor([[0, 1, 1]]).expand(1000, 3), torch.tensor([[1, 1, 1]]).expand(1000, 3))
    assert metric.compute().standard_error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AdjustedRandIndex(foreground_only=1), "`foreground_only` must be True or False, not 1"),
        (lambda: MeanIoU("iou"), "mean IoU has no definition 'iou'"),
        (lambda: MeanBestOverlap("no"), "`background` must be True or False, not 'no'"),
        (lambda: SegmentationScores("iou"), "mean IoU has no definition 'iou'"),
        (lambda: SegmentationScores(background=None), "`background` must be True or False, not None"),
    ],
)
def test_bad_options(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_score_reads_well_and_goes_into_json():
    score = Score(0.51234, 0.001, 100, 2)
    assert str(score) == "0.5123 ± 0.0010 (n = 100, degenerate 2)"
    assert json.loads(json.dumps(asdict(score)))["mean"] == 0.51234


def test_package_offers_its_classes_and_nothing_else():
    assert all(getattr(metrics, name) is not None for name in metrics.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Dice'"):
        _ = metrics.Dice
