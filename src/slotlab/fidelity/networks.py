"""Feature nets by name: only the published Inception may call its distance FID."""

import http.client
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slotlab.errors import CheckpointError, ConfigError
from slotlab.files import sha256_of
from slotlab.models.efficientnet import efficientnet_file, open_efficientnet

INCEPTION, INCEPTION_SIDE = "inception-2015-12-05", 299
FILE_NAME = f"{INCEPTION}.pt"
URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{FILE_NAME}"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"  # as in k-diffusion; 95,607,719 bytes
VARIABLE = "SLOTLAB_INCEPTION"


@dataclass(frozen=True)
class FeatureNet:
    """A network that turns images into feature vectors."""

    name: str  # names its distances; INCEPTION for the published Inception only
    side: int  # images are resized to side x side
    dimension: int  # of a feature vector, D
    fingerprint: str  # first 12 digits of the SHA-256 of the weights
    features: Callable[[Tensor], Tensor]  # float32 [B, 3, side, side] in [0, 255] to [B, D]


def open_network(
    features: str | Path = "inception", inception: str | Path | None = None, device: str = "cpu"
) -> FeatureNet:
    """Opens a feature net.

    Args:
        features: "inception"; "efficientnet-lite0"; or a TorchScript file with the interface of the
            published Inception (a submodule `layers` that maps [B, 3, 299, 299] in [-1, 1] to
            [B, D] or [B, D, 1, 1]).
        inception: the Inception file, if not $SLOTLAB_INCEPTION, the cached one or a download.
        device: where it runs.

    Raises:
        ConfigError: there is no such net.
        CheckpointError: its weights are missing, damaged or not of that interface.
    """
    name = str(features)
    if name == "inception":
        return _torchscript(find_inception(inception), device)
    if inception is not None:
        raise ConfigError(f"an Inception file was given, but the features are {name!r}: leave one of them out")
    if name == "efficientnet-lite0":
        return _efficientnet(device)
    if not Path(name).is_file():
        raise ConfigError(f"no feature net {name!r}: give inception, efficientnet-lite0 or a TorchScript file")
    return _torchscript(Path(name), device)


def cached_file() -> Path:
    """Where the downloaded Inception is kept: slotlab/ in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slotlab" / FILE_NAME


def find_inception(path: str | Path | None = None) -> Path:
    """The file of the published Inception: `path`, $SLOTLAB_INCEPTION, the cache, or a download.

    Raises:
        CheckpointError: a file is missing or is not the published one, or the download fails.
    """
    named, cached = path or os.environ.get(VARIABLE), cached_file()
    file = Path(named) if named else cached
    if file.is_file():
        if (found := sha256_of(file)) != SHA256:
            remedy = f"use it as features={str(file)!r}" if named else "delete it, so that it is downloaded again"
            wrong = f"is not the Inception network that FID is defined by (its SHA-256 is {found}, not {SHA256})"
            raise CheckpointError(f"{file} {wrong}: {remedy}")
        return file
    if named:
        raise CheckpointError(f"{file}: no such file ({'the given file' if path else f'${VARIABLE}'})")
    cached.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(URL, str(cached), hash_prefix=SHA256, progress=False)
    except (OSError, RuntimeError, http.client.HTTPException) as error:  # RuntimeError: another hash
        raise CheckpointError(
            f"the Inception network could not be downloaded ({error}). Fetch {URL} on a machine that can, and put it "
            f"at {cached}, or set {VARIABLE} to its path, or pass its path. Without it, "
            "features='efficientnet-lite0' gives FD-efficientnet-lite0, which is not FID"
        ) from error
    return cached


def _torchscript(path: Path, device: str) -> FeatureNet:
    try:
        with warnings.catch_warnings():  # TorchScript is deprecated, but it is what the network is published as
            warnings.simplefilter("ignore", DeprecationWarning)
            layers = torch.jit.load(str(path), map_location=device).eval().layers
        features = torch.inference_mode()(lambda images: layers((images.to(device) - 128) / 128).flatten(1))
        one = features(torch.zeros(1, 3, INCEPTION_SIDE, INCEPTION_SIDE))
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise CheckpointError(
            f"{path}: not a TorchScript file with a submodule `layers` for images [B, 3, {INCEPTION_SIDE}, "
            f"{INCEPTION_SIDE}] ({reason})"
        ) from error
    digest = sha256_of(path)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)
    if digest == SHA256 or name == INCEPTION:
        name = INCEPTION if digest == SHA256 else f"{INCEPTION}-other"  # a file of that name with other weights
    return FeatureNet(name, INCEPTION_SIDE, one.shape[1], digest[:12], features)


def _efficientnet(device: str) -> FeatureNet:
    network, fingerprint = open_efficientnet(), sha256_of(efficientnet_file())[:12]
    features = torch.inference_mode()(lambda images: network.to(device)(images.to(device)))
    return FeatureNet("efficientnet-lite0", 224, 1280, fingerprint, features)
