import numpy as np
import pytest
import torch
from torch.nn import functional as F

from slotlab.fidelity import clean_resize


@pytest.mark.parametrize("shape", [(128, 128), (96, 64), (240, 320), (400, 350)])
def test_equals_an_antialiased_bicubic_filter_in_float64(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)[:, ::-1]  # strided
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double()
    expected = F.interpolate(image, (299, 299), mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 255)
    np.testing.assert_allclose(clean_resize(pixels), expected, rtol=0, atol=1e-4)


def test_same_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (299, 299, 3), dtype=np.uint8)
    assert np.array_equal(clean_resize(pixels), pixels.transpose(2, 0, 1))
