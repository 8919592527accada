"""Concept libraries, compositions of their slots, and edits of single images."""

from slotlab.composition.compositions import PROTOCOLS, Plan, compose, compose_steps
from slotlab.composition.library import ConceptLibrary, fit_library, fit_library_steps, load_library
from slotlab.composition.scoring import CompositionScores, score_compositions, score_compositions_steps
from slotlab.composition.slots import SlotTable, extract, extract_steps
from slotlab.models.fingerprint import fingerprint

__all__ = [
    "PROTOCOLS",
    "CompositionScores",
    "ConceptLibrary",
    "Plan",
    "SlotTable",
    "compose",
    "compose_steps",
    "extract",
    "extract_steps",
    "fingerprint",
    "fit_library",
    "fit_library_steps",
    "load_library",
    "score_compositions",
    "score_compositions_steps",
]
