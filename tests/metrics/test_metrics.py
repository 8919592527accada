import copy
import math
from dataclasses import asdict

import pytest
import torch
from torchmetrics import MetricCollection

from slotlab import metrics
from slotlab.errors import ConfigError
from slotlab.metrics import (
    AdjustedRandIndex,
    MeanBestOverlap,
    MeanIoU,
    PeakSignalToNoiseRatio,
    ReconstructionError,
    SegmentationScores,
)
from slotlab.metrics.functional import (
    adjusted_rand_index,
    mean_best_overlap,
    mean_iou,
    peak_signal_to_noise_ratio,
    squared_error,
)


def label_maps():
    coarse = torch.randint(0, 5, (2, 7, 4, 4), generator=torch.Generator().manual_seed(0))
    predicted, target = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    target[0] = 0  # degenerate in both ARIs, undefined for mBO
    target[1] = target[1] > 2  # one object: degenerate for FG-ARI
    return predicted, target


def images():
    reconstruction, image = torch.rand(2, 7, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    reconstruction[3] = image[3]  # exact: its PSNR is infinite
    return reconstruction, image


LABELLED = [  # class, function, degenerate images of `label_maps`
    (AdjustedRandIndex(), adjusted_rand_index, 1),
    (AdjustedRandIndex(foreground_only=True), lambda p, t: adjusted_rand_index(p, t, True), 2),
    (MeanIoU(), mean_iou, 0),
    (MeanIoU("ground-truth"), lambda p, t: mean_iou(p, t, "ground-truth"), 0),
    (MeanIoU("clevrtex-foreground"), lambda p, t: mean_iou(p, t, "clevrtex-foreground"), 0),
    (MeanBestOverlap(), mean_best_overlap, 1),
    (MeanBestOverlap(background=True), lambda p, t: mean_best_overlap(p, t, True), 0),
]
PAINTED = [
    (ReconstructionError(), squared_error, 0),
    (ReconstructionError("mean"), lambda a, b: squared_error(a, b, "mean"), 0),
    (PeakSignalToNoiseRatio(), peak_signal_to_noise_ratio, 1),
]


def updated(metric, batch, *parts):
    metric = copy.deepcopy(metric)
    for part in parts:
        metric.update(*(values[part] for values in batch))
    return metric


@pytest.mark.parametrize(
    ("metric", "function", "degenerate", "batch"),
    [(*case, label_maps()) for case in LABELLED] + [(*case, images()) for case in PAINTED],
)
def test_a_class_is_the_mean_of_its_function(metric, function, degenerate, batch):
    """Over batches, over merged metrics, and over what processes gather."""
    values = function(*batch)
    values = values[values.isfinite()]
    expected = [values.mean().item(), values.std().item() / math.sqrt(len(values)), len(values), degenerate]
    first, second = slice(0, 3), slice(3, 7)
    assert list(asdict(updated(metric, batch, first, second).compute()).values()) == pytest.approx(expected)

    merged, other = updated(metric, batch, first), updated(metric, batch, second)
    merged.merge_state(other)
    assert list(asdict(merged.compute()).values()) == pytest.approx(expected)

    gathered = updated(metric, batch, first)
    ((name, own),) = gathered.metric_state.items()
    gathered.distributed_available_fn = lambda: True
    gathered.dist_sync_fn = lambda _, group=None: [own, other.metric_state[name]]  # what two processes gather
    assert list(asdict(gathered.compute()).values()) == pytest.approx(expected)

    halved = updated(metric.half(), batch, first)
    assert halved.metric_state[name].dtype == torch.float64
    halved.reset()
    assert not halved.metric_state[name].any()


def test_segmentation_scores_equal_the_single_classes():
    single = {
        "ari": AdjustedRandIndex(),
        "fg_ari": AdjustedRandIndex(foreground_only=True),
        "miou": MeanIoU("ground-truth"),
        "mbo": MeanBestOverlap(background=True),
    }
    together = SegmentationScores(definition="ground-truth", background=True)
    whole = slice(0, 7)
    expected = {name: updated(metric, label_maps(), whole).compute() for name, metric in single.items()}
    assert updated(together, label_maps(), whole).compute() == expected


def test_a_collection_keeps_metrics_apart_that_agree_on_the_first_batch():
    maps = torch.tensor([[[0, 1, 2, 3]], [[0, 0, 1, 1]]])
    together = MetricCollection({str(number): copy.deepcopy(case[0]) for number, case in enumerate(LABELLED)})
    for predicted, target in ((maps[:1], maps[:1]), (maps[:1], maps[1:])):  # all is perfect in the first
        together.update(predicted, target)
    scores = together.compute()
    for number, (_, function, _) in enumerate(LABELLED):
        both = function(maps[:1], maps[:1]) + function(maps[:1], maps[1:])
        assert scores[str(number)].mean == pytest.approx(both.item() / 2)


def test_no_image_one_image_and_equal_images():
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        empty = MeanIoU().compute()
    assert (math.isnan(empty.mean), empty.count) == (True, 0)
    one = updated(MeanIoU(), torch.zeros(2, 1, 4, dtype=torch.int64), slice(0, 1)).compute()
    assert one.mean == 1
    assert math.isnan(one.standard_error)
    metric = MeanBestOverlap()
    metric.update(torch.tensor([[0, 1, 1]]).expand(1000, 3), torch.tensor([[1, 1, 1]]).expand(1000, 3))
    assert metric.compute().standard_error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("metric", [ReconstructionError(), PeakSignalToNoiseRatio()])
def test_nan_is_not_hidden(metric):
    image = torch.zeros(2, 3, 4, 4)
    metric.update(image + torch.tensor([math.nan, 0.1])[:, None, None, None], image)
    assert math.isnan(metric.compute().mean)


def test_an_infinite_error_is_not_taken_for_none():
    image = torch.full((2, 3, 2, 2), 0.5)
    metric = PeakSignalToNoiseRatio()
    metric.update(torch.stack([image[0] + 0.1, torch.full((3, 2, 2), math.inf)]), image)
    assert (metric.compute().mean, metric.compute().degenerate) == (-math.inf, 0)


@pytest.mark.parametrize("metric", [MeanIoU, SegmentationScores, ReconstructionError])
def test_an_unknown_definition_is_named_with_the_known_ones(metric):
    with pytest.raises(ConfigError, match="has no definition 'iou'; it has (clevrtex, |sum, mean)"):
        metric("iou")


def test_the_package_offers_its_classes_and_nothing_else():
    assert all(getattr(metrics, name) is not None for name in metrics.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Dice'"):
        _ = metrics.Dice
