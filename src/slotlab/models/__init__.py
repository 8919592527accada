"""The models: encoders, slot attention, decoders, latent autoencoder, slot diffusion; outputs."""

from slotlab.errors import CheckpointError
from slotlab.models.broadcast_decoder import DECODERS, SpatialBroadcastDecoder
from slotlab.models.latent_autoencoder import AutoencoderOutput, LatentAutoencoder
from slotlab.models.output import DiffusionOutput, SlotOutput
from slotlab.models.relative_frames import RelativeSlotAutoencoder
from slotlab.models.sampling import NoiseSchedule
from slotlab.models.slot_attention import SlotAttention
from slotlab.models.slot_autoencoder import SlotAutoencoder
from slotlab.models.slot_diffusion import SlotDiffusion
from slotlab.models.slot_encoder import ENCODERS, CNNEncoder, ResNetEncoder, SlotEncoder
from slotlab.models.unet import Denoiser

SlotModel = SlotAutoencoder | SlotDiffusion
Model = SlotModel | LatentAutoencoder
MODELS: dict[str, type[Model]] = {model.kind: model for model in (SlotAutoencoder, SlotDiffusion, LatentAutoencoder)}
MODELS[RelativeSlotAutoencoder.kind] = RelativeSlotAutoencoder  # experimental

__all__ = [
    "DECODERS",
    "ENCODERS",
    "MODELS",
    "AutoencoderOutput",
    "CNNEncoder",
    "Denoiser",
    "DiffusionOutput",
    "LatentAutoencoder",
    "Model",
    "NoiseSchedule",
    "ResNetEncoder",
    "SlotAttention",
    "SlotAutoencoder",
    "SlotDiffusion",
    "SlotEncoder",
    "SlotModel",
    "SlotOutput",
    "SpatialBroadcastDecoder",
    "with_slots",
]


def with_slots(model: Model, name: object = None) -> SlotModel:
    """`model`, if it has slots; else a CheckpointError that names it by `name`, if given."""
    if isinstance(model, LatentAutoencoder):
        named = "" if name is None else f"{name}: "
        remedy = "take a slot autoencoder, or the second stage's model"
        raise CheckpointError(f"{named}a {model.kind} has no slots; {remedy}")
    return model
