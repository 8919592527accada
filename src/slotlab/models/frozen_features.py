"""Features of frozen networks: EfficientNet-Lite0, which needs no download, and those of timm."""

import hashlib
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slotlab.errors import CheckpointError, ConfigError
from slotlab.models.building import Positive, Resolution, configured, full_precision
from slotlab.models.efficientnet import open_efficientnet

LITE0, TIMM = "efficientnet-lite0", "timm:"
STRIDE, WIDTH = 32, 192  # of Lite0's features
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of colours


@configured("features")
class FrozenFeatures(nn.Module):
    """Features of a network that is not trained, and not part of a checkpoint.

    EfficientNet-Lite0 was trained with the labels of ImageNet (Tan and Le 2019, arXiv 1905.11946).
    Its weights come with a Python package, so nothing is downloaded. With timm and a torchvision
    made for the installed torch, any network of timm gives features: DINO, DINOv2, DINOv3, MAE,
    CLIP and others. What `fit` measures is part of a checkpoint, and so is a hash of the network's
    weights, which must be the same when the checkpoint is loaded.

    Args:
        resolution: side R of the square images.
        network: "efficientnet-lite0", or "timm:NAME" with a name that `timm.create_model` takes,
            which downloads weights, or the folder of a network that was saved by timm.
        weights: a file of safetensors with weights for the named network of timm, if they should
            not be downloaded.
        layer: block of a transformer or stage of a convolutional network, from 0; below 0 from the
            last. Lite0 always gives the sixth of its seven stages.
        norm: apply the network's last normalisation, where it has one.
        precision: "bf16" computes the features in bfloat16.
        standardise: give each channel mean 0 and deviation 1, over the images of `fit`.
        components: number of principal components to keep, scaled to a root mean square of 1.

    Attributes:
        grid: (h, w), the spatial shape of the N = h x w features of a square image.
        stride: pixels between features.
        channels: channels of the network's features.
        width: channels of `forward`.

    Raises:
        CheckpointError: the network or its weights are not installed, or cannot be read.
        ConfigError: `resolution` or `layer` does not suit the network.

    Example:
        >>> features = FrozenFeatures(64, components=8)
        >>> images = torch.rand(2, 3, 64, 64)
        >>> features.fit([features.raw(images)])
        >>> features(images).shape
        torch.Size([2, 4, 8])
    """

    sha256: Tensor
    colour_mean: Tensor
    colour_std: Tensor

    def __init__(
        self,
        resolution: Resolution,
        network: str = LITE0,
        weights: str | None = None,
        layer: int = -1,
        norm: bool = True,
        precision: Literal["fp32", "bf16"] = "fp32",
        standardise: bool = True,
        components: Positive | None = None,
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.precision = layer, norm, precision
        self.standardise = standardise
        self._kept = _Kept(_opened(network, weights, resolution))
        self.name, self.is_lite0 = network, network == LITE0
        if not self.is_lite0:
            channels, high, wide = self._outline(network, weights, resolution)
        elif resolution % STRIDE:
            raise ConfigError(f"resolution: {resolution} is not a multiple of {STRIDE}, the stride of {LITE0}")
        else:
            channels, high, wide = WIDTH, resolution // STRIDE, resolution // STRIDE
        self.grid, self.stride, self.channels = (high, wide), resolution // wide, channels
        self.width = components or channels
        colours: Any = ({} if self.is_lite0 else self.network.pretrained_cfg).get
        for name, usual in zip(("mean", "std"), IMAGENET, strict=True):
            values = torch.tensor(colours(name) or usual).view(3, 1, 1)
            self.register_buffer(f"colour_{name}", values, persistent=False)
        self.mean = nn.Parameter(torch.zeros(channels), requires_grad=False)
        self.deviation = nn.Parameter(torch.ones(channels), requires_grad=False)
        if components is not None:
            if components > channels:
                raise ConfigError(f"features.components: {components} of {channels} channels; keep at most {channels}")
            self.components = nn.Parameter(torch.eye(channels, components), requires_grad=False)
        if components is not None or not self.is_lite0:
            self.register_buffer("sha256", _sha256(self.network))

    @property
    def network(self) -> Any:
        """The frozen network, in evaluation mode."""
        return self._kept.network

    def train(self, mode: bool = True) -> "FrozenFeatures":
        """The network stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def raw(self, images: Tensor) -> Tensor:
        """The network's own features [B, N, channels] of images [B, 3, H, W] in [0, 1]."""
        half = self.precision == "bf16"
        with torch.autocast(images.device.type, torch.bfloat16) if half else full_precision(images):
            if self.is_lite0:
                maps = self.network.sixth_stage(255 * images)
            else:
                maps = self._maps(self.network, (images - self.colour_mean) / self.colour_std)
        return maps.float().flatten(2).transpose(1, 2)

    @torch.no_grad()
    def forward(self, images: Tensor, raw: Tensor | None = None) -> Tensor:
        """Features [B, N, width] of images [B, 3, H, W]; `raw(images)` is not computed if given."""
        features = self.raw(images) if raw is None else raw
        if self.standardise:
            features = (features - self.mean) / self.deviation
        return features if self.width == self.channels else features @ self.components

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Measures mean, deviation and principal components of raw features [B, N, channels]."""
        sums, products, count = torch.zeros(self.channels).double(), torch.zeros(1).double(), 0
        for batch in batches:
            values = batch.flatten(0, 1).double().cpu()
            sums, products, count = sums + values.sum(0), products + values.T @ values, count + len(values)
        mean = sums / count
        covariance = products / count - mean.outer(mean)
        deviation = covariance.diagonal().clamp(min=1e-12).sqrt()
        if self.standardise:
            self.mean.copy_(mean)
            self.deviation.copy_(deviation)
            covariance = covariance / deviation.outer(deviation)
        if self.width < self.channels:
            sizes, axes = (one.flip(-1)[..., : self.width] for one in torch.linalg.eigh(covariance))
            self.components.copy_(axes / sizes.mean().sqrt())

    def describe(self) -> str:
        """The network and its layer, for protocol lines."""
        if self.is_lite0:
            return f"{LITE0}, sixth stage"
        return f"{self.name}, {'last layer' if self.layer == -1 else f'layer {self.layer}'}"

    def fingerprint(self) -> str:
        """The same for two only if they make the same raw features."""
        facts = [_sha256(self.network).numpy().tobytes().hex(), str(self.layer), str(self.norm), self.precision]
        return "-".join(facts)

    def _maps(self, network: Any, images: Tensor) -> Tensor:
        """Features [B, C, h, w] of a network of timm."""
        options = {"norm": self.norm, "stop_early": True, "intermediates_only": True, "output_fmt": "NCHW"}
        return network.forward_intermediates(images, indices=[self.layer], **options)[0]

    def _outline(self, network: str, weights: str | None, resolution: int) -> tuple[int, int, int]:
        """Channels, height and width of the features, by a run without numbers."""
        with torch.device("meta"):
            outline = _opened(network, weights, resolution)
            try:
                _, channels, high, wide = self._maps(outline, torch.zeros(1, 3, resolution, resolution)).shape
                return channels, high, wide
            except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError) as error:
                reason = f"{network} gives no layer {self.layer} of {resolution}x{resolution} pixels ({error})"
                raise ConfigError(f"features: {reason}; take another layer or resolution") from None

    def _apply(self, fn: Any, recurse: bool = True) -> "FrozenFeatures":
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # type: ignore[override]
        saved = state_dict.get(f"{prefix}sha256")
        if saved is not None and not torch.equal(saved.cpu(), self.sha256.cpu()):
            raise CheckpointError(
                "the frozen network has other weights than the one that this model was trained with; "
                "install that version, or give its file as features.weights"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _Kept:
    """Holds a network outside of `state_dict`; copies of a model share it."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Kept":
        return self


def _sha256(network: nn.Module) -> Tensor:
    """SHA-256 of names and values of all weights, uint8 [32]; zeros for a network without numbers.

    `weights_hash` would not do: Lite0's weights are buffers outside of its `state_dict`.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted([*network.named_parameters(), *network.named_buffers()]):
        if tensor.is_meta:
            return torch.zeros(32, dtype=torch.uint8)
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _opened(network: str, weights: str | None, resolution: int) -> nn.Module:
    """The network; under `torch.device("meta")` without its weights."""
    if network == LITE0:
        if weights is not None:
            raise ConfigError(f"features.weights: {LITE0} brings its own; leave it out")
        return open_efficientnet()
    name = network.removeprefix(TIMM)
    if name == network:
        raise ConfigError(f"features.network: {network!r} is neither {LITE0} nor {TIMM}NAME")
    try:
        timm: Any = import_module("timm")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision made for another torch
        remedy = "pip install 'slotlab[timm]', and the torchvision that was made for this torch"
        raise CheckpointError(f"features.network: {network} needs timm ({error}); {remedy}") from None
    pretrained = weights is None and not torch.empty(0).is_meta
    if Path(name).is_dir():
        if not (Path(name) / "model.safetensors").is_file():
            raise CheckpointError(f"{name}: lacks model.safetensors; save the network with timm.models.save_for_hf")
        name = f"local-dir:{name}"
    if weights is not None and Path(weights).suffix != ".safetensors":
        raise CheckpointError(f"{weights}: not a file of safetensors, the only form of weights that is opened")
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    if weights is not None and not torch.empty(0).is_meta:
        options["checkpoint_path"] = weights
    sizes = {"img_size": resolution, "dynamic_img_size": True}  # of transformers; others take any size
    for size in (sizes, {"img_size": resolution}, {}):
        try:
            return timm.create_model(name, **options, **size)
        except TypeError as error:
            if not size or not any(key in str(error) for key in size):
                raise
        except Exception as error:  # unknown names, damaged files, no network: errors of several libraries
            reason = str(error).strip().partition("\n")[0]
            remedy = "check the name and the network, or give the folder of a network that timm saved"
            raise CheckpointError(f"features.network: {network}: cannot be opened ({reason}); {remedy}") from None
    raise AssertionError
