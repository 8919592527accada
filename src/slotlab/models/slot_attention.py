"""Slot Attention (Locatello et al. 2020, arXiv 2006.15055, algorithm 1), with the field's proven options."""

from typing import Literal

import torch
from torch import Tensor, nn

from slotlab.errors import ConfigError, nearest
from slotlab.models.building import check_range
from slotlab.models.position import RelativeFrame, random_poses
from slotlab.models.randomness import Generators, draw

Initialisation = Literal["gaussian", "learned", "bi-level"]
Frame = Literal["absolute", "relative"]
INITIALISATIONS = ("gaussian", "learned", "bi-level")
Gradient = Literal["full", "last-iteration"]
GRADIENTS = ("full", "last-iteration")
FRAMES = ("absolute", "relative")


class SlotAttention(nn.Module):
    """Slots compete for features: softmax over slots, weighted mean over features, GRU and residual MLP.

    Args:
        feature_dim: width of the features.
        slots: number of slots K.
        dim: width D of a slot.
        projection_dim: width of keys, values and queries.
        mlp_dim: hidden width of the residual MLP.
        iterations: number of rounds T.
        initialisation: "gaussian", slots drawn from one learned Gaussian (the paper's); "learned", each slot has a
            learned start of its own, with no randomness (so slots are no longer exchangeable); "bi-level", the same
            with Gaussian noise of `noise` times the start while training, which is to be lowered to 0 (Jia et al.
            2023, arXiv 2210.08990, with gradient "last-iteration").
        epsilon: added to the attention before it is normalised over features.
        gradient: "full", through all iterations; "last-iteration", through the last one (implicit differentiation,
            Chang et al. 2022, arXiv 2207.00787) and straight through the others to the start, which is cheaper.
        frame: "absolute", or "relative": each slot has a pose, keys and values see coordinates relative to it, and the
            pose follows the attention (invariant slot attention, Biza et al. 2023); then `grid` is needed. Unlike the
            published code, keys and places are added after a projection of each, not passed through a layer together,
            and there is no further round for the poses alone: they are those of the last round's attention.
        grid: (h, w) of the features.

    Attributes:
        noise: relative size of the noise on bi-level starts in training mode; the trainer anneals it.

    Raises:
        ConfigError: a number out of range or an unknown initialisation.
    """

    def __init__(
        self,
        feature_dim: int,
        slots: int = 11,
        dim: int = 64,
        projection_dim: int = 64,
        mlp_dim: int = 128,
        iterations: int = 3,
        initialisation: Initialisation = "gaussian",
        epsilon: float = 1e-8,
        gradient: Gradient = "full",
        frame: Frame = "absolute",
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        check_range("slot_attention.slots", slots, 1, 256)
        check_range("slot_attention.iterations", iterations, 1, 64)
        for key, width in {"dim": dim, "projection_dim": projection_dim, "mlp_dim": mlp_dim}.items():
            check_range(f"slot_attention.{key}", width, 1)
        _check_choice("initialisation", initialisation, INITIALISATIONS)
        _check_choice("gradient", gradient, GRADIENTS)
        _check_choice("frame", frame, FRAMES)
        self.slots = slots
        self.dim = dim
        self.iterations = iterations
        self.initialisation = initialisation
        self.epsilon = epsilon
        self.gradient = gradient
        self.noise = 0.0
        self.scale = projection_dim**-0.5

        starts = 1 if initialisation == "gaussian" else slots
        self.start = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, starts, dim)))
        if initialisation == "gaussian":
            self.start_log_sigma = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, 1, dim)))
        self.norm_features = nn.LayerNorm(feature_dim)
        self.norm_slots = nn.LayerNorm(dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.to_key = nn.Linear(feature_dim, projection_dim, bias=False)
        self.to_value = nn.Linear(feature_dim, projection_dim, bias=False)
        self.to_query = nn.Linear(dim, projection_dim, bias=False)
        self.gru = nn.GRUCell(projection_dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, dim))
        self.frame = None
        if frame == "relative":
            if grid is None:
                raise ConfigError("slot_attention.grid: a relative frame needs the (h, w) of the features")
            self.frame = RelativeFrame(*grid, projection_dim)
            self.place_to_key = nn.Linear(projection_dim, projection_dim, bias=False)
            self.place_to_value = nn.Linear(projection_dim, projection_dim, bias=False)

    def initial_slots(self, batch: int, generator: Generators = None) -> Tensor:
        """Slots before the first iteration, [batch, K, D]; for `generator` see `slotlab.models.randomness.draw`."""
        start = self.start.expand(batch, -1, -1)
        if self.initialisation == "gaussian":
            noise = draw(batch, (self.slots, self.dim), generator)
            return start + self.start_log_sigma.exp() * noise.to(start)
        if self.initialisation == "bi-level" and self.training and self.noise > 0:
            noise = draw(batch, (self.slots, self.dim), generator)
            return start + self.noise * noise.to(start) * start.detach()
        return start

    def forward(self, features: Tensor, generator: Generators = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Groups features [B, N, feature_dim] into slots.

        Returns:
            Slots [B, K, D], the attention of each iteration [B, T, K, N] (softmax over K), and with a relative frame
            the slots' poses [B, K, 4]; all float32 whatever the autocast: softmax, weighted mean, GRU and MLP run in
            float32.
        """
        inputs = self.norm_features(features)
        keys, values = self.to_key(inputs), self.to_value(inputs)
        with torch.autocast(features.device.type, enabled=False):
            keys, values = keys.to(self.start.dtype), values.to(self.start.dtype)
            slots = self.initial_slots(len(features), generator)
            poses = random_poses(len(features), self.slots, generator, like=slots) if self.frame is not None else None
            maps = []
            start = slots
            for iteration in range(self.iterations):
                last = iteration == self.iterations - 1
                if self.gradient == "last-iteration" and last:
                    slots = slots.detach() + start - start.detach()
                with torch.set_grad_enabled(torch.is_grad_enabled() and (last or self.gradient == "full")):
                    slots, poses, attention = self._iterate(slots, poses, keys, values)
                maps.append(attention)
        return slots, torch.stack(maps, dim=1), poses

    def _iterate(
        self, slots: Tensor, poses: Tensor | None, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        queries = self.to_query(self.norm_slots(slots)) * self.scale
        logits = queries @ keys.transpose(1, 2)
        places = None
        if self.frame is not None and poses is not None:
            places = self.frame.rectified(poses)
            # queries . place_to_key(places), with the projection moved to the few queries
            logits = logits + (places @ (queries @ self.place_to_key.weight)[..., None]).squeeze(-1)
        attention = torch.softmax(logits, dim=1)
        weights = attention + self.epsilon
        weights = weights / weights.sum(dim=2, keepdim=True)
        updates = weights @ values
        if self.frame is not None and places is not None:
            updates = updates + self.place_to_value((weights[:, :, None] @ places).squeeze(2))
            poses = self.frame.pose_of(weights)
        slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
        return slots + self.mlp(self.norm_mlp(slots)), poses, attention


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"slot_attention.{key}: unknown {value!r}{nearest(str(value), list(choices))}")
