"""The parts of the denoiser: time embedding, residual blocks in three modes, and transformer blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slotlab.errors import ConfigError

Mode = Literal["down", "same", "up"]
KeysAndValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class SlotContext:
    """What the denoiser needs of slots, computed once: it does not depend on the timestep.

    Attributes:
        layers: for each transformer block, for each of its repeats, keys and values [B, heads, K, head_dim].
        batch: number of images B.
    """

    layers: Sequence[Sequence[KeysAndValues]]
    batch: int


def sinusoidal_embedding(timesteps: Tensor, dim: int, longest: float = 10_000.0) -> Tensor:
    """Sines and cosines of `timesteps` [B] at dim / 2 frequencies from 1 to 1 / longest: float32 [B, dim].

    The position encoding of Vaswani et al. 2017 (arXiv 1706.03762, section 3.5), as Ho et al. 2020 use it for time.
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(longest) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


class ResidualBlock(nn.Module):
    """norm, SiLU, conv; add Linear(SiLU(time)); norm, SiLU, dropout, conv; plus the shortcut.

    The first convolution is there in mode "same" only: mode "down" has 2x2 average pooling in its place and mode "up"
    doubling by nearest interpolation, both without parameters; the shortcut is then resampled in the same way. A
    shortcut between unequal widths is a 1x1 convolution. The last convolution starts at zero, so that a block begins
    as its shortcut (Dhariwal and Nichol 2021, arXiv 2105.05233).

    Args:
        width: channels in.
        out: channels out; equal to `width` unless the mode is "same".
        time_dim: width of the time embedding.
        mode: "down" halves the sides, "up" doubles them.
        dropout: probability of dropping a feature before the last convolution.
    """

    def __init__(self, width: int, out: int, time_dim: int, mode: Mode = "same", dropout: float = 0.0) -> None:
        super().__init__()
        self.mode = mode
        self.norm = group_norm(width)
        self.convolution = nn.Conv2d(width, out, 3, padding=1) if mode == "same" else None
        self.time = nn.Linear(time_dim, out)
        self.out_norm = group_norm(out)
        self.dropout = nn.Dropout(dropout)
        self.out_convolution = zero_initialised(nn.Conv2d(out, out, 3, padding=1))
        self.shortcut = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """[B, width, h, w] and SiLU(time) [B, time_dim] to [B, out, h', w']."""
        hidden = F.silu(self.norm(features))
        if self.convolution is None:
            hidden, features = self._resample(hidden), self._resample(features)
        else:
            hidden = self.convolution(hidden)
        hidden = hidden + self.time(time)[:, :, None, None]
        hidden = self.out_convolution(self.dropout(F.silu(self.out_norm(hidden))))
        return self.shortcut(features) + hidden

    def _resample(self, features: Tensor) -> Tensor:
        if self.mode == "down":
            return F.avg_pool2d(features, 2)
        return F.interpolate(features, scale_factor=2.0, mode="nearest")


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) of queries from one set to keys and values from another.

    Args:
        width: width of the queries and of the output.
        context_dim: width of what keys and values are made of.
        head_dim: channels of a head; there are width / head_dim heads.
    """

    def __init__(self, width: int, context_dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_query = nn.Linear(width, width, bias=False)
        self.to_key = nn.Linear(context_dim, width, bias=False)
        self.to_value = nn.Linear(context_dim, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def keys_and_values(self, context: Tensor) -> KeysAndValues:
        """[B, M, context_dim] to keys and values [B, heads, M, head_dim]."""
        return self._split(self.to_key(context)), self._split(self.to_value(context))

    def forward(self, features: Tensor, keys_and_values: KeysAndValues) -> Tensor:
        """[B, N, width] to [B, N, width]; the softmax is over the M keys for each of the N queries."""
        attended = F.scaled_dot_product_attention(self._split(self.to_query(features)), *keys_and_values)
        return self.to_out(attended.transpose(1, 2).flatten(2))

    def maps(self, features: Tensor, keys: Tensor) -> Tensor:
        """The attention itself, averaged over heads: float32 [B, M, N], sums to 1 over M."""
        queries = self._split(self.to_query(features)).float()
        logits = queries @ keys.float().transpose(-1, -2) / math.sqrt(self.head_dim)
        return torch.softmax(logits, dim=-1).mean(dim=1).transpose(1, 2)

    def _split(self, features: Tensor) -> Tensor:
        return features.unflatten(2, (-1, self.head_dim)).transpose(1, 2)


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention to the slots and feed-forward, each x + f(LayerNorm(x)).

    Args:
        width: width of the features.
        slot_dim: width of a slot.
        head_dim: channels of a head.
        gated: feed-forward with a GELU gate (GEGLU, Shazeer 2020, arXiv 2002.05202; latent diffusion's) instead of
            plain GELU; the hidden width is 4 x width in both.
    """

    def __init__(self, width: int, slot_dim: int, head_dim: int, gated: bool = False) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, width, head_dim)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, slot_dim, head_dim)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.gated = gated
        self.expand = nn.Linear(width, 8 * width if gated else 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, features: Tensor, slots: KeysAndValues, maps: list[Tensor] | None = None) -> Tensor:
        """[B, N, width] to the same; the cross-attention map [B, K, N] is appended to `maps` where that is given."""
        normed = self.self_norm(features)
        features = features + self.self_attention(normed, self.self_attention.keys_and_values(normed))
        normed = self.cross_norm(features)
        if maps is not None:
            maps.append(self.cross_attention.maps(normed, slots[0]))
        features = features + self.cross_attention(normed, slots)
        hidden = self.expand(self.feed_forward_norm(features))
        if self.gated:
            hidden, gate = hidden.chunk(2, dim=-1)
            hidden = hidden * F.gelu(gate)
        else:
            hidden = F.gelu(hidden)
        return features + self.contract(hidden)


class TransformerBlock(nn.Module):
    """norm, 1x1 conv, flatten; `num_repeat` transformer layers; unflatten, 1x1 conv; plus the input.

    The last convolution starts at zero, so that a block begins as the identity.

    Args:
        width: channels of the features.
        slot_dim: width of a slot.
        head_dim: channels of a head; must divide `width`.
        num_repeat: number of transformer layers.
        gated: see `TransformerLayer`.
    """

    def __init__(self, width: int, slot_dim: int, head_dim: int, num_repeat: int = 1, gated: bool = False) -> None:
        super().__init__()
        if width % head_dim:
            raise ConfigError(
                f"denoiser.head_dim: {head_dim} does not divide the {width} channels of a level that attends; "
                f"choose channels and multipliers whose products are multiples of head_dim"
            )
        self.norm = group_norm(width)
        self.into = nn.Conv2d(width, width, 1)
        self.layers = nn.ModuleList(TransformerLayer(width, slot_dim, head_dim, gated) for _ in range(num_repeat))
        self.out = zero_initialised(nn.Conv2d(width, width, 1))

    def slot_keys_and_values(self, slots: Tensor) -> list[KeysAndValues]:
        """What each layer needs of slots [B, K, slot_dim]."""
        layers = (layer for layer in self.layers if isinstance(layer, TransformerLayer))
        return [layer.cross_attention.keys_and_values(slots) for layer in layers]

    def forward(self, features: Tensor, slots: Sequence[KeysAndValues], maps: list[Tensor] | None = None) -> Tensor:
        """[B, width, h, w] to the same; each layer's cross-attention [B, K, h * w] is appended to `maps`."""
        hidden = self.into(self.norm(features)).flatten(2).transpose(1, 2)
        for layer, keys_and_values in zip(self.layers, slots, strict=True):
            hidden = layer(hidden, keys_and_values, maps)
        return features + self.out(hidden.transpose(1, 2).unflatten(2, features.shape[-2:]))


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of at most 32 groups that divide `channels` (Wu and He 2018, arXiv 1803.08494)."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def zero_initialised(layer: nn.Conv2d) -> nn.Conv2d:
    """`layer` with weights and bias at zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
