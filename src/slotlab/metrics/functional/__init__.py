"""Metrics as pure functions: one value per image, float64 [B], on the device of the input.

Label maps are integer tensors [B, H, W] (or [B, N]). In the *true* map 0 is the background;
predicted ids only tell segments apart. The `..._of` functions take a `contingency` table, for
several metrics from one count.
"""

from slotlab.metrics.functional.reconstruction import peak_signal_to_noise_ratio, squared_error
from slotlab.metrics.functional.segmentation import (
    MEAN_IOU_DEFINITIONS,
    adjusted_rand_index,
    adjusted_rand_index_of,
    contingency,
    degenerate,
    degenerate_of,
    intersection_over_union_of,
    mean_best_overlap,
    mean_best_overlap_of,
    mean_iou,
    mean_iou_of,
)

__all__ = [
    "MEAN_IOU_DEFINITIONS",
    "adjusted_rand_index",
    "adjusted_rand_index_of",
    "contingency",
    "degenerate",
    "degenerate_of",
    "intersection_over_union_of",
    "mean_best_overlap",
    "mean_best_overlap_of",
    "mean_iou",
    "mean_iou_of",
    "peak_signal_to_noise_ratio",
    "squared_error",
]
