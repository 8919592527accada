"""Metrics over many images, as torchmetrics classes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from slotlab.metrics.functional import (
    MEAN_IOU_DEFINITIONS,
    REDUCTIONS,
    adjusted_rand_index_of,
    check_name,
    contingency,
    degenerate_of,
    mean_best_overlap_of,
    mean_iou_of,
    peak_signal_to_noise_ratio,
    slot_identity,
    squared_error,
)


@dataclass  # not frozen: torchmetrics copies what `compute` returns field by field
class Score:
    """A metric over many images.

    Example:
        >>> print(Score(0.5, 0.01, count=100, degenerate=2))
        0.5000 ± 0.0100 (n = 100, degenerate 2)
    """

    mean: float  # over `count` images; NaN if there are none
    standard_error: float  # sample standard deviation / sqrt(count); NaN below two images
    count: int  # without the images for which the metric is undefined (NaN)
    degenerate: int  # images whose value is undefined, or a convention; see each metric

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.standard_error:.4f} (n = {self.count}, degenerate {self.degenerate})"


class PerImageMetric(Metric):
    """Base of the metrics that average V values per image: float64 sums that processes add up.

    `of` says what is averaged and by which definition, and names the state: a `MetricCollection`
    merges metrics whose states have equal names and, after the first batch, equal values.
    """

    is_differentiable = False
    full_state_update = False
    names: tuple[str, ...] = ()  # of the values, if there are several

    def __init__(self, of: str, values: int = 1) -> None:
        super().__init__()
        self._state = f"sums_of_{of}"
        self.add_state(self._state, torch.zeros(4, values, dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, values: Tensor, degenerate: Tensor, undefined: Tensor) -> None:
        """Adds float64 [V, B]; counts `degenerate`, leaves out `undefined`, bool [V, B]."""
        values = values.masked_fill(undefined, 0.0)
        sums = torch.stack([values, values.square(), (~undefined).double(), degenerate.double()]).sum(2)
        state: Tensor = getattr(self, self._state)
        state += sums.to(state.device)

    def _scores(self) -> list[Score]:
        scores = []
        for total, squares, count, degenerate in getattr(self, self._state).T.tolist():
            mean, error = total / count if count else math.nan, math.nan
            if count > 1:
                variance = (squares - total * mean) / (count - 1)  # rounding may leave one of 0 just below it
                error = math.sqrt(max(variance, 0.0) / count)
            scores.append(Score(mean, error, int(count), int(degenerate)))
        return scores

    def compute(self) -> Any:
        """The `Score` over all images added so far, of all processes; several by name."""
        scores = self._scores()
        return dict(zip(self.names, scores, strict=True)) if self.names else scores[0]


class ReconstructionError(PerImageMetric):
    """Mean `squared_error` of reconstructions; no image is degenerate, and a NaN makes it NaN.

    Example:
        >>> metric = ReconstructionError("mean")
        >>> metric.update(torch.full((2, 3, 8, 8), 0.5), torch.zeros(2, 3, 8, 8))
        >>> metric.compute().mean
        0.25
    """

    higher_is_better = False

    def __init__(self, reduction: str = "sum") -> None:
        check_name("squared error", reduction, REDUCTIONS)
        super().__init__(f"squared_error_{reduction}")
        self.reduction = reduction

    def update(self, reconstruction: Tensor, image: Tensor) -> None:
        """Adds a batch, floating [B, C, H, W] in [0, 1] each."""
        values = squared_error(reconstruction, image, self.reduction)[None]
        none = torch.zeros_like(values, dtype=torch.bool)
        self._add(values, none, none)


class PeakSignalToNoiseRatio(PerImageMetric):
    """Mean PSNR in dB; exact reconstructions, whose PSNR is infinite, are degenerate and left out.

    Example:
        >>> metric = PeakSignalToNoiseRatio()
        >>> metric.update(torch.full((2, 3, 8, 8), 0.1), torch.zeros(2, 3, 8, 8))
        >>> round(metric.compute().mean, 3)
        20.0
    """

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__(of="psnr")

    def update(self, reconstruction: Tensor, image: Tensor) -> None:
        """Adds a batch, floating [B, C, H, W] in [0, 1] each."""
        values = peak_signal_to_noise_ratio(reconstruction, image)[None]
        self._add(values, torch.isposinf(values), torch.isposinf(values))


class LabelMapMetric(PerImageMetric):
    """Base of the metrics from a contingency table; images without a value (NaN) are left out."""

    higher_is_better = True
    over = "mean"  # of the values of several annotators

    def __init__(self, function: Callable[..., Tensor], **options: Any) -> None:
        super().__init__("_".join(map(str, [function.__name__, *options.values()])))
        self._function = partial(function, **options)

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Adds a batch of label maps, integer [B, H, W]; target 0 is background, below 0 ignored.

        With the masks of several annotators, target [B, A, H, W], an image's value is the mean or
        the best of its values over annotators; one who ignored every pixel is left out.
        """
        if target.ndim > predicted.ndim:
            tables = [contingency(predicted, one) for one in target.unbind(1)]
            each = torch.stack([self._values(table).where(table.sum((1, 2)) > 0, math.nan) for table in tables])
            values = each.nan_to_num(-math.inf).amax(0) if self.over == "best" else each.nanmean(0)
            undefined = each.isnan().all(0)
            few = torch.stack([self._degenerate(table).expand_as(values) for table in tables])
            return self._add(values, (few | each.isnan()).all(0), undefined)
        table = contingency(predicted, target)
        values = self._values(table)
        self._add(values, self._degenerate(table) | values.isnan(), values.isnan())

    def _values(self, table: Tensor) -> Tensor:
        """Float64 [V, B]."""
        return self._function(table)[None]

    def _degenerate(self, table: Tensor) -> Tensor:
        """Which values are a convention, bool, broadcasting to [V, B]."""
        return torch.zeros_like(table[:, 0, 0], dtype=torch.bool)


class AdjustedRandIndex(LabelMapMetric):
    """Mean ARI or FG-ARI; images with fewer than two true segments (score 0 or 1) are degenerate.

    Example:
        >>> metric = AdjustedRandIndex()
        >>> metric.update(torch.tensor([[[3, 3], [7, 7]]]), torch.tensor([[[0, 0], [1, 1]]]))
        >>> metric.compute().mean
        1.0
    """

    def __init__(self, foreground_only: bool = False) -> None:
        super().__init__(adjusted_rand_index_of, foreground_only=foreground_only)
        self.foreground_only = foreground_only

    def _degenerate(self, table: Tensor) -> Tensor:
        return degenerate_of(table, self.foreground_only)


class MeanIoU(LabelMapMetric):
    """Mean `mean_iou` by a definition; images for which it is undefined are degenerate.

    Example:
        >>> metric = MeanIoU("ground-truth")
        >>> metric.update(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1]]))
        >>> metric.compute().mean
        0.75
    """

    def __init__(self, definition: str = "clevrtex", slots: int | None = None) -> None:
        check_name("mean IoU", definition, MEAN_IOU_DEFINITIONS)
        super().__init__(mean_iou_of, definition=definition, slots=slots)


class MeanBestOverlap(LabelMapMetric):
    """Mean mBO, see `mean_best_overlap`; images without a true object are degenerate.

    Example:
        >>> metric = MeanBestOverlap()
        >>> metric.update(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1]]))
        >>> metric.compute().mean
        0.5
    """

    def __init__(self, background: bool = False) -> None:
        super().__init__(mean_best_overlap_of, background=background)


class SegmentationScores(LabelMapMetric):
    """ARI, FG-ARI, mIoU (by `definition`, of a model with `slots`) and mBO from one table.

    Where images have several annotators, a value is `over` them the "mean" or, each metric by
    itself, the "best".

    Example:
        >>> scores = SegmentationScores()
        >>> scores.update(torch.tensor([[[3, 3], [7, 7]]]), torch.tensor([[[0, 0], [1, 1]]]))
        >>> {name: score.mean for name, score in scores.compute().items()}
        {'ari': 1.0, 'fg_ari': 1.0, 'miou': 1.0, 'mbo': 1.0}
    """

    names = ("ari", "fg_ari", "miou", "mbo")

    def __init__(
        self, definition: str = "clevrtex", background: bool = False, slots: int | None = None, over: str = "mean"
    ) -> None:
        check_name("average over annotators", over, ("mean", "best"))
        PerImageMetric.__init__(self, f"segmentation_{definition}_{background}_{slots}_{over}", len(self.names))
        self.definition, self.over = definition, over
        aris = AdjustedRandIndex(), AdjustedRandIndex(foreground_only=True)
        self._parts = (*aris, MeanIoU(definition, slots), MeanBestOverlap(background))

    def _values(self, table: Tensor) -> Tensor:
        return torch.cat([part._values(table) for part in self._parts])

    def _degenerate(self, table: Tensor) -> Tensor:
        return torch.stack([part._degenerate(table) for part in self._parts])


class VideoScores(PerImageMetric):
    """ARI, FG-ARI and mBO of clips, all frames of a clip as one map, and `slot_identity`.

    `compute` gives scores over clips under "ari", "fg_ari", "mbo" (IoU of whole tubes), "identity"
    (share of object-frames) and "switches" (per object).

    Example:
        >>> scores = VideoScores()
        >>> target = torch.tensor([[[[0, 1]], [[1, 0]]]])  # one clip of two frames
        >>> scores.update(target, target)
        >>> {name: score.mean for name, score in scores.compute().items()}
        {'ari': 1.0, 'fg_ari': 1.0, 'mbo': 1.0, 'identity': 1.0, 'switches': 0.0}
    """

    names = ("ari", "fg_ari", "mbo", "identity", "switches")

    def __init__(self) -> None:
        super().__init__("video", len(self.names))

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Adds label maps of clips, integer [B, T, H, W]; target 0: background, below: ignored."""
        table = contingency(predicted.flatten(1), target.flatten(1))
        aris = adjusted_rand_index_of(table), adjusted_rand_index_of(table, foreground_only=True)
        values = torch.stack([*aris, mean_best_overlap_of(table), *slot_identity(predicted, target)])
        degenerate = values.isnan()
        degenerate[0] |= degenerate_of(table, False)
        degenerate[1] |= degenerate_of(table, True)
        self._add(values, degenerate, values.isnan())
