"""Labelled scenes and clips from a seed, rendered by a ray caster in plain torch."""

from slotlab.scenes.layout import VARIANTS
from slotlab.scenes.motion import VideoBatch, render_video, render_videos
from slotlab.scenes.rendering import SceneBatch, render

__all__ = ["VARIANTS", "SceneBatch", "VideoBatch", "render", "render_video", "render_videos"]
