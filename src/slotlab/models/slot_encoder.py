"""From pixels to slots, for all decoders: encoder, position embedding, MLP and slot attention."""

from collections.abc import Callable, Mapping, Sequence
from math import gcd, prod
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from slotlab.errors import ConfigError
from slotlab.models.building import KernelSize, Positive, build, check_arguments, check_images, configured
from slotlab.models.sampling import Generators, SamplingSettings
from slotlab.models.slot_attention import Begin, SlotAttention
from slotlab.progress import finish

Stride = Annotated[int, Field(ge=1, le=4)]
Strides = Annotated[Sequence[Stride], Field(min_length=1)]


@configured("encoder")
class CNNEncoder(nn.Module):
    """The classic stack of ReLU convolutions.

    The defaults are those of Locatello et al. 2020, table 3: 4 x conv 5x5, 64 channels, stride 1.

    Args:
        channels: width of every layer.
        strides: stride of each layer; their number is the number of layers.
        kernel_size: side of every convolution, odd.

    Example:
        >>> import torch
        >>> CNNEncoder(channels=8, strides=(2, 1))(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(self, channels: Positive = 64, strides: Strides = (1, 1, 1, 1), kernel_size: KernelSize = 5) -> None:
        super().__init__()
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


@configured("encoder")
class ResNetEncoder(nn.Module):
    """Residual blocks with GroupNorm, no pooling head (He et al. 2016; norm: Wu and He 2018).

    Args:
        channels: width of each stage; the last is the width of the features.
        strides: stride of each stage's first block.
        blocks: residual blocks in each stage.
        stem_stride: stride of the convolution before the stages.
        stem_kernel: its side, odd.
        activation: norm and ReLU "before" each convolution, or "after", as in ResNet-18 (He et al.
            2015, arXiv 1512.03385), with convolutions without bias and up to 32 groups.
        mlp_dim: width of the MLP between the features and slot attention; by default theirs.
    """

    def __init__(
        self,
        channels: Sequence[Positive] = (64, 64, 64),
        strides: Strides = (1, 2, 1),
        blocks: Positive = 2,
        stem_stride: Stride = 1,
        stem_kernel: KernelSize = 5,
        activation: Literal["before", "after"] = "before",
        mlp_dim: Positive | None = None,
    ) -> None:
        super().__init__()
        if len(channels) != len(strides):
            raise ConfigError(
                f"encoder.channels has {len(channels)} stages but encoder.strides {len(strides)}: give as many"
            )
        self.out_channels = channels[-1]
        self.stride = prod(strides) * stem_stride
        self.after, self.mlp_dim = activation == "after", mlp_dim
        self.stem = nn.Conv2d(3, channels[0], stem_kernel, stem_stride, stem_kernel // 2, bias=not self.after)
        block = ResidualBlock if self.after else PlainResidualBlock
        stages: list[nn.Module] = []
        width = channels[0]
        for out, stride in zip(channels, strides, strict=True):
            for number in range(blocks):
                stages.append(block(width, out, stride if number == 0 else 1))
                width = out
        self.stages = nn.Sequential(*stages)
        self.norm = group_norm(channels[0], 32) if self.after else group_norm(width)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, channels[-1], H / stride, W / stride]."""
        if self.after:
            return self.stages(self.norm(self.stem(images)).relu_())
        return self.norm(self.stages(self.stem(images))).relu_()


class PlainResidualBlock(nn.Module):
    """norm, ReLU, conv 3x3, norm, ReLU, conv 3x3, plus the shortcut."""

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


class ResidualBlock(nn.Module):
    """conv 3x3, norm, ReLU, conv 3x3, norm, plus the shortcut, ReLU; no biases."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, out, 3, stride, 1, bias=False),
            group_norm(out, 32),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            group_norm(out, 32),
        )
        self.shortcut: nn.Module = nn.Identity()
        if width != out or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), group_norm(out, 32))

    def forward(self, features: Tensor) -> Tensor:
        """[B, width, H, W] to [B, out, H / stride, W / stride]."""
        return self.body(features).add_(self.shortcut(features)).relu_()


ENCODERS: dict[str, Callable[..., CNNEncoder | ResNetEncoder]] = {"cnn": CNNEncoder, "resnet": ResNetEncoder}


def group_norm(channels: int, most: int = 8) -> nn.GroupNorm:
    """GroupNorm of at most `most` groups that divide `channels`."""
    return nn.GroupNorm(gcd(most, channels), channels)


def direction_grid(height: int, width: int) -> Tensor:
    """Four gradients in [0, 1], float32 [4, height, width]: down, right, up, left.

    After Locatello et al. 2020, appendix E.

    Example:
        >>> direction_grid(1, 3)[1].tolist()
        [[0.0, 0.5, 1.0]]
    """
    down, right = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([down, right, 1 - down, 1 - right])


class PositionEmbedding(nn.Module):
    """Adds a learned linear map of the direction grid to features [B, C, H, W]."""

    grid: Tensor

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("grid", direction_grid(height, width)[None], persistent=False)
        self.projection = nn.Conv2d(4, channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        return features + self.map()

    def map(self) -> Tensor:
        """What is added, [1, C, H, W]."""
        return self.projection(self.grid)


class SlotEncoder(nn.Module):
    """Images [B, 3, R, R] in [0, 1] to slots: encoder, position embedding, MLP and slot attention.

    Attributes:
        grid: (h, w), the spatial shape of the N = h x w features that the slots attend to.
    """

    def __init__(self, resolution: int, encoder: Mapping[str, Any], slot_attention: Mapping[str, Any]) -> None:
        super().__init__()
        self.resolution = resolution
        self.backbone = build("encoder", ENCODERS, encoder)
        stride, width = self.backbone.stride, self.backbone.out_channels
        if resolution % stride:
            raise ConfigError(f"resolution: {resolution} is not a multiple of the encoder's total stride {stride}")
        side = resolution // stride
        self.grid = (side, side)
        self.position: nn.Module = PositionEmbedding(width, side, side)
        inner = getattr(self.backbone, "mlp_dim", None) or width
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, inner))
        check_arguments("slot_attention", SlotAttention, slot_attention, reserved={"feature_dim"})
        if slot_attention.get("initialisation") == "groups":
            raise ConfigError("slot_attention.initialisation: groups are of frozen features; take learned or gaussian")
        self.slot_attention = SlotAttention(feature_dim=inner, **slot_attention)

    def forward(
        self, images: Tensor, generator: Generators = None, begin: Begin | None = None
    ) -> tuple[Tensor, Tensor]:
        """Slots [B, K, D] and attention [B, T, K, N] of images [B, 3, R, R] in [0, 1]."""
        check_images(images, self.resolution, self.slot_attention.start.dtype, values=not self.training)
        features = self.position(self.backbone(images * 2 - 1))
        features = self.mlp(features.flatten(2).transpose(1, 2))
        return self.slot_attention(features, generator, begin)


class SlotModelBase(nn.Module):
    """What every model with slots has: an encoder, which gives their number and the resolution."""

    encoder: SlotEncoder

    @property
    def resolution(self) -> int:
        """Side of the images that the model takes."""
        return self.encoder.resolution

    @property
    def slots(self) -> int:
        """Number of slots K."""
        return self.encoder.slot_attention.slots

    @property
    def iterations(self) -> int:
        """Number of iterations T of slot attention."""
        return self.encoder.slot_attention.iterations

    def encode(self, images: Tensor, generator: Generators = None) -> Tensor:
        """Slots [B, K, D] of images [B, 3, R, R] in [0, 1]; `generator` fixes the initial slots."""
        return self.encoder(images, generator)[0]

    def attend(self, images: Tensor, generator: Generators = None) -> Tensor:
        """Slot attention of each iteration [B, T, K, N], sums to 1 over K; images: `encode`."""
        return self.encoder(images, generator)[1]

    def paint(
        self, slots: Tensor, generator: Generators = None, sampling: SamplingSettings | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [B, 3, R, R] in [0, 1] and masks [B, K, R, R] of any slots [B, K, D].

        Slot diffusion samples: `generator` decides the noise; `sampling` is by default its own.
        """
        return finish(cast(Any, self).paint_steps(slots, generator, sampling, previews=False))

    def described(self, masks: str, **more: str) -> dict[str, Any]:
        """Slots, iterations, and how each source of masks is made: a title, a comma, the rest."""
        attention = "attention masks, slot attention of the last iteration, resized bilinearly, argmax"
        return {
            "slots": self.slots,
            "iterations": self.iterations,
            "mask_sources": {"masks": masks, "attention": attention, **more},
        }
