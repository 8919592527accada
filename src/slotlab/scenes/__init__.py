"""Labelled scenes from a seed, rendered by a ray caster in plain torch."""

from slotlab.scenes.layout import VARIANTS
from slotlab.scenes.rendering import SceneBatch, render

__all__ = ["VARIANTS", "SceneBatch", "render"]
