"""Objects put together anew: the concept library, recomposition, and edits of single scenes."""

from slotlab.composition.extraction import extract
from slotlab.composition.fingerprint import fingerprint
from slotlab.composition.library import ConceptLibrary, fit_library, load_library
from slotlab.composition.plans import PROTOCOLS, Plan
from slotlab.composition.recompose import compose
from slotlab.composition.scoring import CompositionScores, score_compositions
from slotlab.composition.slot_table import SlotTable

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
