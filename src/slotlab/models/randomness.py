"""Random numbers that depend on a key alone, so that batches, processes and interruptions do not change them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by the non-negative integers of `key`, e.g. (seed, step, place in the batch)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def draw(batch: int, shape: Sequence[int], generator: Generators) -> Tensor:
    """Standard normal numbers, float32 [batch, *shape] on the CPU.

    `generator` makes the draw repeatable: one CPU generator for the batch, or a list with one for each image, so that
    an image's numbers do not depend on the batch it is in.
    """
    if isinstance(generator, Sequence):
        return torch.stack([torch.randn(*shape, generator=one) for one in generator])
    return torch.randn(batch, *shape, generator=generator)
