"""Experimental: slots with a pose, after invariant slot attention (Biza et al., arXiv 2302.04973).

A slot is [content, pose], so slots are [B, K, D + 4]; a pose is (x, y, width, height): the position
in [-1, 1] (left to right, top to bottom) and the standard deviation of the slot's attention along
each axis. Keys and values see coordinates relative to the pose, the pose follows the attention, and
the decoder paints relative to it.

The published code (google-research/invariant_slot_attention) differs:

- One MLP encodes the sum of key (or value) and place; here places pass a ReLU and a projection of
  their own for keys and another for values, and are added then.
- Attention is divided by its sum plus an epsilon; here the epsilon is added before, as in
  `SlotAttention`.
- An epsilon is added to the attention in the scale, too; here it is not.
- Scales are at least 0.001; here 0.02.
- The outermost cells of the grid are at -1 and 1; here cells are at their centres.
- One more round of attention gives the last poses; here they are those of the last iteration.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slotlab.errors import ConfigError
from slotlab.models.building import initialise
from slotlab.models.sampling import Generators, draw
from slotlab.models.slot_attention import SlotAttention
from slotlab.models.slot_autoencoder import BroadcastConvolution, SlotAutoencoder, SpatialBroadcastDecoder

POSE = 4
SMALLEST, LARGEST = 0.02, 2.0
REACH = 5.0


class RelativeFrame(nn.Module):
    """Embeds the cells of a grid as each slot sees them, relative to its position and scale."""

    grid: Tensor

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        rows, columns = ((torch.arange(count) + 0.5) / count * 2 - 1 for count in (height, width))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        self.register_buffer("grid", torch.stack([x, y], dim=-1).flatten(0, 1), persistent=False)
        self.embedding = nn.Linear(2, channels)

    def forward(self, poses: Tensor) -> Tensor:
        """Embedding of the grid relative to poses [B, K, 4]: [B, K, N, channels]."""
        position, scale = poses[:, :, None, :2], poses[:, :, None, 2:] * REACH
        across = (self.grid[: self.width, :1] - position[..., :1]) / scale[..., :1] * self.embedding.weight[:, 0]
        down = (self.grid[:: self.width, 1:] - position[..., 1:]) / scale[..., 1:] * self.embedding.weight[:, 1]
        return ((down + self.embedding.bias)[:, :, :, None] + across[:, :, None]).flatten(2, 3)

    def profiles(self) -> Tensor:
        """[3, 2, side] of a square grid: the embedding's three parts in each row and column."""
        ones, x, y = torch.ones(self.width), self.grid[: self.width, 0], self.grid[:: self.width, 1]
        return torch.stack([torch.stack([ones, ones]), torch.stack([ones, x]), torch.stack([y, ones])])

    def parts(self, poses: Tensor) -> Tensor:
        """The embedding as a constant and slopes in x and y, for poses [B, 4]: [B, 3, channels]."""
        slopes = self.embedding.weight.T / (poses[:, 2:, None] * REACH)
        constant = self.embedding.bias - (slopes * poses[:, :2, None]).sum(dim=1)
        return torch.cat([constant[:, None], slopes], dim=1)

    def pose_of(self, weights: Tensor) -> Tensor:
        """Poses [B, K, 4], mean and deviation of places, of weights [B, K, N] (sum to 1 over N)."""
        position = weights @ self.grid
        spread = weights @ self.grid.square() - position.square()
        scale = spread.clamp(min=SMALLEST**2).sqrt().clamp(max=LARGEST)
        return torch.cat([position, scale], dim=-1)


class RelativeSlotAttention(SlotAttention):
    """Slot attention over a grid (h, w) of features, whose slots [B, K, D + 4] end in a pose."""

    def __init__(self, grid: tuple[int, int], **settings: Any) -> None:
        super().__init__(**settings)
        width = self.to_query.out_features
        self.frame = RelativeFrame(*grid, width)
        self.place_to_key = nn.Linear(width, width, bias=False)
        self.place_to_value = nn.Linear(width, width, bias=False)

    def initial_slots(self, batch: int, generator: Generators = None) -> Tensor:
        """Starts with positions uniform in [-1, 1] and scales near 0.1 (Biza et al., app. A)."""
        slots = super().initial_slots(batch, generator)
        noise = draw(batch, (self.slots, POSE), generator).to(slots)
        position = torch.erf(noise[..., :2] / 2**0.5)
        scale = (0.1 + 0.1 * noise[..., 2:]).clamp(SMALLEST, LARGEST)
        return torch.cat([slots, position, scale], dim=-1)

    def iterate(
        self, slots: Tensor, keys: Tensor, values: Tensor, prior: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One iteration, with the relative places of the features in keys and values."""
        content, poses = slots[..., :-POSE], slots[..., -POSE:]
        queries = self.to_query(self.norm_slots(content)) * self.scale
        places = self.frame(poses).relu_()
        # queries . place_to_key(places), with the projection moved to the few queries
        placed = (places @ (queries @ self.place_to_key.weight)[..., None]).squeeze(-1)
        logits = queries @ keys.transpose(1, 2) + placed
        attention = torch.softmax(logits if prior is None else logits + prior, dim=1)
        weights = self.weights(attention)
        updates = weights @ values + self.place_to_value((weights[:, :, None] @ places).squeeze(2))
        return torch.cat([self.updated(content, updates), self.frame.pose_of(weights)], dim=-1), attention


class RelativeBroadcastDecoder(SpatialBroadcastDecoder):
    """Spatial broadcast decoder of slots [B, K, slot_dim + 4] that end in a pose."""

    def __init__(self, slot_dim: int, resolution: int, **settings: Any) -> None:
        super().__init__(slot_dim, resolution, **settings)
        self.slot_dim = slot_dim + POSE
        self.position = RelativeFrame(self.broadcast, self.broadcast, slot_dim)
        self.first = BroadcastConvolution(self._convolutions()[0], self.broadcast, self.position.profiles())

    def _vectors(self, slots: Tensor) -> Tensor:
        return self.position.parts(slots[:, -POSE:]) + F.pad(slots[:, None, :-POSE], (0, 0, 0, 2))

    def _map(self) -> Tensor:
        weight = self.position.embedding.weight
        return weight.new_zeros(1, len(weight), self.broadcast, self.broadcast)

    def _place(self, slots: Tensor) -> Tensor:
        cells = slots[:, None, :-POSE] + self.position(slots[None, :, -POSE:])[0]
        return cells.unflatten(1, (self.broadcast, self.broadcast)).permute(0, 3, 1, 2)


class RelativeSlotAutoencoder(SlotAutoencoder):
    """A `SlotAutoencoder` whose slots [B, K, D + 4] end in a pose that can be edited."""

    kind = "relative-slot-autoencoder"

    def __init__(
        self,
        resolution: int = 128,
        encoder: Mapping[str, Any] | None = None,
        slot_attention: Mapping[str, Any] | None = None,
        decoder: Mapping[str, Any] | None = None,
        pixel_sigma: float | None = None,
    ) -> None:
        super().__init__(resolution, encoder, slot_attention, decoder, pixel_sigma)
        settings = {key: value for key, value in self.config["decoder"].items() if key != "kind"}
        if self.config["decoder"]["kind"] != "broadcast" or "position" in settings:
            raise ConfigError(f"decoder: a {self.kind} has a broadcast decoder without a position; leave both out")
        width = self.encoder.slot_attention.to_key.in_features
        self.encoder.position = nn.Identity()
        arguments = self.config["slot_attention"]
        self.encoder.slot_attention = RelativeSlotAttention(self.encoder.grid, feature_dim=width, **arguments)
        self.decoder = RelativeBroadcastDecoder(self.encoder.slot_attention.dim, resolution, **settings)
        self.apply(initialise)

    def move(self, slot: Tensor, dx: float, dy: float) -> Tensor:
        """`slot` [D + 4] moved by fractions of the image's side; ConfigError if it leaves it."""
        place = slot[-POSE:-2] + 2 * slot.new_tensor([dx, dy])
        if not bool((place.abs() <= 1).all()):
            x, y = ((place + 1) / 2).tolist()
            raise ConfigError(f"move: the centre would be at ({x:.2f}, {y:.2f}) of the image's side, not in 0..1")
        return torch.cat([slot[:-POSE], place, slot[-2:]])

    def resize(self, slot: Tensor, factor: float) -> Tensor:
        """`slot` [D + 4] made `factor` times as large; ConfigError for a size out of range."""
        low, high = SMALLEST / float(slot[-2:].min()), LARGEST / float(slot[-2:].max())
        if not (factor == 1 or low <= factor <= high):
            raise ConfigError(f"resize: the factor must be from {low:.2f} to {high:.2f}, not {factor:g}")
        return torch.cat([slot[:-2], slot[-2:] * factor])


def without_frame(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config from before relative frames were a kind of their own, as it is written now."""
    slot_attention, decoder = dict(config.get("slot_attention") or {}), dict(config.get("decoder") or {})
    if slot_attention.pop("frame", "absolute") == "absolute":
        return {**config, **({"slot_attention": slot_attention} if config.get("slot_attention") else {})}
    if decoder.pop("position", None) != "relative":
        raise ConfigError("slot_attention.frame: relative needs decoder.position=relative; train the model again")
    return {**config, "kind": RelativeSlotAutoencoder.kind, "slot_attention": slot_attention, "decoder": decoder}
