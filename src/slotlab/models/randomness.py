"""Random numbers that depend on a key alone, not on batches, processes or interruptions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by non-negative integers, e.g. (seed, step, place in the batch)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def draw(
    batch: int, shape: Sequence[int], generator: Generators, distribution: Callable[..., Any] = torch.randn
) -> Tensor:
    """Random numbers [batch, *shape] on the CPU: standard normal, or of `torch.rand` or the like.

    `generator` makes the draw repeatable: one CPU generator for the batch, or a list with one for
    each image, so that an image's numbers do not depend on the batch it is in.
    """
    if isinstance(generator, Sequence):
        return torch.stack([distribution(tuple(shape), generator=one) for one in generator])
    chosen = {} if generator is None else {"generator": generator}  # a None cannot be exported
    return distribution((batch, *shape), **chosen)
