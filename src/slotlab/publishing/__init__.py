"""Releasing a trained model: rounded weights, scores, pictures, concept library and card, in a folder or on the hub."""

from slotlab.publishing.destinations import publish
from slotlab.publishing.folder import prepare

__all__ = ["prepare", "publish"]
