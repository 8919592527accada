"""The denoiser of slot diffusion: a U-Net over latents that attends to slots at every timestep."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from slotlab.errors import ConfigError
from slotlab.models.building import Positive, Probability, check_slots, configured

Mode = Literal["down", "same", "up"]
KeysAndValues = tuple[Tensor, Tensor]  # [B, heads, K, head_dim] each
FEW_KEYS = 256  # up to here fused attention has a slower gradient than plain attention, in bfloat16 on CPUs
SlotContext = list[list[KeysAndValues]]  # for each transformer block, for each of its layers


def sinusoidal_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Cosines and sines of `timesteps` [B] at dim / 2 frequencies from 1 to 1e-4: float32 [B, dim].

    The position encoding of Vaswani et al. 2017 (arXiv 1706.03762, section 3.5).

    Example:
        >>> sinusoidal_embedding(torch.tensor([3]), 4)
        tensor([[-0.9900,  0.9996,  0.1411,  0.0300]])
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


class TimeResidualBlock(nn.Module):
    """norm, SiLU, conv; add Linear(SiLU(time)); norm, SiLU, dropout, conv; plus the shortcut.

    Mode "down" has 2x2 average pooling in place of the first convolution and mode "up" nearest
    interpolation; the shortcut is resampled alike. A shortcut between unequal widths is a 1x1
    convolution. The last convolution starts at zero, so a block begins as its shortcut (Dhariwal
    and Nichol 2021, arXiv 2105.05233).
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
        if self.convolution is not None:
            hidden = self.convolution(hidden)
        elif self.mode == "down":
            hidden, features = F.avg_pool2d(hidden, 2), F.avg_pool2d(features, 2)
        else:
            hidden, features = F.interpolate(hidden, scale_factor=2.0), F.interpolate(features, scale_factor=2.0)
        hidden = hidden + self.time(time)[:, :, None, None]
        hidden = self.out_convolution(self.dropout(F.silu(self.out_norm(hidden))))
        return self.shortcut(features) + hidden


class Resample(nn.Module):
    """Halves the sides by a 3x3 convolution of stride 2, or doubles them: nearest, convolution.

    Latent diffusion's way between levels (Rombach et al. 2022); the time is not used.
    """

    def __init__(self, width: int, mode: Mode) -> None:
        super().__init__()
        self.mode = mode
        self.convolution = nn.Conv2d(width, width, 3, 2 if mode == "down" else 1, padding=1)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """[B, width, h, w] to [B, width, h', w']."""
        return self.convolution(F.interpolate(features, scale_factor=2.0) if self.mode == "up" else features)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) of [B, N, width] to [B, M, context_dim]."""

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

    def forward(self, features: Tensor, keys_and_values: KeysAndValues, maps: list[Tensor] | None = None) -> Tensor:
        """[B, N, width] to the same; the softmax is over the M keys for each of the N queries.

        `maps` gets the attention, averaged over heads: float32 [B, M, N], sums to 1 over M.
        """
        queries, (keys, values) = self._split(self.to_query(features)), keys_and_values
        slow = keys.is_cpu and keys.dtype == torch.bfloat16 and torch.is_grad_enabled()
        if maps is not None or (slow and keys.shape[2] <= FEW_KEYS):
            shares = torch.softmax(queries * self.head_dim**-0.5 @ keys.transpose(-1, -2), dim=-1)
            attended = shares.to(values.dtype) @ values
            if maps is not None:
                maps.append(shares.float().mean(dim=1).transpose(1, 2))
        else:
            attended = F.scaled_dot_product_attention(queries, keys, values)
        return self.to_out(attended.transpose(1, 2).flatten(2))

    def _split(self, features: Tensor) -> Tensor:
        return features.unflatten(2, (-1, self.head_dim)).transpose(1, 2)


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention to the slots and feed-forward, each x + f(LayerNorm(x)).

    `gated` gives the feed-forward a GELU gate (GEGLU, Shazeer 2020, arXiv 2002.05202), as in latent
    diffusion.
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
        """[B, N, width] to the same; the cross-attention map [B, K, N] is appended to `maps`."""
        normed = self.self_norm(features)
        features = features + self.self_attention(normed, self.self_attention.keys_and_values(normed))
        normed = self.cross_norm(features)
        features = features + self.cross_attention(normed, slots, maps)
        hidden = self.expand(self.feed_forward_norm(features))
        if self.gated:
            hidden, gate = hidden.chunk(2, dim=-1)
            return features + self.contract(hidden * F.gelu(gate))
        return features + self.contract(F.gelu(hidden))


class TransformerBlock(nn.Module):
    """norm, 1x1 conv, flatten; `num_repeat` transformer layers; unflatten, 1x1 conv; plus input.

    The last convolution starts at zero, so a block begins as the identity.
    """

    def __init__(self, width: int, slot_dim: int, head_dim: int, num_repeat: int = 1, gated: bool = False) -> None:
        super().__init__()
        if width % head_dim:
            raise ConfigError(
                f"denoiser.head_dim: {head_dim} does not divide the {width} channels of a level that attends; "
                "choose channels and multipliers whose products are multiples of head_dim"
            )
        self.norm = group_norm(width)
        self.into = nn.Conv2d(width, width, 1)
        self.layers = nn.ModuleList(TransformerLayer(width, slot_dim, head_dim, gated) for _ in range(num_repeat))
        self.out = zero_initialised(nn.Conv2d(width, width, 1))

    def forward(self, features: Tensor, slots: list[KeysAndValues], maps: list[Tensor] | None = None) -> Tensor:
        """[B, width, h, w] to the same; `maps` gets each layer's cross-attention [B, K, h, w]."""
        size = features.shape[-2:]
        hidden = self.into(self.norm(features)).flatten(2).transpose(1, 2)
        found: list[Tensor] = []
        for layer, keys_and_values in zip(self.layers, slots, strict=True):
            hidden = layer(hidden, keys_and_values, None if maps is None else found)
        if maps is not None:
            maps.extend(one.unflatten(2, size) for one in found)
        return features + self.out(hidden.transpose(1, 2).unflatten(2, size))


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of at most 32 groups that divide `channels` (Wu and He 2018, arXiv 1803.08494)."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def zero_initialised(layer: nn.Conv2d) -> nn.Conv2d:
    """`layer` with weights and bias at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


@configured("denoiser")
class Denoiser(nn.Module):
    """Predicts the noise (or the schedule's other target) in latents, given timestep and slots.

    The U-Net of latent diffusion (Rombach et al. 2022, arXiv 2112.10752) as the report has it: each
    level has `blocks` residual blocks on the way down and `blocks + 1` on the way up, each followed
    by a transformer block if the level attends; residual blocks in mode "down" and "up" join the
    levels, or convolutions; the outputs of the way down are concatenated to the inputs of the way
    up. The defaults are the report's final parameters.

    Args:
        slot_dim: width D of a slot.
        latent_channels: channels of the latents.
        channels: width of the first level.
        multipliers: width of each level in units of `channels`.
        attention_levels: levels with transformer blocks, from 1 at full size; the middle has one.
        blocks: residual blocks per level on the way down.
        num_repeat: layers in each transformer block.
        head_dim: channels of an attention head.
        time_dim: width of the sinusoidal time embedding; even.
        time_mlp: Linear, SiLU, Linear of the embedding to width 4 x time_dim, as latent diffusion.
        gated: feed-forward layers with a GELU gate, as latent diffusion.
        resample: what joins the levels: "block", as the report, or "convolution", as latent
            diffusion.
        dropout: in the residual blocks.
        last_blocks: residual blocks at full size after the way up. A trained denoiser without them
            can be trained on with them (`start_from`), because a block begins as the identity.
        checkpointing: recompute blocks in the backward pass: less memory, about a third more time.
        painting_channels: channels of the latents of a painting, seen beside them; 0 is none.
        registers: learned vectors beside the slots, which take the attention of places that no slot
            explains (after CODA, Nguyen et al. 2026, arXiv 2601.01224, where they are embeddings of
            empty text).

    Raises:
        ConfigError: a number out of range, or widths that heads do not divide.
    """

    def __init__(
        self,
        slot_dim: Positive = 64,
        latent_channels: Positive = 3,
        channels: Positive = 64,
        multipliers: Annotated[Sequence[Positive], Field(min_length=1)] = (1, 2, 3, 4),
        attention_levels: Sequence[Positive] = (2, 3, 4),
        blocks: Positive = 2,
        num_repeat: Positive = 6,
        head_dim: Positive = 32,
        time_dim: Annotated[int, Field(ge=2, multiple_of=2)] = 128,
        time_mlp: bool = False,
        gated: bool = False,
        resample: Literal["block", "convolution"] = "block",
        dropout: Probability = 0.0,
        last_blocks: Annotated[int, Field(ge=0)] = 0,
        checkpointing: bool = False,
        painting_channels: Annotated[int, Field(ge=0)] = 0,
        registers: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__()
        if max(attention_levels, default=1) > len(multipliers):
            raise ConfigError(
                f"denoiser.attention_levels: must be from 1 to {len(multipliers)}, the number of multipliers, "
                f"not {list(attention_levels)}"
            )
        self.slot_dim = slot_dim
        self.latent_channels = latent_channels
        self.painting_channels = painting_channels
        self.registers = nn.Parameter(torch.randn(1, registers, slot_dim)) if registers else None
        self.time_dim = time_dim
        self.levels = len(multipliers)
        self.checkpointing = checkpointing
        embedding = 4 * time_dim if time_mlp else time_dim
        self.time_mlp: nn.Module = nn.Identity()
        if time_mlp:
            self.time_mlp = nn.Sequential(nn.Linear(time_dim, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        def stage(width: int, out: int, attends: bool = False, mode: Mode = "same") -> nn.ModuleList:
            if mode != "same" and resample == "convolution":
                return nn.ModuleList([Resample(out, mode), nn.Identity()])
            block = TimeResidualBlock(width, out, embedding, mode, dropout)
            attention = TransformerBlock(out, slot_dim, head_dim, num_repeat, gated) if attends else nn.Identity()
            return nn.ModuleList([block, attention])

        levels = [(level, channels * times, level in attention_levels) for level, times in enumerate(multipliers, 1)]
        self.conv_in = nn.Conv2d(latent_channels + painting_channels, channels, 3, padding=1)
        self.down = nn.ModuleList()
        width, skips = channels, [channels]
        for level, out, attends in levels:
            for _ in range(blocks):
                self.down.append(stage(width, out, attends))
                width = out
                skips.append(out)
            if level < self.levels:
                self.down.append(stage(out, out, mode="down"))
                skips.append(out)
        self.middle = nn.ModuleList([*stage(width, width, attends=True), stage(width, width)[0]])
        self.up = nn.ModuleList()
        for level, out, attends in reversed(levels):
            for _ in range(blocks + 1):
                self.up.append(stage(width + skips.pop(), out, attends))
                width = out
            if level > 1:
                self.up.append(stage(out, out, mode="up"))
        self.last = nn.ModuleList(
            TimeResidualBlock(width, width, embedding, dropout=dropout) for _ in range(last_blocks)
        )
        self.norm_out = group_norm(width)
        self.conv_out = zero_initialised(nn.Conv2d(width, latent_channels, 3, padding=1))

    def slot_context(self, slots: Tensor) -> SlotContext:
        """Keys and values of slots [B, K, slot_dim] for every cross-attention, at all timesteps."""
        check_slots(slots, self.slot_dim)
        if self.registers is not None:
            slots = torch.cat([slots, self.registers.to(slots).expand(len(slots), -1, -1)], dim=1)
        blocks = [block for block in self.modules() if isinstance(block, TransformerBlock)]
        return [[layer.cross_attention.keys_and_values(slots) for layer in cast(Any, block.layers)] for block in blocks]

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        slots: Tensor | SlotContext,
        maps: list[Tensor] | None = None,
        painting: Tensor | None = None,
    ) -> Tensor:
        """Predicts the target in noisy latents.

        Args:
            latents: [B, latent_channels, h, w]; the sides multiples of 2 ** (levels - 1).
            timesteps: [B], from 0 (little noise) to T - 1.
            slots: [B, K, slot_dim], or what `slot_context` made of them.
            maps: an empty list, which gets each layer's mean cross-attention over heads [B, K, h', w']
                (without what registers have of it).
            painting: [B, painting_channels, h, w], if the denoiser was made for one.

        Raises:
            ValueError: latents, slots or painting of another shape.
        """
        factor = 2 ** (self.levels - 1)
        if latents.ndim != 4 or latents.shape[1] != self.latent_channels or any(n % factor for n in latents.shape[2:]):
            raise ValueError(
                f"latents: expected [B, {self.latent_channels}, h, w] with sides that are multiples of {factor}, "
                f"got {list(latents.shape)}"
            )
        if painting is not None:
            latents = torch.cat([latents, painting], dim=1)
        if (given := latents.shape[1] - self.latent_channels) != self.painting_channels:
            raise ValueError(f"painting: expected {self.painting_channels} channels, got {given}")
        contexts = iter(self.slot_context(slots) if isinstance(slots, Tensor) else slots)
        time = F.silu(self.time_mlp(sinusoidal_embedding(timesteps, self.time_dim)))

        def run(block: nn.Module, *inputs: object) -> Tensor:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                return cast(Tensor, checkpoint(block, *inputs, use_reentrant=False))
            return block(*inputs)

        def apply(block: nn.Module, attention: nn.Module, features: Tensor) -> Tensor:
            features = run(block, features, time)
            attends = isinstance(attention, TransformerBlock)
            return run(attention, features, next(contexts), maps) if attends else features

        features = self.conv_in(latents)
        skips = [features]
        for block, attention in cast(Any, self.down):
            skips.append(features := apply(block, attention, features))
        features = run(self.middle[2], apply(self.middle[0], self.middle[1], features), time)
        for block, attention in cast(Any, self.up):
            if block.mode == "same":
                features = torch.cat([features, skips.pop()], dim=1)
            features = apply(block, attention, features)
        for block in self.last:
            features = run(block, features, time)
        if maps and self.registers is not None:
            of_slots = [one[:, : -self.registers.shape[1]] for one in maps]
            maps[:] = [one / one.sum(dim=1, keepdim=True).clamp(min=1e-12) for one in of_slots]
        return self.conv_out(F.silu(self.norm_out(features)))


def finest(maps: list[Tensor]) -> Tensor:
    """The mean [B, K, h', w'] of the largest `maps` of `Denoiser.forward`; sums to 1 over K."""
    height = max(one.shape[2] for one in maps)
    return torch.stack([one for one in maps if one.shape[2] == height]).mean(dim=0)
