"""Looking at models: figures of what slots hold, curves of a training, and a report of a run as one HTML file.

Loaded when they are first asked for: a command that prints a table does not wait for matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slotlab.figures.curves import figure_image, loss_curves
    from slotlab.figures.slots import attention_grid, reconstruction_grid, segmentation_colours, slot_grid
    from slotlab.reporting.previews import draw_curves, draw_preview
    from slotlab.reporting.report import write_report
    from slotlab.reporting.sections import Picture, Section, Table

__all__ = [
    "Picture",
    "Section",
    "Table",
    "attention_grid",
    "draw_curves",
    "draw_preview",
    "figure_image",
    "loss_curves",
    "reconstruction_grid",
    "segmentation_colours",
    "slot_grid",
    "write_report",
]

_HOMES = {
    "slotlab.figures.curves": ("figure_image", "loss_curves"),
    "slotlab.figures.slots": ("attention_grid", "reconstruction_grid", "segmentation_colours", "slot_grid"),
    "slotlab.reporting.previews": ("draw_curves", "draw_preview"),
    "slotlab.reporting.report": ("write_report",),
    "slotlab.reporting.sections": ("Picture", "Section", "Table"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
