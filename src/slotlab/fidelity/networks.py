"""Feature nets under their names: only the published Inception may call its distance FID."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slotlab.checksum import sha256_of
from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.fidelity import efficientnet
from slotlab.fidelity.inception import find_inception, is_published

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
    path = efficientnet.find_weights()
    weights = torch.load(path, map_location=device, weights_only=True)
    network = efficientnet.EfficientNetLite0(weights).to(device).eval()

    def features(pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(pictures.to(device))

    return FeatureNet("efficientnet-lite0", efficientnet.SIDE, efficientnet.DIMENSION, sha256_of(path)[:12], features)


def _dimension(features: Callable[[Tensor], Tensor], side: int, path: Path) -> int:
    try:
        one = features(torch.zeros(1, 3, side, side))
    except (RuntimeError, TypeError, AttributeError) as error:  # AttributeError: not a tensor
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(f"{path}: its `layers` do not take [B, 3, {side}, {side}] ({reason})") from error
    if one.ndim != 2 or not one.is_floating_point():
        raise DataError(f"{path}: its `layers` give {tuple(one.shape)} {one.dtype}, not feature vectors")
    return one.shape[1]
