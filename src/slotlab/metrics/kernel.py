"""Kernel distance (KID) of two sets of features, and the bounded sample of features that it needs."""

import torch
from torch import Tensor

from slotlab.errors import DataError


class FeatureSample:
    """A uniform random sample of at most `size` vectors of a stream: all of it while it is short.

    Args:
        size: most vectors kept.
        seed: of the choice; the same stream and seed give the same sample.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seen = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._kept = torch.zeros(0, 0)

    def add(self, features: Tensor) -> None:
        """Adds a batch of vectors, floating [B, D] on any device."""
        if not self.seen:  # one block, of which the system only gives what is written to
            self._kept = torch.empty(self.size, features.shape[1])
        for vector in features.detach().to("cpu", torch.float32):
            place = self.seen
            if place >= self.size:  # Vitter's algorithm R
                place = int(torch.randint(self.seen + 1, (1,), generator=self._generator))
            if place < self.size:
                self._kept[place] = vector
            self.seen += 1

    @property
    def features(self) -> Tensor:
        """The sample so far, float32 [at most size, D]."""
        return self._kept[: self.seen].clone()


def kernel_distance(
    features_a: Tensor, features_b: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance (KID): the unbiased squared MMD with kernel (x . y / D + 1)^3, averaged over random subsets.

    Unlike the Frechet distance it has no bias from the number of images; it can be slightly negative.

    Args:
        features_a: floating [N, D].
        features_b: floating [M, D].
        subsets: number of random subsets.
        subset_size: vectors of each side in a subset, at most min(N, M).
        seed: of the subsets.

    Returns:
        Mean and standard deviation over the subsets. Where the subsets hold all vectors of both sides, one is enough
        and the deviation is 0.

    Raises:
        ValueError: if the features do not have one width.
        DataError: below two vectors on a side, or NaN or infinite ones.

    Source: Binkowski et al., "Demystifying MMD GANs", arXiv 1801.01401, section 4; the subsets are clean-fid's.
    """
    if features_a.ndim != 2 or features_b.ndim != 2 or features_a.shape[1] != features_b.shape[1]:
        shapes = f"{tuple(features_a.shape)} and {tuple(features_b.shape)}"
        raise ValueError(f"features must be [N, D] and [M, D], not {shapes}")
    if min(len(features_a), len(features_b)) < 2:
        raise DataError("a kernel distance needs at least 2 images on each side")
    if not (torch.isfinite(features_a).all() and torch.isfinite(features_b).all()):
        raise DataError("features hold NaN or infinity: look at the images, and at the weights of the feature net")
    features_a, features_b = (x.detach().to("cpu", torch.float64) for x in (features_a, features_b))
    size = min(len(features_a), len(features_b), subset_size)
    if size == len(features_a) == len(features_b):
        subsets = 1
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        some_a, some_b = (x[torch.randperm(len(x), generator=generator)[:size]] for x in (features_a, features_b))
        within = _kernel(some_a, some_a) + _kernel(some_b, some_b)
        across = _kernel(some_a, some_b)
        value = (within.sum() - within.trace()) / (size * (size - 1)) - 2 * across.mean()
        values.append(value)
    spread = torch.stack(values)
    return float(spread.mean()), float(spread.std(correction=0))


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** 3
