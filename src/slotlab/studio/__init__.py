"""The studio: a page in the browser to see the objects that a model finds, edit them, and put them together anew."""

from slotlab.studio.app import build, running
from slotlab.studio.state import Loaded, open_models

__all__ = ["Loaded", "build", "open_models", "running"]
