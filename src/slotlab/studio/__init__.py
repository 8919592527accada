"""A page in the browser to see the objects that a model finds, edit them, and compose images."""

from slotlab.studio.app import build, running
from slotlab.studio.loaded_models import LoadedModel, bundled_models, open_models

__all__ = ["LoadedModel", "build", "bundled_models", "open_models", "running"]
