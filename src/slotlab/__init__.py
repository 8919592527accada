"""slotlab: learn to take pictures apart into objects (slots), without labels; measure it; look at it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from slotlab.checkpoints import create_model, list_models, load, save
    from slotlab.composition import load_library
    from slotlab.data import open_data
    from slotlab.evaluation import evaluate
    from slotlab.figures.slots import show
    from slotlab.publishing import publish
    from slotlab.runs import train
    from slotlab.scenes import render
    from slotlab.segmenting import segment, segment_image

# Names load when first used, so that `import slotlab` and `slotlab --help` do not wait for torch.
_HOMES = {
    "create_model": "slotlab.checkpoints",
    "evaluate": "slotlab.evaluation",
    "list_models": "slotlab.checkpoints",
    "load": "slotlab.checkpoints",
    "load_library": "slotlab.composition",
    "open_data": "slotlab.data",
    "publish": "slotlab.publishing",
    "render": "slotlab.scenes",
    "save": "slotlab.checkpoints",
    "segment": "slotlab.segmenting",
    "segment_image": "slotlab.segmenting",
    "show": "slotlab.figures.slots",
    "train": "slotlab.runs",
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
    "save",
    "segment",
    "segment_image",
    "show",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'slotlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
