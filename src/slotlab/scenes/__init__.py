"""Labelled scenes from a seed, rendered by a ray caster in plain torch: an endless data set that needs no files."""

from slotlab.scenes.rendering import SceneBatch, render
from slotlab.scenes.variants import VARIANTS

__all__ = ["VARIANTS", "SceneBatch", "render"]
