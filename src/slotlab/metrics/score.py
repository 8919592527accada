"""What a metric over many images says, and the sums behind it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric


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
