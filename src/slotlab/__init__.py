"""slotlab: learn objects (slots) from unlabelled images, score them, edit them."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

# Threads that wait for each other give the core away after so many turns; libgomp's own default is
# 300,000, which slows a training beside busy processes. It counts only if set before torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "50000")

if TYPE_CHECKING:
    from slotlab.checkpoints import create_model, list_models, load, save
    from slotlab.composition import load_library
    from slotlab.data import open_data
    from slotlab.evaluation import evaluate
    from slotlab.figures.slots import show
    from slotlab.publishing import publish
    from slotlab.runs import train
    from slotlab.scenes import render, render_video
    from slotlab.segmenting import segment, segment_image

# Names load when first used, so that `import slotlab` and `slotlab --help` do not wait for torch.
_HOMES = {
    "slotlab.checkpoints": ("create_model", "list_models", "load", "save"),
    "slotlab.composition": ("load_library",),
    "slotlab.data": ("open_data",),
    "slotlab.evaluation": ("evaluate",),
    "slotlab.figures.slots": ("show",),
    "slotlab.publishing": ("publish",),
    "slotlab.runs": ("train",),
    "slotlab.scenes": ("render", "render_video"),
    "slotlab.segmenting": ("segment", "segment_image"),
}

__all__ = [
    "create_model",
    "evaluate",
    "list_models",
    "load",
    "load_library",
    "open_data",
    "publish",
    "render",
    "render_video",
    "save",
    "segment",
    "segment_image",
    "show",
    "train",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'slotlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
