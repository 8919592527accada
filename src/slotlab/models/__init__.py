"""The models: encoders, Slot Attention, decoders, and what they return."""

from slotlab.models.autoencoder import SlotAutoencoder
from slotlab.models.broadcast_decoder import SpatialBroadcastDecoder
from slotlab.models.encoders import ENCODERS, CNNEncoder, ResNetEncoder
from slotlab.models.output import SlotOutput
from slotlab.models.slot_attention import SlotAttention
from slotlab.models.slot_encoder import SlotEncoder

MODELS = {SlotAutoencoder.kind: SlotAutoencoder}

__all__ = [
    "ENCODERS",
    "MODELS",
    "CNNEncoder",
    "ResNetEncoder",
    "SlotAttention",
    "SlotAutoencoder",
    "SlotEncoder",
    "SlotOutput",
    "SpatialBroadcastDecoder",
]
