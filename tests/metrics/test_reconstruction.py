import math

import pytest
import torch

from slotlab.errors import ConfigError
from slotlab.metrics import PeakSignalToNoiseRatio, ReconstructionError
from slotlab.metrics.functional import peak_signal_to_noise_ratio, squared_error


def pictures(seed=0, images=5):
    return torch.rand(2, images, 3, 8, 6, generator=torch.Generator().manual_seed(seed))


def test_squared_error_by_hand():
    image = torch.zeros(2, 3, 4, 4)
    reconstruction = image.clone()
    reconstruction[1] += 0.5
    assert squared_error(reconstruction, image).tolist() == [0, 48 / 4]
    assert squared_error(reconstruction, image, "mean").tolist() == [0, 0.25]


def test_squared_error_is_float64_and_equals_torch():
    reconstruction, image = pictures()
    ours = squared_error(reconstruction, image, "mean")
    assert ours.dtype == torch.float64
    loss = torch.nn.functional.mse_loss(reconstruction, image, reduction="none").mean((1, 2, 3))
    torch.testing.assert_close(ours.float(), loss)
    torch.testing.assert_close(squared_error(reconstruction, image), ours * 3 * 8 * 6)


def test_psnr_by_hand():
    image = torch.zeros(1, 3, 4, 4)
    assert peak_signal_to_noise_ratio(image + 0.1, image).item() == pytest.approx(20, abs=1e-5)
    assert peak_signal_to_noise_ratio(image, image).item() == math.inf


def test_bfloat16_is_taken():
    reconstruction, image = pictures()
    assert squared_error(reconstruction.bfloat16(), image).isfinite().all()


@pytest.mark.parametrize(
    ("reconstruction", "image", "message"),
    [
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4), "`reconstruction` must be floating"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"`image` must be floating in \[0, 1\]"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8), r"must both be \[B, C, H, W\]"),
        (torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), r"must both be \[B, C, H, W\]"),
    ],
)
def test_bad_input(reconstruction, image, message):
    with pytest.raises(ValueError, match=message):
        squared_error(reconstruction, image)


@pytest.mark.parametrize("call", [lambda: squared_error(*pictures(), "max"), lambda: ReconstructionError("max")])
def test_unknown_reduction(call):
    with pytest.raises(ConfigError, match="`reduction` must be 'sum' or 'mean', not 'max'"):
        call()


def test_classes_average_over_batches():
    reconstruction, image = pictures()
    metric = ReconstructionError("mean")
    for part in (slice(0, 2), slice(2, 5)):
        metric.update(reconstruction[part], image[part])
    values = squared_error(reconstruction, image, "mean")
    score = metric.compute()
    assert score.mean == pytest.approx(values.mean().item(), rel=1e-12)
    assert score.standard_error == pytest.approx(values.std().item() / math.sqrt(5), rel=1e-9)
    assert (score.count, score.degenerate) == (5, 0)


def test_psnr_leaves_out_and_counts_perfect_reconstructions():
    image = torch.zeros(2, 3, 4, 4)
    metric = PeakSignalToNoiseRatio()
    metric.update(image + torch.tensor([0.0, 0.1])[:, None, None, None], image)
    score = metric.compute()
    assert score.mean == pytest.approx(20, abs=1e-5)
    assert (score.count, score.degenerate) == (1, 1)


@pytest.mark.parametrize("metric", [ReconstructionError(), PeakSignalToNoiseRatio()])
def test_nan_is_not_hidden(metric):
    image = torch.zeros(2, 3, 4, 4)
    metric.update(image + torch.tensor([math.nan, 0.1])[:, None, None, None], image)
    score = metric.compute()
    assert math.isnan(score.mean)
    assert math.isnan(score.standard_error)


def test_an_infinite_error_is_not_taken_for_none():
    image = torch.full((2, 3, 2, 2), 0.5)
    metric = PeakSignalToNoiseRatio()
    metric.update(torch.stack([image[0] + 0.1, torch.full((3, 2, 2), math.inf)]), image)
    assert (metric.compute().mean, metric.compute().degenerate) == (-math.inf, 0)
