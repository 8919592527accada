"""Frechet and kernel distance of two sets of features, and the statistics they need."""

import math

import torch
from torch import Tensor

from slotlab.errors import DataError

ROUNDING = 1e-12  # of a Frechet distance, as a fraction of the traces that it is the difference of


class FeatureStatistics:
    """Mean and covariance of a stream of feature vectors, in float64 and in constant memory.

    Batches are merged by the parallel form of Welford's update (Chan, Golub and LeVeque, 1979),
    which does not suffer from cancellation.

    Example:
        >>> statistics = FeatureStatistics(1)
        >>> statistics.add(torch.tensor([[1.0], [2.0]]))
        >>> statistics.add(torch.tensor([[3.0]]))
        >>> statistics.mean.item(), statistics.covariance.item()
        (2.0, 1.0)
    """

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dimension, dtype=torch.float64)
        self.scatter = torch.zeros(dimension, dimension, dtype=torch.float64)  # of deviations from the mean

    def add(self, features: Tensor) -> None:
        """Adds a batch of vectors, floating [B, D]; raises DataError if one is NaN or infinite."""
        broken = (~torch.isfinite(features)).any(1).nonzero()
        if len(broken):
            first = f"first that of image {self.count + int(broken[0])}: look at it and at the feature net's weights"
            raise DataError(f"features of {len(broken)} images are NaN or infinite, {first}")
        values = features.detach().to("cpu", torch.float64)
        mean = values.mean(0)
        total = self.count + len(values)
        shift = mean - self.mean
        # One pass over the scatter: the shift of the means is added as one more deviation.
        deviations = torch.cat([values - mean, shift[None] * math.sqrt(self.count * len(values) / total)])
        self.scatter.addmm_(deviations.T, deviations)
        self.mean += shift * (len(values) / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, float64 [D, D], of at least two vectors."""
        return self.scatter / (self.count - 1)


class FeatureSample:
    """A uniform random sample of at most `size` vectors of a stream (Vitter's algorithm R).

    Example:
        >>> sample = FeatureSample(2)
        >>> sample.add(torch.arange(5.0)[:, None])
        >>> sample.features.shape
        torch.Size([2, 1])
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.seen = size, 0
        self._generator = torch.Generator().manual_seed(seed)
        self._kept = torch.zeros(0, 0)

    def add(self, features: Tensor) -> None:
        """Adds a batch of vectors, floating [B, D]."""
        if not self.seen:  # one block: the system only gives the pages that are written to
            self._kept = torch.empty(self.size, features.shape[1])
        for vector in features.detach().to("cpu", torch.float32):
            place = self.seen
            if place >= self.size:
                place = int(torch.randint(self.seen + 1, (1,), generator=self._generator))
            if place < self.size:
                self._kept[place] = vector
            self.seen += 1

    @property
    def features(self) -> Tensor:
        """The sample so far, float32 [at most size, D]."""
        return self._kept[: self.seen].clone()


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians.

    |mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)) for covariances A = F^T F and B = G^T G.
    The last trace is the sum of the singular values of F G^T. It is not taken from eigenvalues of
    A B, as torchmetrics does: their roots turn rounding errors of 1e-16 into 1e-8, once for each of
    the many zero eigenvalues that fewer images than features leave. Means are [D], covariances
    [D, D] of any rank. A distance within rounding of 0 is 0.

    Source: Dowson and Landau, 1982; as a score of images: Heusel et al., arXiv 1706.08500, eq. 6.

    Example:
        >>> one = torch.ones(1)
        >>> round(frechet_distance(3 * one, 4 * one[None], one, 9 * one[None]), 6)
        5.0
    """
    mean_a, covariance_a, mean_b, covariance_b = (
        x.detach().to("cpu", torch.float64) for x in (mean_a, covariance_a, mean_b, covariance_b)
    )
    roots = torch.linalg.svdvals(_factor(covariance_a) @ _factor(covariance_b).T)
    spread = covariance_a.trace() + covariance_b.trace()
    distance = (mean_a - mean_b).square().sum() + spread - 2 * roots.sum()
    return float(distance) if distance > ROUNDING * spread else 0.0


def _factor(covariance: Tensor) -> Tensor:
    """F [rank, D] with F^T F = `covariance`; eigenvalues within rounding of 0 count as 0."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    kept = values > values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return values[kept].sqrt()[:, None] * vectors[:, kept].T


def chance_distance(covariance: Tensor, count_a: int, count_b: int) -> float:
    """The Frechet distance to expect of two samples of one Gaussian: the bias of a distance.

    (1/count_a + 1/count_b) (tr C + 1/2 sum_ij (1 + [i = j]) l_i l_j / (l_i + l_j)) for eigenvalues
    l of the covariance C: the variance of the means, and the second-order expansion of the distance
    of covariances (Bures metric) with the variance of a sample covariance (Wishart). In simulations
    within a fifth of the true bias if images are more than features, else up to a third too low.

    Example:
        >>> round(chance_distance(torch.eye(2), 100, 100), 3)
        0.07
    """
    values = torch.linalg.eigvalsh(covariance.detach().to("cpu", torch.float64)).clamp(min=0)
    sums = values[:, None] + values
    shares = torch.where(sums > 0, values[:, None] * values / sums.where(sums > 0, 1.0), 0.0)
    spread = values.sum() + (shares.sum() + shares.diagonal().sum()) / 2
    return float(spread) * (1 / count_a + 1 / count_b)


def kernel_distance(
    features_a: Tensor, features_b: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance (KID): the unbiased squared MMD with kernel (x . y / D + 1)^3, over subsets.

    Unlike the Frechet distance it has no bias from the number of images; it can be below 0. The
    features are floating [N, D] and [M, D] with N, M >= 2; subsets are drawn by `seed`.

    Returns:
        Mean and standard deviation over the subsets. If a subset holds all vectors of both sides,
        one is enough and the deviation is 0.

    Source: Binkowski et al., "Demystifying MMD GANs", arXiv 1801.01401, section 4; the subsets are
    drawn as clean-fid draws them.

    Example:
        >>> kernel_distance(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]]))
        (7.0, 0.0)
    """
    from torchmetrics.image.kid import poly_mmd  # torchmetrics takes seconds to import

    features_a, features_b = (x.detach().to("cpu", torch.float64) for x in (features_a, features_b))
    size = min(len(features_a), len(features_b), subset_size)
    if size == len(features_a) == len(features_b):
        subsets = 1
    generator = torch.Generator().manual_seed(seed)
    values = torch.zeros(subsets, dtype=torch.float64)
    for subset in range(subsets):
        some_a, some_b = (x[torch.randperm(len(x), generator=generator)[:size]] for x in (features_a, features_b))
        values[subset] = poly_mmd(some_a, some_b)
    return float(values.mean()), float(values.std(correction=0))
