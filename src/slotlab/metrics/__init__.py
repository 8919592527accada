"""Metrics: `functional` computes them per image; the classes here average them over a data set.

`slotlab.metrics.functional` needs torch and SciPy only. The classes load when first used, because
torchmetrics takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slotlab.metrics.metrics import (
        AdjustedRandIndex,
        MeanBestOverlap,
        MeanIoU,
        PeakSignalToNoiseRatio,
        ReconstructionError,
        Score,
        SegmentationScores,
        VideoScores,
    )

__all__ = ["AdjustedRandIndex", "MeanBestOverlap", "MeanIoU", "PeakSignalToNoiseRatio", "ReconstructionError"]
__all__ += ["Score", "SegmentationScores", "VideoScores"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.metrics"), name)
