"""The models: encoders, slot attention, decoders, slot diffusion, video; what they return."""

from typing import cast

from slotlab.errors import CheckpointError
from slotlab.models.feature_autoencoder import FEATURE_DECODERS, FeatureAutoencoder
from slotlab.models.feature_grouping import FeatureGrouping
from slotlab.models.frozen_features import FrozenFeatures
from slotlab.models.latent_autoencoder import AutoencoderOutput, LatentAutoencoder
from slotlab.models.output import DiffusionOutput, FeatureOutput, SlotOutput, merge_slots
from slotlab.models.relative_frames import RelativeSlotAutoencoder
from slotlab.models.sampling import NoiseSchedule
from slotlab.models.slot_attention import SlotAttention
from slotlab.models.slot_autoencoder import DECODERS, SlotAutoencoder, SpatialBroadcastDecoder
from slotlab.models.slot_diffusion import SlotDiffusion, TextureEncoder
from slotlab.models.slot_encoder import ENCODERS, CNNEncoder, ResNetEncoder, SlotEncoder
from slotlab.models.unet import Denoiser
from slotlab.models.video import ClipModel, TrackedModel, VideoModel, boxes_of

PaintingModel = SlotAutoencoder | SlotDiffusion  # has a decoder: paints images from slots
FeatureModel = FeatureGrouping | FeatureAutoencoder  # of frozen features: cannot paint
SlotModel = PaintingModel | FeatureModel | ClipModel
TrainableModel = PaintingModel | LatentAutoencoder | FeatureAutoencoder | VideoModel
Model = SlotModel | LatentAutoencoder
KINDS: tuple[type[Model], ...] = (
    SlotAutoencoder,
    SlotDiffusion,
    LatentAutoencoder,
    FeatureGrouping,
    FeatureAutoencoder,
)
MODELS: dict[str, type[Model]] = {model.kind: model for model in KINDS}
MODELS[RelativeSlotAutoencoder.kind] = RelativeSlotAutoencoder  # experimental

__all__ = ["DECODERS", "ENCODERS", "FEATURE_DECODERS", "MODELS"]
__all__ += ["AutoencoderOutput", "CNNEncoder", "ClipModel", "Denoiser", "DiffusionOutput", "FeatureAutoencoder"]
__all__ += ["FeatureGrouping", "FeatureModel", "FeatureOutput", "FrozenFeatures", "LatentAutoencoder", "Model"]
__all__ += ["NoiseSchedule", "PaintingModel", "ResNetEncoder", "SlotAttention", "SlotAutoencoder", "SlotDiffusion"]
__all__ += ["SlotEncoder", "SlotModel", "SlotOutput", "SpatialBroadcastDecoder", "TrackedModel", "TrainableModel"]
__all__ += ["TextureEncoder", "VideoModel"]
__all__ += ["boxes_of", "merge_slots", "that_paints", "with_slots"]


def with_slots(model: Model, name: object = None) -> SlotModel:
    """`model`, if it has slots; else a CheckpointError that names it by `name`, if given."""
    if isinstance(model, LatentAutoencoder):
        named = "" if name is None else f"{name}: "
        remedy = "take a slot autoencoder, or the second stage's model"
        raise CheckpointError(f"{named}a {model.kind} has no slots; {remedy}")
    return model


def that_paints(model: Model, name: object = None) -> PaintingModel:
    """`model`, if it paints images from slots; else a CheckpointError, which begins with `name`."""
    model = with_slots(model, name)
    if isinstance(getattr(model, "image_model", model), FeatureModel):
        named = "" if name is None else f"{name}: "
        remedy = (
            "segment and show work with it; composing and editing need a model with a decoder, such as textured-128"
        )
        raise CheckpointError(f"{named}this model finds objects but cannot paint them; {remedy}")
    return cast(PaintingModel, model)  # or a video model, which paints images as its image model does
