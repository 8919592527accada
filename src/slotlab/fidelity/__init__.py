"""How close generated images are to real ones: Frechet (clean-FID) and kernel distance (KID)."""

from slotlab.fidelity.compare import FidelityWarning, FrechetResult, compare, compare_folders
from slotlab.fidelity.statistics import (
    FeatureNet,
    SetInformation,
    SetStatistics,
    batch_statistics,
    clean_resize,
    folder_statistics,
    open_network,
)

__all__ = ["FeatureNet", "FidelityWarning", "FrechetResult", "SetInformation", "SetStatistics", "batch_statistics"]
__all__ += ["clean_resize", "compare", "compare_folders", "folder_statistics", "open_network"]
