"""From pixels to slots: encoder, position embedding, LayerNorm, MLP and Slot Attention; shared by all decoders."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from slotlab.errors import ConfigError
from slotlab.models.components import build, check_arguments, check_range
from slotlab.models.encoders import ENCODERS
from slotlab.models.position import PositionEmbedding
from slotlab.models.randomness import Generators
from slotlab.models.slot_attention import SlotAttention


@dataclass(frozen=True)
class EncodedSlots:
    """Slots [B, K, D], attention [B, T, K, N], the (h, w) of the N features, and poses [B, K, 4] if slots have them."""

    slots: Tensor
    attention: Tensor
    attention_grid: tuple[int, int]
    poses: Tensor | None


class SlotEncoder(nn.Module):
    """Images [B, 3, R, R] in [0, 1] to slots.

    Args:
        resolution: side R of the images.
        encoder: `{"kind": "cnn" | "resnet", ...}` and that encoder's arguments.
        slot_attention: arguments of `SlotAttention`.

    Raises:
        ConfigError: an unknown key or kind, or a resolution that the encoder's strides do not divide.
    """

    def __init__(self, resolution: int, encoder: Mapping[str, Any], slot_attention: Mapping[str, Any]) -> None:
        super().__init__()
        check_range("resolution", resolution, 8, 4096)
        self.resolution = resolution
        self.backbone = build("encoder", ENCODERS, encoder)
        stride, width = self.backbone.stride, self.backbone.out_channels
        if resolution % stride:
            raise ConfigError(f"resolution: {resolution} is not a multiple of the encoder's total stride {stride}")
        side = resolution // stride
        self.grid = (side, side)
        relative = slot_attention.get("frame") == "relative"
        self.position = nn.Identity() if relative else PositionEmbedding(width, side, side)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        check_arguments("slot_attention", SlotAttention, slot_attention, reserved={"feature_dim", "grid"})
        self.slot_attention = SlotAttention(feature_dim=width, grid=self.grid, **slot_attention)

    def describe(self) -> dict[str, Any]:
        """Number of slots and iterations."""
        return {"slots": self.slot_attention.slots, "iterations": self.slot_attention.iterations}

    def forward(self, images: Tensor, generator: Generators = None) -> EncodedSlots:
        """Encodes images [B, 3, R, R] in [0, 1].

        Raises:
            ValueError: images of another shape than the model was made for.
        """
        if images.ndim != 4 or images.shape[1:] != (3, self.resolution, self.resolution):
            raise ValueError(
                f"images: expected [B, 3, {self.resolution}, {self.resolution}], got {list(images.shape)}; "
                f"resize them, or load a model of that resolution"
            )
        features = self.position(self.backbone(images * 2 - 1))
        features = self.mlp(features.flatten(2).transpose(1, 2))
        slots, attention, poses = self.slot_attention(features, generator)
        return EncodedSlots(slots, attention, self.grid, poses)


def mask_sources(masks: str) -> dict[str, str]:
    """How the masks that every model with slots has come about, each as a title, a comma, and the rest."""
    attention = "attention masks, slot attention of the last iteration, resized bilinearly, argmax"
    return {"masks": masks, "attention": attention}
