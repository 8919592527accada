"""Overlap of predicted and true masks: mean intersection over union (mIoU) and mean best overlap (mBO)."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from slotlab.errors import ConfigError
from slotlab.metrics.functional.adjusted_rand import check_flag
from slotlab.metrics.functional.table import contingency

MEAN_IOU_DEFINITIONS = ("clevrtex", "clevrtex-foreground", "ground-truth")


def mean_iou(predicted: Tensor, target: Tensor, definition: str = "clevrtex") -> Tensor:
    """Mean intersection over union of each image, after one-to-one (Hungarian) matching of the masks.

    Predicted and true masks, background included, are matched so that the sum S of the intersections over union
    (IoU) is largest. What S is divided by is what the literature does not agree on, so the definition has a name:

    - "clevrtex": by the number of pairs in which at least one mask is not empty: max(P, T) for P predicted and T true
      non-empty masks. Every slot that is used beyond the true number costs: 11 used slots and 7 true masks cannot
      exceed 7 / 11. The official number (`mIoU` of the CLEVRTex evaluator).
    - "clevrtex-foreground": S without the pair of the true background, by that number less one (`mIoU_fg`). NaN where
      the background is the only mask on both sides.
    - "ground-truth": by T. Used by SlotDiffusion and others (`mIoU_gt`); extra slots cost nothing.

    Args:
        predicted: [B, H, W] or [B, N], any integer dtype, ids >= 0 in any numbering.
        target: the same shape, any integer dtype; 0 is the background.
        definition: one of `MEAN_IOU_DEFINITIONS`.

    Returns:
        float64 [B], in [0, 1]; NaN by "clevrtex-foreground" for an image without a background, or of nothing else.

    Raises:
        ValueError: if the label maps are not fit to be compared (see `contingency`).
        ConfigError: if there is no such definition.

    Source: `CLEVRTEX_Evaluator` of Karazija et al., "ClevrTex", arXiv 2111.10265. Its count of pairs depends, where
    matched pairs tie at IoU 0, on the order in which its solver meets them; here left-over masks are always paired
    with each other, which is the smallest such count.
    """
    check_definition(definition)
    return mean_iou_of(contingency(predicted, target), definition)


def mean_iou_of(table: Tensor, definition: str = "clevrtex") -> Tensor:
    """`mean_iou` of a ready `contingency` table, int64 [B, P, T]: float64 [B]."""
    check_definition(definition)
    predicted_masks = (table.sum(2) > 0).sum(1)
    true_masks = (table.sum(1) > 0).sum(1)
    matched = _matched_iou(intersection_over_union_of(table))
    if definition == "ground-truth":
        return matched.sum(1) / true_masks
    pairs = torch.maximum(predicted_masks, true_masks)
    if definition == "clevrtex":
        return matched.sum(1) / pairs
    with_background = table[:, :, 0].sum(1) > 0
    return torch.where(with_background, matched[:, 1:].sum(1) / (pairs - 1), torch.nan)


def mean_best_overlap(predicted: Tensor, target: Tensor, background: bool = False) -> Tensor:
    """Mean best overlap (mBO) of each image: per true object the best IoU of any predicted mask, slots reused.

    Args:
        predicted: [B, H, W] or [B, N], any integer dtype, ids >= 0 in any numbering.
        target: the same shape, any integer dtype; 0 is the background.
        background: count the true background (id 0) as an object too, as the VVO family of code bases does.

    Returns:
        float64 [B], in [0, 1]; NaN for an image without a true object.

    Raises:
        ValueError: if the label maps are not fit to be compared (see `contingency`).
        ConfigError: if `background` is not a bool.

    Source: Pont-Tuset et al., "Multiscale Combinatorial Grouping", arXiv 1503.00848, section 5, as used by DINOSAUR,
    arXiv 2209.14860.
    """
    check_flag("background", background)
    return mean_best_overlap_of(contingency(predicted, target), background)


def mean_best_overlap_of(table: Tensor, background: bool = False) -> Tensor:
    """`mean_best_overlap` of a ready `contingency` table, int64 [B, P, T]: float64 [B], NaN without a true object."""
    best = intersection_over_union_of(table).amax(1)
    first = 0 if background else 1
    return best[:, first:].sum(1) / (table.sum(1)[:, first:] > 0).sum(1)


def intersection_over_union_of(table: Tensor) -> Tensor:
    """IoU of each predicted with each true mask from a `contingency` table: float64 [B, P, T], 0 for empty masks."""
    union = table.sum(2, keepdim=True) + table.sum(1, keepdim=True) - table
    return table / union.clamp(min=1).double()


def check_definition(definition: str) -> None:
    """Raises a ConfigError unless `definition` is one of `MEAN_IOU_DEFINITIONS`."""
    if definition not in MEAN_IOU_DEFINITIONS:
        names = ", ".join(MEAN_IOU_DEFINITIONS)
        raise ConfigError(f"mean IoU has no definition {definition!r}; it has {names}")


def _matched_iou(iou: Tensor) -> Tensor:
    """The IoU that each true mask gets in the best one-to-one matching: float64 [B, T], 0 for an unmatched one."""
    values = iou.cpu().numpy()
    matched = np.zeros((values.shape[0], values.shape[2]))
    for image, scores in enumerate(values):  # each at most slots x objects: microseconds
        rows, columns = linear_sum_assignment(scores, maximize=True)
        matched[image, columns] = scores[rows, columns]
    return torch.from_numpy(matched).to(iou.device)
