import numpy as np
import pytest
import torch

from slotlab.data.images import Decoded, square
from slotlab.segmenting import FITS, fitting

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("side", [1, 7, 16, 40])
def test_of_a_square_image_the_model_sees_what_the_readers_of_data_sets_give(fit, side):
    pixels = RANDOM.integers(0, 256, (side, side, 3), dtype=np.uint8)
    expected = square(Decoded(pixels), resolution=16).image
    np.testing.assert_array_equal(fitting(fit, (side, side), 16).shown(pixels), expected)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (33, 17), (1000, 1), (1, 1000), (1, 1), (5, 3)])
def test_any_size_goes_into_the_square_and_back(fit, size):
    width, height = size
    fitted = fitting(fit, size, 16)
    inside = fitted.shown(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8))
    assert inside.shape == (16, 16, 3)
    assert inside.dtype == np.uint8
    assert fitted.onto_image(torch.rand(16, 16)).shape == (height, width)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(64, 32), (32, 64), (60, 44), (8, 6)])
def test_what_the_model_finds_lies_where_it_is_in_the_image(fit, size):
    """A bright block comes back where it was, so masks lie on their objects."""
    width, height = size
    image = np.zeros((height, width, 3), dtype=np.uint8)
    block = np.s_[height // 4 : height // 2 + 1, width // 2 : width // 2 + width // 4 + 1]
    image[block] = 255
    fitted = fitting(fit, size, 32)
    found = fitted.onto_image(torch.from_numpy(fitted.shown(image)[..., 0] / 255)) > 0.5
    left, top, right, bottom = fitted.seen
    true = torch.zeros(height, width, dtype=torch.bool)
    true[block] = True
    true[:, :left] = true[:, right:] = False
    true[:top] = true[bottom:] = False
    assert (found & true).sum() / (found | true).sum() > 0.7


def test_letterbox_repeats_the_border_pixels_in_the_bars():
    image = np.zeros((8, 16, 3), dtype=np.uint8)
    image[0], image[-1] = 10, 200
    inside = fitting("letterbox", (16, 8), 16).shown(image)
    assert (inside[:5] == 10).all()
    assert (inside[11:] == 200).all()
    np.testing.assert_array_equal(inside[4:12], image)


def test_shares_sum_to_one_or_to_zero_where_the_model_saw_nothing():
    shares = torch.rand(4, 16, 16).softmax(dim=0)
    whole, cropped = (
        torch.stack([fitting(fit, (10, 4), 16).onto_image(one) for one in shares]).sum(dim=0)
        for fit in ("letterbox", "crop")
    )
    torch.testing.assert_close(whole, torch.ones(4, 10))
    torch.testing.assert_close(cropped, torch.tensor([0.0] * 3 + [1.0] * 4 + [0.0] * 3).expand(4, 10))
