"""Image encoders: pixels [B, 3, H, W] in [-1, 1] to features [B, C, h, w].

An encoder is an `nn.Module` with `out_channels` and `stride` (how many pixels a feature spans on a side). To add one,
write the class and name it in `ENCODERS`; every constructor argument becomes a config key.
"""

from collections.abc import Callable, Sequence
from math import gcd, prod

from torch import Tensor, nn

from slotlab.errors import ConfigError
from slotlab.models.components import check_range


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
