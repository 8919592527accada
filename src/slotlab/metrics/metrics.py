"""Mask metrics over many images, as torchmetrics classes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from slotlab.errors import ConfigError
from slotlab.metrics.functional.reconstruction import Reduction, peak_signal_to_noise_ratio, squared_error
from slotlab.metrics.functional.segmentation import (
    adjusted_rand_index_of,
    check_definition,
    check_flag,
    contingency,
    degenerate_of,
    mean_best_overlap_of,
    mean_iou_of,
)


@dataclass  # not frozen: torchmetrics copies what `compute` returns field by field
class Score:
    """A metric over many images.

    Attributes:
        mean: mean over `count` images; NaN if there are none.
        standard_error: sample standard deviation / sqrt(count); NaN below two images.
        count: images that the mean is taken over. Those for which the metric is undefined (NaN) are not in it.
        degenerate: images whose value is a convention rather than a measurement, or undefined; see each metric.
    """

    mean: float
    standard_error: float
    count: int
    degenerate: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.standard_error:.4f} (n = {self.count}, degenerate {self.degenerate})"


class PerImageMetric(Metric):
    """Base of the metrics that average one or several values per image: float64 sums that add up over processes.

    A subclass calls `_add` in its `update`, and turns `_scores()` into what its `compute` returns.

    Args:
        of: what is averaged, by which definition. It names the state, for a `MetricCollection` takes two metrics whose
            states have equal names and, after the first batch, equal values for one and the same.
        values: how many values per image.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, of: str, values: int = 1) -> None:
        super().__init__()
        self._state = f"sums_of_{of}"
        self.add_state(self._state, torch.zeros(4, values, dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, values: Tensor, degenerate: Tensor, undefined: Tensor) -> None:
        """Adds float64 [V, B] values; `degenerate` are counted, `undefined` are left out (bool [V, B] each)."""
        values = values.masked_fill(undefined, 0.0)
        sums = torch.stack([values, values.square(), (~undefined).double(), degenerate.double()]).sum(2)
        state: Tensor = getattr(self, self._state)
        state += sums.to(state.device)

    def _scores(self) -> list[Score]:
        """One `Score` for each of the V values."""
        total, squares, count, degenerate = getattr(self, self._state).tolist()
        return [_score(*one) for one in zip(total, squares, map(int, count), map(int, degenerate), strict=True)]


def _score(total: float, squares: float, count: int, degenerate: int) -> Score:
    mean = total / count if count else math.nan
    if count < 2:
        return Score(mean, math.nan, count, degenerate)
    variance = (squares - total * mean) / (count - 1)
    variance = max(variance, 0.0) if variance == variance else math.nan  # rounding may leave it just below 0
    return Score(mean, math.sqrt(variance / count), count, degenerate)


class ReconstructionError(PerImageMetric):
    """Mean squared error of reconstructions, per image summed ("sum": the official MSE) or averaged ("mean").

    A reconstruction with NaN makes the mean NaN; no image is degenerate.

    Args:
        reduction: "sum" or "mean" over channels and pixels.

    Raises:
        ConfigError: if the reduction has another name.
    """

    higher_is_better = False

    def __init__(self, reduction: Reduction = "sum") -> None:
        if reduction not in ("sum", "mean"):
            raise ConfigError(f"`reduction` must be 'sum' or 'mean', not {reduction!r}")
        super().__init__(of=f"squared_error_{reduction}")
        self.reduction: Reduction = reduction

    def update(self, reconstruction: Tensor, image: Tensor) -> None:
        """Adds a batch, floating [B, C, H, W] in [0, 1] each."""
        values = squared_error(reconstruction, image, self.reduction)[None]
        none = torch.zeros_like(values, dtype=torch.bool)
        self._add(values, none, none)

    def compute(self) -> Score:
        """The score over all images added so far, of all processes."""
        return self._scores()[0]


class PeakSignalToNoiseRatio(PerImageMetric):
    """Mean PSNR in decibel; degenerate and left out: reconstructions without any error, whose PSNR is infinite."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__(of="psnr")

    def update(self, reconstruction: Tensor, image: Tensor) -> None:
        """Adds a batch, floating [B, C, H, W] in [0, 1] each."""
        values = peak_signal_to_noise_ratio(reconstruction, image)[None]
        perfect = torch.isposinf(values)
        self._add(values, perfect, perfect)

    def compute(self) -> Score:
        """The score over all images added so far, of all processes."""
        return self._scores()[0]


class AdjustedRandIndex(PerImageMetric):
    """Mean ARI (FG-ARI with `foreground_only`); degenerate: fewer than two true segments, scored 0 or 1.

    Args:
        foreground_only: count only pixels of true objects.

    Raises:
        ConfigError: if `foreground_only` is not a bool.
    """

    higher_is_better = True

    def __init__(self, foreground_only: bool = False) -> None:
        check_flag("foreground_only", foreground_only)
        super().__init__(of="fg_ari" if foreground_only else "ari")
        self.foreground_only = foreground_only

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Adds a batch of label maps, integer [B, H, W] each; target 0 is the background."""
        table = contingency(predicted, target)
        values = adjusted_rand_index_of(table, self.foreground_only)[None]
        self._add(values, degenerate_of(table, self.foreground_only)[None], torch.isnan(values))

    def compute(self) -> Score:
        """The score over all images added so far, of all processes."""
        return self._scores()[0]


class MeanIoU(PerImageMetric):
    """Mean mIoU by one of the named definitions; degenerate and left out: images for which it is undefined.

    Args:
        definition: see `slotlab.metrics.functional.mean_iou`.

    Raises:
        ConfigError: if there is no such definition.
    """

    higher_is_better = True

    def __init__(self, definition: str = "clevrtex") -> None:
        check_definition(definition)
        super().__init__(of=f"miou_{definition}")
        self.definition = definition

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Adds a batch of label maps, integer [B, H, W] each; target 0 is the background."""
        values = mean_iou_of(contingency(predicted, target), self.definition)[None]
        self._add(values, torch.isnan(values), torch.isnan(values))

    def compute(self) -> Score:
        """The score over all images added so far, of all processes."""
        return self._scores()[0]


class MeanBestOverlap(PerImageMetric):
    """Mean mBO; degenerate and left out: images without a true object.

    Args:
        background: count the true background as an object too.

    Raises:
        ConfigError: if `background` is not a bool.
    """

    higher_is_better = True

    def __init__(self, background: bool = False) -> None:
        check_flag("background", background)
        super().__init__(of="mbo_with_background" if background else "mbo")
        self.background = background

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Adds a batch of label maps, integer [B, H, W] each; target 0 is the background."""
        values = mean_best_overlap_of(contingency(predicted, target), self.background)[None]
        self._add(values, torch.isnan(values), torch.isnan(values))

    def compute(self) -> Score:
        """The score over all images added so far, of all processes."""
        return self._scores()[0]


class SegmentationScores(PerImageMetric):
    """ARI, FG-ARI, mIoU and mBO from one contingency table per batch, because none of them says enough alone.

    Args:
        definition: of mean IoU, see `slotlab.metrics.functional.mean_iou`.
        background: whether mBO counts the true background as an object.

    Raises:
        ConfigError: if there is no such definition, or `background` is not a bool.

    Example:
        >>> import torch
        >>> scores = SegmentationScores()
        >>> scores.update(torch.tensor([[[3, 3], [7, 7]]]), torch.tensor([[[0, 0], [1, 1]]]))
        >>> scores.compute()["ari"].mean
        1.0
    """

    higher_is_better = True
    names = ("ari", "fg_ari", "miou", "mbo")

    def __init__(self, definition: str = "clevrtex", background: bool = False) -> None:
        check_definition(definition)
        check_flag("background", background)
        super().__init__(f"segmentation_{definition}_{background}", len(self.names))
        self.definition = definition
        self.background = background

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Adds a batch of label maps, integer [B, H, W] each; target 0 is the background."""
        table = contingency(predicted, target)
        values = torch.stack(
            [
                adjusted_rand_index_of(table),
                adjusted_rand_index_of(table, foreground_only=True),
                mean_iou_of(table, self.definition),
                mean_best_overlap_of(table, self.background),
            ]
        )
        undefined = torch.isnan(values)
        degenerate = undefined.clone()
        degenerate[0] |= degenerate_of(table)
        degenerate[1] |= degenerate_of(table, foreground_only=True)
        self._add(values, degenerate, undefined)

    def compute(self) -> dict[str, Score]:
        """The scores over all images added so far, of all processes, under "ari", "fg_ari", "miou" and "mbo"."""
        return dict(zip(self.names, self._scores(), strict=True))
