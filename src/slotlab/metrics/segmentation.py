"""Mask metrics over many images, as torchmetrics classes."""

import torch
from torch import Tensor

from slotlab.metrics.functional.adjusted_rand import adjusted_rand_index_of, check_flag, degenerate_of
from slotlab.metrics.functional.overlap import check_definition, mean_best_overlap_of, mean_iou_of
from slotlab.metrics.functional.table import contingency
from slotlab.metrics.score import PerImageMetric, Score


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
