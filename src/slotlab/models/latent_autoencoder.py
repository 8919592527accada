"""The autoencoder whose latents slot diffusion denoises: one interface to those of `diffusers`."""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from slotlab.errors import ConfigError, nearest
from slotlab.models.building import Positive, Resolution, check_images, configured, full_precision, weights_hash
from slotlab.models.sampling import Generators, draw_normal

FAMILIES = {"kl": "AutoencoderKL", "vq": "VQModel", "tiny": "AutoencoderTiny"}
PerChannel = float | Sequence[float]


def fresh_network(
    family: str, channels: list[int], layers: int, latent_channels: int, codes: int, attention: bool
) -> dict[str, Any]:
    """Arguments of the `diffusers` class for an untrained autoencoder."""
    levels = len(channels)
    if family == "tiny":
        if len(set(channels)) > 1:
            raise ConfigError(f"autoencoder.channels: family 'tiny' has one width for all levels, not {channels}")
        return {
            "encoder_block_out_channels": channels,
            "decoder_block_out_channels": channels,
            "num_encoder_blocks": [1] + [layers] * (levels - 1),
            "num_decoder_blocks": [layers] * (levels - 1) + [1],
            "latent_channels": latent_channels,
        }
    return {
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": layers,
        "latent_channels": latent_channels,
        "norm_num_groups": math.gcd(32, *channels),
        "mid_block_add_attention": attention,
        "scaling_factor": 1.0,
        **({"num_vq_embeddings": codes} if family == "vq" else {}),
    }


def build_network(family: str, arguments: Mapping[str, Any]) -> Any:
    """The `diffusers` autoencoder of a family, untrained; ConfigError for an unknown key."""
    import diffusers

    made = getattr(diffusers, FAMILIES[family])
    known = inspect.signature(made).parameters
    for name in arguments:
        if name not in known:
            raise ConfigError(f"autoencoder.network: unknown key {name!r}{nearest(name, known)}")
    return made(**arguments)


def published_scaling(network: Mapping[str, Any]) -> dict[str, PerChannel]:
    """Scale and shift that a `diffusers` config states, as its pipelines apply them."""
    factor = network.get("scaling_factor")
    factor = 1.0 if factor is None else float(factor)
    mean, deviation = network.get("latents_mean"), network.get("latents_std")
    if mean is not None and deviation is not None:
        return {"scale": [factor / one for one in deviation], "shift": list(mean)}
    return {"scale": factor, "shift": float(network.get("shift_factor") or 0.0)}


@dataclass(eq=False)
class AutoencoderOutput:
    """What stage 1 trains on.

    Attributes:
        reconstruction: [B, 3, R, R], nominally in [0, 1] (not clamped).
        latents: [B, C, h, w] before scaling.
        regulariser: scalar; "kl": divergence of the posterior from a standard normal per pixel
            value; "vq": codebook and commitment loss (van den Oord et al. 2017, arXiv 1711.00937);
            "tiny": 0.
        titles: what tables and figures call `reconstruction`.
    """

    titles: ClassVar[dict[str, str]] = {"reconstruction": "reconstruction"}

    reconstruction: Tensor
    latents: Tensor
    regulariser: Tensor


torch.export.register_dataclass(AutoencoderOutput, serialized_type_name="slotlab.AutoencoderOutput")


@configured("autoencoder")
class LatentAutoencoder(nn.Module):
    """Images [B, 3, R, R] in [0, 1] to latents [B, C, R / f, R / f] of unit variance, and back.

    Wraps `AutoencoderKL`, `VQModel` or `AutoencoderTiny` of `diffusers`. Latents are deterministic:
    the mean of the KL posterior, or VQ latents before quantisation, which is part of decoding.
    `encode` gives (latents - shift) x scale, `decode` undoes it; weights and config hold both.

    Args:
        resolution: side R of the images.
        family: "kl", "vq" or "tiny".
        channels: width of each level; each after the first halves the sides, so three give f = 4.
        layers: residual blocks per level.
        latent_channels: channels C of the latents.
        codes: size of the codebook ("vq" only).
        attention: self-attention in the middle ("kl" and "vq").
        scale: what latents are multiplied by, one number or one per channel; by default that of
            `network`, else 1 until `measure_scaling`.
        shift: what is subtracted before, likewise; by default that of `network`, else 0.
        loss: reconstruction error of stage 1, "l1" or "mse", mean over values in [-1, 1].
        regulariser_weight: in stage 1; by default 1e-6 ("kl"), 1 ("vq"), 0 ("tiny").
        network: arguments of the `diffusers` class, as its `config.json` has them, in place of
            `channels`, `layers`, `latent_channels`, `codes` and `attention`.
        source: where pretrained weights came from, for the record.

    Raises:
        ConfigError: a value out of range, or settings that do not fit each other.

    Example:
        >>> autoencoder = LatentAutoencoder(resolution=16, family="tiny", channels=(8, 8, 8), layers=1)
        >>> autoencoder.encode(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 3, 4, 4])
    """

    kind = "latent-autoencoder"
    checks_values = True  # of images, in evaluation mode
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        resolution: Resolution = 128,
        family: Literal["kl", "vq", "tiny"] = "kl",
        channels: Annotated[Sequence[Positive], Field(min_length=1)] = (64, 128, 256),
        layers: Positive = 2,
        latent_channels: Positive = 3,
        codes: Annotated[int, Field(ge=2)] = 4096,
        attention: bool = False,
        scale: PerChannel | None = None,
        shift: PerChannel | None = None,
        loss: Literal["l1", "mse"] = "l1",
        regulariser_weight: float | None = None,
        network: Mapping[str, Any] | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__()
        self._arguments: dict[str, Any] = {"family": family, "loss": loss, "source": source}
        if network is None:
            fresh: dict[str, Any] = {"channels": list(channels), "layers": layers, "latent_channels": latent_channels}
            fresh |= {"codes": codes, "attention": attention}
            self._arguments |= fresh
            network = fresh_network(family, **fresh)
        else:
            self._arguments["network"] = network = dict(network)
        self.resolution = resolution
        self.family = family
        self.network = build_network(family, network)
        self.loss = loss
        if regulariser_weight is None:
            regulariser_weight = {"kl": 1e-6, "vq": 1.0, "tiny": 0.0}[family]
        self.regulariser_weight = regulariser_weight
        self.latent_channels = int(self.network.config["latent_channels"])
        widths = "encoder_block_out_channels" if family == "tiny" else "block_out_channels"
        self.downsampling = 2 ** (len(self.network.config[widths]) - 1)
        if resolution % self.downsampling:
            raise ConfigError(
                f"resolution: {resolution} is not a multiple of {self.downsampling}, the autoencoder's downsampling"
            )
        scaling = published_scaling(network)
        for key, value in (("scale", scale), ("shift", shift)):
            self.register_buffer(key, self._per_channel(key, scaling[key] if value is None else value))

    @property
    def config(self) -> dict[str, Any]:
        """Every constructor argument as JSON values, with the scaling as it is now."""
        return {
            "kind": self.kind,
            "resolution": self.resolution,
            **self._arguments,
            "regulariser_weight": self.regulariser_weight,
            "scale": self.scale.flatten().tolist(),
            "shift": self.shift.flatten().tolist(),
        }

    @property
    def latent_size(self) -> int:
        """Side of the latents."""
        return self.resolution // self.downsampling

    def encode(self, images: Tensor) -> Tensor:
        """Latents, float32 [B, C, h, w], of images [B, 3, R, R] in [0, 1]."""
        self._check(images)
        with full_precision(images):
            return (self._posterior(images.float())[0] - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Images, float32 [B, 3, R, R], nominally in [0, 1] (not clamped), of such latents."""
        with full_precision(latents):
            return self._decode(latents.float() / self.scale + self.shift)[0]

    def forward(self, images: Tensor, generator: Generators = None) -> AutoencoderOutput:
        """Reconstructs images [B, 3, R, R] in [0, 1]; "kl" samples its posterior in training."""
        self._check(images)
        latents, log_variance = self._posterior(images)
        used, divergence = latents, latents.new_zeros(())
        if log_variance is not None:
            divergence = (0.5 * (latents.square() + log_variance.exp() - 1 - log_variance)).sum() / images.numel()
            if self.training:
                used = latents + (0.5 * log_variance).exp() * draw_normal(latents, generator)
        reconstruction, commitment = self._decode(used)
        return AutoencoderOutput(reconstruction, latents, divergence if commitment is None else commitment)

    def losses(self, output: AutoencoderOutput, images: Tensor) -> Tensor:
        """Loss of each image, float32 [B]: error of values in [-1, 1] plus weighted regulariser."""
        error = F.l1_loss if self.loss == "l1" else F.mse_loss
        values = error(2 * output.reconstruction.float(), 2 * images.float(), reduction="none")
        return values.flatten(1).mean(dim=1) + self.regulariser_weight * output.regulariser.float()

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        shape = f"{self.latent_channels}x{self.latent_size}x{self.latent_size}"
        return {"autoencoder": self.family, "latent_shape": shape}

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that only autoencoders of equal weights and scaling share."""
        return weights_hash(self, forms=False)[:16]

    @torch.no_grad()
    def measure_scaling(self, batches: Iterable[Tensor]) -> None:
        """Sets shift and scale to mean and 1 / standard deviation of each channel over batches.

        Rombach et al. 2022 (appendix G) measure one standard deviation for all channels.

        Raises:
            ValueError: a channel that never varies.
        """
        latents = torch.cat([self._posterior(images)[0] for images in batches]).double()
        deviation, mean = torch.std_mean(latents, dim=(0, 2, 3), correction=0, keepdim=True)
        if not bool((deviation > 1e-6).all()):
            raise ValueError("latents: a channel is constant over these images; train the autoencoder longer")
        self.shift.copy_(mean)
        self.scale.copy_(1 / deviation)

    @torch.no_grad()
    def check_scaling(self, images: Tensor) -> None:
        """Raises ConfigError unless scaled latents of `images` have a root mean square in 1/3 .. 3.

        The noise schedule does not fit others, and a model trains without an error and badly.
        """
        size = float(self.encode(images).square().mean().sqrt())
        if not 1 / 3 <= size <= 3:
            raise ConfigError(
                f"autoencoder.scale: latents of these images have a root mean square of {size:.3g} after scaling, the "
                "noise schedule needs about 1; measure it (LatentAutoencoder.measure_scaling) and save the autoencoder"
            )

    def _check(self, images: Tensor) -> None:
        check_images(images, self.resolution, self.scale.dtype, values=self.checks_values and not self.training)

    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Unscaled latents and, for "kl", the logarithm of their variance."""
        encoded = self.network.encode(images * 2 - 1)
        if self.family == "kl":
            return encoded.latent_dist.mean, encoded.latent_dist.logvar
        return encoded.latents, None

    def _decode(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images and, for "vq", codebook plus commitment loss."""
        decoded = self.network.decode(latents)
        return (decoded.sample + 1) / 2, decoded.commit_loss if self.family == "vq" else None

    def _per_channel(self, key: str, value: PerChannel) -> Tensor:
        numbers = [value] if isinstance(value, int | float) else list(value)
        values = torch.tensor(numbers, dtype=torch.float32)
        if len(values) not in (1, self.latent_channels):
            known = f"{len(values)} numbers for {self.latent_channels} latent channels"
            raise ConfigError(f"autoencoder.{key}: {known}; give one, or one per channel")
        if not all(math.isfinite(one) and (key != "scale" or one > 0) for one in numbers):
            raise ConfigError(f"autoencoder.{key}: must be finite{' and positive' * (key == 'scale')}: {value!r}")
        return values.expand(self.latent_channels).reshape(1, -1, 1, 1).clone()
