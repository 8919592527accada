"""Looking at models: figures of what slots hold, curves of a training, and a report of a run as one HTML file."""

from slotlab.reporting.curves import figure_image, loss_curves
from slotlab.reporting.figures import attention_grid, reconstruction_grid, segmentation_colours, slot_grid
from slotlab.reporting.previews import Pictures
from slotlab.reporting.report import write_report
from slotlab.reporting.section import Picture, Section, Table

__all__ = [
    "Picture",
    "Pictures",
    "Section",
    "Table",
    "attention_grid",
    "figure_image",
    "loss_curves",
    "reconstruction_grid",
    "segmentation_colours",
    "slot_grid",
    "write_report",
]
