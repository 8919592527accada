"""Concept libraries, compositions of their slots, and edits of single images."""

from slotlab.composition.compositions import PROTOCOLS, Plan, compose
from slotlab.composition.library import ConceptLibrary, fit_library, load_library
from slotlab.composition.scoring import CompositionScores, score_compositions
from slotlab.composition.slots import SlotTable, extract
from slotlab.models.building import fingerprint

__all__ = [
    "PROTOCOLS",
    "CompositionScores",
    "ConceptLibrary",
    "Plan",
    "SlotTable",
    "compose",
    "extract",
    "fingerprint",
    "fit_library",
    "load_library",
    "score_compositions",
]
