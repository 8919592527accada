"""The networks of `diffusers` that a latent autoencoder wraps: their arguments, and the scaling that these state."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from slotlab.errors import ConfigError, nearest
from slotlab.models.components import check_range

FAMILIES = {"kl": "AutoencoderKL", "vq": "VQModel", "tiny": "AutoencoderTiny"}
PerChannel = float | Sequence[float]


def fresh_network(
    family: str, channels: list[int], layers: int, latent_channels: int, codes: int, attention: bool
) -> dict[str, Any]:
    """Arguments of the `diffusers` class for an autoencoder made anew; ConfigError for a number out of range."""
    check_range("autoencoder.layers", layers, 1)
    check_range("autoencoder.latent_channels", latent_channels, 1)
    check_range("autoencoder.codes", codes, 2)
    if not channels:
        raise ConfigError("autoencoder.channels: needs one width per level, e.g. [64, 128, 256]")
    for width in channels:
        check_range("autoencoder.channels", width, 1)
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
    shared = {
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": layers,
        "latent_channels": latent_channels,
        "norm_num_groups": math.gcd(32, *channels),
        "mid_block_add_attention": attention,
        "scaling_factor": 1.0,
    }
    return {**shared, "num_vq_embeddings": codes} if family == "vq" else shared


def build_network(family: str, arguments: Mapping[str, Any]) -> Any:
    """The `diffusers` autoencoder of a family, with fresh weights; ConfigError for arguments that it does not have."""
    import diffusers

    made = getattr(diffusers, FAMILIES[family])
    known = [name for name in inspect.signature(made.__init__).parameters if name != "self"]
    for name in arguments:
        if name not in known:
            raise ConfigError(f"autoencoder.network: unknown key {name!r}{nearest(name, known)}")
    return made(**arguments)


def published_scaling(network: Mapping[str, Any]) -> tuple[PerChannel, PerChannel]:
    """Scale and shift that a `diffusers` config states, as its pipelines apply them."""
    factor = network.get("scaling_factor")
    factor = 1.0 if factor is None else float(factor)
    mean, deviation = network.get("latents_mean"), network.get("latents_std")
    if mean is not None and deviation is not None:
        return [factor / one for one in deviation], list(mean)
    return factor, float(network.get("shift_factor") or 0.0)
