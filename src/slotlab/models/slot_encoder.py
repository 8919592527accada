"""From pixels to slots: encoder, position embedding, LayerNorm, MLP and Slot Attention; shared by all decoders."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

from torch import Tensor, nn

from slotlab.errors import ConfigError
from slotlab.models.building import build, check_arguments, check_range
from slotlab.models.position import PositionEmbedding
from slotlab.models.randomness import Generators
from slotlab.models.slot_attention import SlotAttention


class CNNEncoder(nn.Module):
    """The classic stack of ReLU convolutions (Locatello et al. 2020, table 3: 4 x conv 5x5, 64 channels, stride 1).

    Args:
        channels: width of every layer.
        strides: stride of each layer; their number is the number of layers.
        kernel_size: side of every convolution, odd.
    """

    def __init__(self, channels: int = 64, strides: Sequence[int] = (1, 1, 1, 1), kernel_size: int = 5) -> None:
        super().__init__()
        check_range("encoder.channels", channels, 1)
        _check_strides(strides)
        check_kernel("encoder.kernel_size", kernel_size)
        self.out_channels = channels
        self.stride = prod(strides)
        layers: list[nn.Module] = []
        for number, stride in enumerate(strides):
            width = 3 if number == 0 else channels
            layers += [nn.Conv2d(width, channels, kernel_size, stride, kernel_size // 2), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, channels, H / stride, W / stride]."""
        return self.layers(images)


class ResNetEncoder(nn.Module):
    """Residual blocks with GroupNorm, no pooling head (He et al. 2016; Wu and He 2018 for the norm).

    Args:
        channels: width of each stage; the last is the width of the features.
        strides: stride of each stage's first block.
        blocks: residual blocks in each stage.
        stem_stride: stride of the 5x5 convolution before the stages.
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 64, 64),
        strides: Sequence[int] = (1, 2, 1),
        blocks: int = 2,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if len(channels) != len(strides):
            raise ConfigError(
                f"encoder.channels names {len(channels)} stages but encoder.strides {len(strides)}: give as many"
            )
        for width in channels:
            check_range("encoder.channels", width, 1)
        _check_strides([*strides, stem_stride])
        check_range("encoder.blocks", blocks, 1)
        self.out_channels = channels[-1]
        self.stride = prod(strides) * stem_stride
        self.stem = nn.Conv2d(3, channels[0], 5, stem_stride, 2)
        stages: list[nn.Module] = []
        width = channels[0]
        for out, stride in zip(channels, strides, strict=True):
            for number in range(blocks):
                stages.append(ResidualBlock(width, out, stride if number == 0 else 1))
                width = out
        self.stages = nn.Sequential(*stages)
        self.norm = group_norm(width)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, channels[-1], H / stride, W / stride]."""
        return self.norm(self.stages(self.stem(images))).relu_()


class ResidualBlock(nn.Module):
    """Pre-activation residual block: norm, ReLU, conv 3x3, norm, ReLU, conv 3x3, plus the shortcut."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            group_norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 3, stride, 1),
            group_norm(out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, 1, 1),
        )
        same = width == out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(width, out, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """[B, width, H, W] to [B, out, H / stride, W / stride]."""
        return self.body(features).add_(self.shortcut(features))


ENCODERS: dict[str, Callable[..., CNNEncoder | ResNetEncoder]] = {"cnn": CNNEncoder, "resnet": ResNetEncoder}


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of at most 8 groups that divide `channels`."""
    return nn.GroupNorm(gcd(8, channels), channels)


def check_kernel(key: str, size: int) -> None:
    """Raises ConfigError unless `size` is odd and positive, so that 'same' padding exists."""
    check_range(key, size, 1)
    if size % 2 == 0:
        raise ConfigError(f"{key}: must be odd, not {size}")


def _check_strides(strides: Sequence[int]) -> None:
    if not strides:
        raise ConfigError("encoder.strides: needs one stride per layer, e.g. [1, 2, 1, 1]")
    for stride in strides:
        check_range("encoder.strides", stride, 1, 4)


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
