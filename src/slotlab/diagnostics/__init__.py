"""Signs that a model does not find objects: collapsed, dead or duplicate slots, tiling, a background in pieces."""

from slotlab.diagnostics.diagnose import diagnose
from slotlab.diagnostics.diagnosis import Diagnosis
from slotlab.diagnostics.gathering import SlotDiagnostics

__all__ = ["Diagnosis", "SlotDiagnostics", "diagnose"]
