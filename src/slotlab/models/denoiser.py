"""The denoiser of slot diffusion: a U-Net over latents that attends to slots at every timestep."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from slotlab.errors import ConfigError
from slotlab.models.components import check_range
from slotlab.models.denoiser_blocks import (
    ResidualBlock,
    SlotContext,
    TransformerBlock,
    group_norm,
    sinusoidal_embedding,
    zero_initialised,
)


class Denoiser(nn.Module):
    """Predicts the noise (or what the schedule's target is) in latents, given the timestep and the slots.

    The U-Net of latent diffusion (Rombach et al. 2022, arXiv 2112.10752) in the form of the report: each level has
    `blocks` residual blocks on the way down and `blocks + 1` on the way up, each followed by a transformer block where
    the level attends; residual blocks in mode "down" and "up" join the levels; every output of the way down is
    concatenated to the input of one residual block of the way up. The defaults are the report's finalized parameters.

    Args:
        slot_dim: width D of a slot.
        latent_channels: channels of the latents.
        channels: width C of the first level.
        multipliers: width of each level in units of `channels`; their number is the number of levels.
        attention_levels: levels with transformer blocks, counted from 1 at full size; the middle always has one.
        blocks: residual blocks per level on the way down.
        num_repeat: layers in each transformer block.
        head_dim: channels of an attention head.
        time_dim: width of the sinusoidal time embedding; even.
        time_mlp: transform the embedding by Linear, SiLU, Linear to width 4 x time_dim, as latent diffusion does;
            the report gives it to the blocks as it is.
        gated: feed-forward layers with a GELU gate, as latent diffusion has them.
        dropout: in the residual blocks.
        checkpointing: recompute each block in the backward pass instead of storing its activations (training only):
            less memory, about a third more time.

    Raises:
        ConfigError: a number out of range, or widths that heads do not divide.
    """

    def __init__(
        self,
        slot_dim: int = 64,
        latent_channels: int = 3,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        attention_levels: Sequence[int] = (2, 3, 4),
        blocks: int = 2,
        num_repeat: int = 6,
        head_dim: int = 32,
        time_dim: int = 128,
        time_mlp: bool = False,
        gated: bool = False,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check(slot_dim, latent_channels, channels, multipliers, attention_levels, blocks, num_repeat, head_dim)
        check_range("denoiser.time_dim", time_dim, 2)
        if time_dim % 2:
            raise ConfigError(f"denoiser.time_dim: must be even, half sines and half cosines, not {time_dim}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"denoiser.dropout: must be at least 0 and below 1, not {dropout!r}")
        self.slot_dim = slot_dim
        self.latent_channels = latent_channels
        self.time_dim = time_dim
        self.levels = len(multipliers)
        self.checkpointing = checkpointing
        embedding = 4 * time_dim if time_mlp else time_dim
        self.time_mlp = (
            nn.Sequential(nn.Linear(time_dim, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
            if time_mlp
            else nn.Identity()
        )

        def attention(level: int, width: int) -> nn.Module:
            attends = level in attention_levels
            return TransformerBlock(width, slot_dim, head_dim, num_repeat, gated) if attends else nn.Identity()

        widths = [channels * multiplier for multiplier in multipliers]
        self.conv_in = nn.Conv2d(latent_channels, channels, 3, padding=1)
        self.down = nn.ModuleList()
        width, skips = channels, [channels]
        for level, out in enumerate(widths, start=1):
            for _ in range(blocks):
                block = ResidualBlock(width, out, embedding, dropout=dropout)
                self.down.append(nn.ModuleList([block, attention(level, out)]))
                width = out
                skips.append(out)
            if level < self.levels:
                block = ResidualBlock(out, out, embedding, "down", dropout)
                self.down.append(nn.ModuleList([block, nn.Identity()]))
                skips.append(out)
        self.middle = nn.ModuleList(
            [
                ResidualBlock(width, width, embedding, dropout=dropout),
                TransformerBlock(width, slot_dim, head_dim, num_repeat, gated),
                ResidualBlock(width, width, embedding, dropout=dropout),
            ]
        )
        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths, start=1))):
            for _ in range(blocks + 1):
                block = ResidualBlock(width + skips.pop(), out, embedding, dropout=dropout)
                self.up.append(nn.ModuleList([block, attention(level, out)]))
                width = out
            if level > 1:
                block = ResidualBlock(out, out, embedding, "up", dropout)
                self.up.append(nn.ModuleList([block, nn.Identity()]))
        self.norm_out = group_norm(channels * multipliers[0])
        self.conv_out = zero_initialised(nn.Conv2d(channels * multipliers[0], latent_channels, 3, padding=1))

    def slot_context(self, slots: Tensor) -> SlotContext:
        """Keys and values of slots [B, K, slot_dim] for every cross-attention, to be used at every timestep.

        Raises:
            ValueError: slots of another shape.
        """
        if slots.ndim != 3 or slots.shape[2] != self.slot_dim:
            raise ValueError(
                f"slots: expected [B, K, {self.slot_dim}], got {list(slots.shape)}; take them from the encoder that "
                f"this denoiser was trained with, or set denoiser.slot_dim"
            )
        return SlotContext([block.slot_keys_and_values(slots) for block in self._transformers()], len(slots))

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        slots: Tensor | SlotContext,
        maps: dict[int, list[Tensor]] | None = None,
    ) -> Tensor:
        """Predicts the target in noisy latents.

        Args:
            latents: [B, latent_channels, h, w]; the sides multiples of 2 ** (levels - 1).
            timesteps: [B], from 0 (little noise) to T - 1.
            slots: [B, K, slot_dim], or what `slot_context` made of them.
            maps: where given, the cross-attention of each transformer layer, averaged over heads, [B, K, h', w'], is
                appended under its side h', in the order of computation.

        Returns:
            The prediction, of the shape of `latents`.

        Raises:
            ValueError: latents that cannot be halved often enough or of another width, slots of another width or
                number of images.
        """
        self._check_latents(latents)
        context = slots if isinstance(slots, SlotContext) else self.slot_context(slots)
        if context.batch != len(latents):
            raise ValueError(
                f"slots: of {context.batch} images, but there are {len(latents)} latents; give one set each"
            )
        time = F.silu(self.time_mlp(sinusoidal_embedding(timesteps, self.time_dim)))
        keys_and_values = iter(context.layers)

        def apply(block: nn.Module, attention: nn.Module, features: Tensor) -> Tensor:
            features = self._run(block, features, time)
            if not isinstance(attention, TransformerBlock):
                return features
            own = next(keys_and_values)
            if maps is None:
                return self._run(attention, features, own)
            found: list[Tensor] = []
            features = self._run(attention, features, own, found)
            side = features.shape[-2:]
            maps.setdefault(side[0], []).extend(one.unflatten(2, side) for one in found)
            return features

        features = self.conv_in(latents)
        skips = [features]
        for block, attention in _pairs(self.down):
            features = apply(block, attention, features)
            skips.append(features)
        features = apply(self.middle[0], self.middle[1], features)
        features = apply(self.middle[2], nn.Identity(), features)
        for block, attention in _pairs(self.up):
            if block.mode == "same":
                features = torch.cat([features, skips.pop()], dim=1)
            features = apply(block, attention, features)
        return self.conv_out(F.silu(self.norm_out(features)))

    def cross_attention_masks(
        self, latents: Tensor, timesteps: Tensor, slots: Tensor | SlotContext, side: int | None = None
    ) -> Tensor:
        """Where each slot is looked at: float32 [B, K, h', w'], sums to 1 over K.

        The softmax of a cross-attention is over the slots for each query, so every map sums to 1 over K as it is. The
        mask is the plain mean over all heads, layers and transformer blocks (way down, middle and way up) whose
        features have the height `side`.

        Args:
            latents: as in `forward`.
            timesteps: as in `forward`.
            slots: as in `forward`.
            side: height of the features; by default the largest that attends.

        Raises:
            ValueError: no transformer block has features of that height.
        """
        maps: dict[int, list[Tensor]] = {}
        self(latents, timesteps, slots, maps)
        if side is None:
            return finest(maps)
        if side not in maps:
            raise ValueError(f"side: no cross-attention at height {side}; there are {sorted(maps)}")
        return torch.stack(maps[side]).mean(dim=0)

    def _run(self, block: nn.Module, *inputs: object) -> Tensor:
        if self.checkpointing and self.training and torch.is_grad_enabled():
            result = checkpoint(block, *inputs, use_reentrant=False)
            assert isinstance(result, Tensor)
            return result
        return block(*inputs)

    def _transformers(self) -> list[TransformerBlock]:
        return [module for module in self.modules() if isinstance(module, TransformerBlock)]

    def _check_latents(self, latents: Tensor) -> None:
        if latents.ndim != 4 or latents.shape[1] != self.latent_channels:
            raise ValueError(
                f"latents: expected [B, {self.latent_channels}, h, w], got {list(latents.shape)}; "
                f"set denoiser.latent_channels to what the autoencoder gives"
            )
        check_halvings("latents", latents.shape[2], latents.shape[3], self.levels, ValueError)


def finest(maps: Mapping[int, Sequence[Tensor]]) -> Tensor:
    """The mean [B, K, h', w'] of the cross-attention maps of the largest height, of those of `Denoiser.forward`."""
    return torch.stack(list(maps[max(maps)])).mean(dim=0)


def check_halvings(
    key: str, height: int, width: int, levels: int, error: Callable[[str], Exception] = ConfigError
) -> None:
    """Raises `error` unless both sides can be halved levels - 1 times."""
    factor = 2 ** (levels - 1)
    if height % factor or width % factor or not height or not width:
        raise error(
            f"{key}: {height}x{width} cannot be halved {levels - 1} times, as {levels} levels need; take sides that "
            f"are multiples of {factor} (resize the images), or fewer denoiser.multipliers"
        )


def _pairs(stages: nn.ModuleList) -> list[tuple[ResidualBlock, nn.Module]]:
    return [(stage[0], stage[1]) for stage in stages if isinstance(stage, nn.ModuleList)]  # type: ignore[misc]


def _check(
    slot_dim: int,
    latent_channels: int,
    channels: int,
    multipliers: Sequence[int],
    attention_levels: Sequence[int],
    blocks: int,
    num_repeat: int,
    head_dim: int,
) -> None:
    numbers = {"slot_dim": slot_dim, "latent_channels": latent_channels, "channels": channels, "blocks": blocks}
    for key, value in {**numbers, "num_repeat": num_repeat, "head_dim": head_dim}.items():
        check_range(f"denoiser.{key}", value, 1)
    if not multipliers:
        raise ConfigError("denoiser.multipliers: needs one per level, e.g. [1, 2, 3, 4]")
    for multiplier in multipliers:
        check_range("denoiser.multipliers", multiplier, 1)
    for level in attention_levels:
        check_range("denoiser.attention_levels", level, 1, len(multipliers))
