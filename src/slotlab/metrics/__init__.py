"""Metrics: `functional` holds the arithmetic, per image; the classes here hold the sums over a data set.

`slotlab.metrics.functional` needs torch and SciPy only; the classes are loaded when they are first asked for, because
torchmetrics takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slotlab.metrics.reconstruction import PeakSignalToNoiseRatio, ReconstructionError
    from slotlab.metrics.score import Score
    from slotlab.metrics.segmentation import AdjustedRandIndex, MeanBestOverlap, MeanIoU, SegmentationScores

__all__ = [
    "AdjustedRandIndex",
    "MeanBestOverlap",
    "MeanIoU",
    "PeakSignalToNoiseRatio",
    "ReconstructionError",
    "Score",
    "SegmentationScores",
]

_HOMES = {"PeakSignalToNoiseRatio": "reconstruction", "ReconstructionError": "reconstruction", "Score": "score"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'segmentation')}"), name)
