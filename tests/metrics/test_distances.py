import math

import numpy as np
import pytest
import torch
from scipy import linalg

from slotlab.errors import DataError
from slotlab.metrics.distances import (
    FeatureSample,
    FeatureStatistics,
    chance_distance,
    frechet_distance,
    kernel_distance,
)


def features(seed, count, width=24):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + seed


def gathered(values, batch=7):
    statistics = FeatureStatistics(values.shape[1])
    for part in values.split(batch):
        statistics.add(part)
    return statistics


def distance(a, b):
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def clean_fid_formula(a, b):
    """clean-fid's formula: NumPy's mean and cov, SciPy's sqrtm of the product."""
    (mean_a, mean_b), (a, b) = (a.mean(0), b.mean(0)), (np.cov(a, rowvar=False), np.cov(b, rowvar=False))
    root = linalg.sqrtm(a @ b)
    return np.sum((mean_a - mean_b) ** 2) + np.trace(a) + np.trace(b) - 2 * np.trace(root).real


class TestFeatureStatistics:
    @pytest.mark.parametrize("batch", [1, 7, 100])
    def test_equals_numpy(self, batch):
        values = features(0, 60) + 1e4  # a mean far above the spread
        statistics = gathered(values, batch)
        np.testing.assert_allclose(statistics.mean, values.mean(0), rtol=1e-14)
        np.testing.assert_allclose(statistics.covariance, np.cov(values.numpy(), rowvar=False), rtol=1e-8, atol=1e-8)
        assert statistics.count == 60

    def test_float16_is_summed_in_float64(self):
        assert gathered(torch.full((4000, 3), 0.1, dtype=torch.float16)).covariance.abs().max() < 1e-20

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_not_finite(self, value):
        values = features(0, 10)
        values[8, 3] = value
        with pytest.raises(DataError, match="features of 1 images are NaN or infinite, first that of image 8"):
            gathered(values)


class TestFrechetDistance:
    @pytest.mark.parametrize(("counts", "tolerance"), [((200, 300), 1e-9), ((15, 20), 1e-6)])
    def test_equals_clean_fids_formula(self, counts, tolerance):
        a, b = features(0, counts[0]), features(1, counts[1])
        ours = distance(gathered(a), gathered(b))
        assert ours == pytest.approx(clean_fid_formula(a.numpy(), b.numpy()), rel=tolerance)

    @pytest.mark.parametrize("count", [10, 200])
    def test_identical_sets_are_at_zero(self, count):
        a = gathered(features(0, count))
        assert distance(a, a) == pytest.approx(0, abs=1e-10 * float(a.covariance.trace()))

    def test_closed_form_for_commuting_covariances(self):
        generator = torch.Generator().manual_seed(0)
        basis = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
        a, b = torch.rand(2, 8, generator=generator, dtype=torch.float64)
        a[0] = 0  # a singular covariance
        means = torch.randn(2, 8, generator=generator, dtype=torch.float64)
        expected = (means[0] - means[1]).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
        ours = frechet_distance(means[0], basis * a @ basis.T, means[1], basis * b @ basis.T)
        assert ours == pytest.approx(expected.item(), rel=1e-12)

    @pytest.mark.parametrize(("counts", "tolerance"), [((400, 200), 0.1), ((30, 30), 0.35)])
    def test_chance_distance_is_that_of_two_samples_of_one_distribution(self, counts, tolerance):
        generator = torch.Generator().manual_seed(0)
        spread = 1 / torch.arange(1, 41, dtype=torch.float64).sqrt()
        distances, expected = [], []
        for _ in range(20):
            samples = [torch.randn(count, 40, generator=generator, dtype=torch.float64) * spread for count in counts]
            a, b = (gathered(sample, 400) for sample in samples)
            distances.append(distance(a, b))
            expected.append(chance_distance((a.covariance + b.covariance) / 2, *counts))
        assert np.mean(expected) == pytest.approx(np.mean(distances), rel=tolerance)

    def test_chance_distance_of_a_singular_covariance(self):
        assert chance_distance(torch.zeros(3, 3), 5, 5) == 0
        assert chance_distance(torch.diag(torch.tensor([2.0, 0.0])), 10, 10) == pytest.approx((2 + 1) / 5)


def clean_fid_kernel(a, b):
    """KID over one subset that holds everything, after Binkowski et al., equation 4, with loops."""
    size = len(a)
    kernel = lambda x, y: (np.dot(x, y) / len(x) + 1) ** 3  # noqa: E731
    within = sum(kernel(x[i], x[j]) for x in (a, b) for i in range(size) for j in range(size) if i != j)
    across = sum(kernel(x, y) for x in a for y in b)
    return within / (size * (size - 1)) - 2 * across / size**2


class TestKernelDistance:
    def test_equals_the_definition(self):
        a, b = features(0, 12), features(1, 12)
        mean, deviation = kernel_distance(a, b)
        assert mean == pytest.approx(clean_fid_kernel(a.numpy(), b.numpy()), rel=1e-10)
        assert deviation == 0

    def test_subsets_agree_with_the_whole(self):
        a, b = features(0, 300) / 10, features(0, 600)[300:] / 10 + 0.3
        whole, _ = kernel_distance(a, b)
        mean, deviation = kernel_distance(a, b, subset_size=50)
        assert deviation > 0
        assert abs(mean - whole) < 4 * deviation / math.sqrt(100)
        assert kernel_distance(a, b, subset_size=50) == (mean, deviation)


class TestFeatureSample:
    def test_is_uniform_and_bounded(self):
        counts = torch.zeros(40)
        for seed in range(500):
            sample = FeatureSample(10, seed)
            for batch in torch.arange(40.0)[:, None].split(7):
                sample.add(batch)
                if sample.seen <= 10:  # all of a short stream
                    assert sample.features[:, 0].tolist() == list(range(sample.seen))
            assert sample.features.shape == (10, 1)
            counts[sample.features[:, 0].long()] += 1
        assert counts.sum() == 5000
        assert ((counts - 125).abs() < 5 * math.sqrt(125)).all()
