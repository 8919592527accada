"""Adjusted Rand index of two segmentations, over all pixels or over the true foreground."""

import torch
from torch import Tensor

from slotlab.errors import ConfigError
from slotlab.metrics.functional.table import contingency


def adjusted_rand_index(predicted: Tensor, target: Tensor, foreground_only: bool = False) -> Tensor:
    """Adjusted Rand index (ARI) of each image; with `foreground_only`, FG-ARI.

    With tp, tn, fp, fn the ordered pairs of pixels that are together in both segmentations, in neither, in the
    predicted one only, in the true one only: ARI = 2 (tp tn - fn fp) / ((tp + fn)(fn + tn) + (tp + fp)(fp + tn)).
    1 = the same partition, 0 = as good as chance; it can be negative. FG-ARI leaves out the pixels whose *true* id
    is 0, whatever was predicted there: it does not see how the background is split.

    Degenerate images (see `degenerate`) get scikit-learn's values: a single true segment kept whole gives 1, split
    gives 0; no pixel at all (FG-ARI of an image without objects) gives 1.

    Args:
        predicted: [B, H, W] or [B, N], any integer dtype, ids >= 0 in any numbering.
        target: the same shape, any integer dtype; 0 is the background.
        foreground_only: count only pixels of true objects.

    Returns:
        float64 [B], in [-1, 1]. Equal to `sklearn.metrics.adjusted_rand_score`.

    Raises:
        ValueError: if the label maps are not fit to be compared (see `contingency`).
        ConfigError: if `foreground_only` is not a bool.

    Source: Hubert and Arabie, "Comparing partitions", 1985, equation 5, in the pair-counting form.
    """
    check_flag("foreground_only", foreground_only)
    return adjusted_rand_index_of(contingency(predicted, target), foreground_only)


def adjusted_rand_index_of(table: Tensor, foreground_only: bool = False) -> Tensor:
    """`adjusted_rand_index` of a ready `contingency` table, int64 [B, P, T]: float64 [B]."""
    table = _considered(table, foreground_only)
    pixels = table.sum((1, 2))
    together = table.square().sum((1, 2))  # pairs with themselves included; exact: at most pixels squared
    in_predicted = table.sum(2).square().sum(1)
    in_target = table.sum(1).square().sum(1)
    both = (together - pixels).double()
    only_predicted = (in_predicted - together).double()
    only_target = (in_target - together).double()
    neither = (pixels.square() - in_predicted - in_target + together).double()
    numerator = 2 * (both * neither - only_target * only_predicted)
    denominator = (both + only_target) * (only_target + neither) + (both + only_predicted) * (only_predicted + neither)
    same = (only_predicted == 0) & (only_target == 0)  # the only case in which the denominator can be 0
    return torch.where(same, 1.0, numerator / torch.where(same, 1.0, denominator))


def degenerate(target: Tensor, foreground_only: bool = False) -> Tensor:
    """Says which images have an ARI that can only be 0 or 1, because fewer than two true segments take part.

    Args:
        target: [B, H, W] or [B, N], any integer dtype, ids >= 0; 0 is the background.
        foreground_only: as for `adjusted_rand_index`: true where the image has no object or one.

    Returns:
        bool [B].

    Raises:
        ValueError: if `target` is not a label map.
        ConfigError: if `foreground_only` is not a bool.
    """
    check_flag("foreground_only", foreground_only)
    return degenerate_of(contingency(torch.zeros_like(target), target), foreground_only)


def degenerate_of(table: Tensor, foreground_only: bool = False) -> Tensor:
    """`degenerate` of a ready `contingency` table, int64 [B, P, T]: bool [B]."""
    return (_considered(table, foreground_only).sum(1) > 0).sum(1) < 2


def _considered(table: Tensor, foreground_only: bool) -> Tensor:
    return table[:, :, 1:] if foreground_only else table


def check_flag(name: str, flag: bool) -> None:
    """Raises a ConfigError that names the option unless `flag` is a bool."""
    if not isinstance(flag, bool):
        raise ConfigError(f"`{name}` must be True or False, not {flag!r}")
