"""Slot Attention (Locatello et al. 2020, arXiv 2006.15055, algorithm 1), with proven options."""

from contextlib import nullcontext
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from slotlab.models.building import Positive, configured, full_precision
from slotlab.models.sampling import Generators, draw

LEAST = 1e-3  # of a membership, before its logarithm
Begin = tuple[Tensor, int]  # starts [B, K, D] and iterations in place of the module's: of a frame after another


@configured("slot_attention")
class SlotAttention(nn.Module):
    """Slots compete for features: softmax over slots, mean over features, GRU and residual MLP.

    Args:
        feature_dim: width of the features.
        slots: number of slots K.
        dim: width D of a slot.
        projection_dim: width of keys, values and queries.
        mlp_dim: hidden width of the residual MLP.
        iterations: number of iterations T.
        initialisation: "gaussian": slots are drawn from one learned Gaussian (the paper's);
            "learned": each slot has its own learned start, without randomness; "bi-level": the same
            with Gaussian noise of `noise` times the start in training (Jia et al. 2023, arXiv
            2210.08990, with gradient "last-iteration"); "groups": a learned map of the mean of each
            of the `groups` that `forward` takes, which models of frozen features find.
        epsilon: added to the attention before it is normalised over features.
        gradient: "full": through all iterations; "last-iteration": through the last one and
            straight through the others to the start (implicit differentiation, Chang et al. 2022,
            arXiv 2207.00787), which is cheaper.
        prior: weight of the logarithm of the groups among the logits of attention; 0: groups are
            starts only.

    Attributes:
        noise: relative size of the noise on bi-level starts in training; the trainer lowers it.

    Example:
        >>> module = SlotAttention(feature_dim=16, slots=4, dim=32)
        >>> slots, attention = module(torch.rand(2, 64, 16))
        >>> slots.shape, attention.shape
        (torch.Size([2, 4, 32]), torch.Size([2, 3, 4, 64]))
        >>> torch.allclose(attention.sum(dim=2), torch.ones(2, 3, 64))
        True
    """

    def __init__(
        self,
        feature_dim: int,
        slots: Annotated[int, Field(ge=1, le=256)] = 11,
        dim: Positive = 64,
        projection_dim: Positive = 64,
        mlp_dim: Positive = 128,
        iterations: Annotated[int, Field(ge=1, le=64)] = 3,
        initialisation: Literal["gaussian", "learned", "bi-level", "groups"] = "gaussian",
        epsilon: float = 1e-8,
        gradient: Literal["full", "last-iteration"] = "full",
        prior: Annotated[float, Field(ge=0)] = 4.0,
    ) -> None:
        super().__init__()
        self.slots = slots
        self.dim = dim
        self.iterations = iterations
        self.initialisation = initialisation
        self.epsilon = epsilon
        self.gradient, self.prior = gradient, prior
        self.noise = 0.0
        self.scale = projection_dim**-0.5

        starts = 1 if initialisation in ("gaussian", "groups") else slots
        self.start = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, starts, dim)))
        if initialisation == "gaussian":
            self.start_log_sigma = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, 1, dim)))
        if initialisation == "groups":
            self.to_start = nn.Linear(feature_dim, dim, bias=False)
        self.norm_features = nn.LayerNorm(feature_dim)
        self.norm_slots = nn.LayerNorm(dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.to_key = nn.Linear(feature_dim, projection_dim, bias=False)
        self.to_value = nn.Linear(feature_dim, projection_dim, bias=False)
        self.to_query = nn.Linear(dim, projection_dim, bias=False)
        self.gru = nn.GRUCell(projection_dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, dim))

    def initial_slots(self, batch: int, generator: Generators = None) -> Tensor:
        """Slots before the first iteration, [batch, K, D]; `generator`: see `draw`."""
        start = self.start.expand(batch, -1, -1)
        noisy = self.initialisation == "bi-level" and self.training and self.noise > 0
        if not noisy and self.initialisation != "gaussian":
            return start
        noise = draw(batch, (self.slots, self.dim), generator).to(start)
        return start + (self.noise * noise * start.detach() if noisy else self.start_log_sigma.exp() * noise)

    def forward(
        self,
        features: Tensor,
        generator: Generators = None,
        begin: Begin | None = None,
        groups: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Groups features [B, N, feature_dim] into slots [B, K, D].

        Also gives the attention of each iteration [B, T, K, N], a softmax over K. Both are float32,
        under autocast too. `begin` replaces the module's starts and iterations. `groups` [B, K, N],
        which sum to 1 over K, are for starts from "groups".
        """
        inputs = self.norm_features(features)
        keys, values = self.to_key(inputs), self.to_value(inputs)
        with full_precision(features):
            keys, values, more = keys.to(self.start.dtype), values.to(self.start.dtype), ()
            if groups is None:
                start, iterations = begin or (self.initial_slots(features.shape[0], generator), self.iterations)
            else:
                groups, iterations = groups.to(keys), self.iterations
                start = self.start + self.to_start(self.weights(groups) @ inputs.to(keys))
                more = (self.prior * (groups + LEAST).log(),)
            slots, maps = start, []
            for iteration in range(iterations):
                last, short = iteration == iterations - 1, self.gradient == "last-iteration"
                if short and last:
                    slots = slots.detach() + start - start.detach()
                skipped = short and not last and not torch.compiler.is_exporting()
                with torch.no_grad() if skipped else nullcontext():
                    slots, attention = self.iterate(slots, keys, values, *more)
                maps.append(attention)
        return slots, torch.stack(maps, dim=1)

    def iterate(
        self, slots: Tensor, keys: Tensor, values: Tensor, prior: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One iteration: the next slots [B, K, D] and the attention [B, K, N].

        `prior` [B, K, N] is added to the logits of the attention.
        """
        queries = self.to_query(self.norm_slots(slots)) * self.scale
        logits = queries @ keys.transpose(1, 2)
        attention = torch.softmax(logits if prior is None else logits + prior, dim=1)
        return self.updated(slots, self.weights(attention) @ values), attention

    def weights(self, attention: Tensor) -> Tensor:
        """Attention [B, K, N] normalised over N."""
        # in float16 the epsilon of 1e-8 is 0, and a slot that no pixel chooses would be 0 / 0
        weights = attention + max(self.epsilon, torch.finfo(attention.dtype).tiny)
        return weights / weights.sum(dim=2, keepdim=True)

    def updated(self, slots: Tensor, updates: Tensor) -> Tensor:
        """Slots [B, K, D] after the GRU and the MLP; `updates` are [B, K, projection_dim]."""
        slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
        return slots + self.mlp(self.norm_mlp(slots))
