import numpy as np
import pytest

from slotlab.fidelity import clean_resize


def picture(height, width):
    """A fixed picture of 8-bit values with edges, ramps and noise-like texture."""
    row, column, channel = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((row * 37 + column * 101 + channel * 59 + (row * column) % 11 * 17 + (row // 9 % 2) * 120) % 256).astype(
        np.uint8
    )


def weights(before, after):
    """Per output sample: first input sample, and bicubic weights, widened when shrinking."""
    scale = before / after
    wide = max(scale, 1.0)
    for index in range(after):
        centre = (index + 0.5) * scale
        first = max(int(centre - 2 * wide + 0.5), 0)
        last = min(int(centre + 2 * wide + 0.5), before)
        x = np.abs((np.arange(first, last) - centre + 0.5) / wide)
        near = ((1.5 * x) - 2.5) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * -0.5
        kernel = np.where(x < 1, near, np.where(x < 2, far, 0.0))
        yield first, kernel / kernel.sum()


def resize_rows(channel, size):
    """Resizes along the last axis in float64, rounded to float32 at the end."""
    columns = [
        channel[:, first : first + len(w)].astype(np.float64) @ w for first, w in weights(channel.shape[1], size)
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def definition(pixels, size):
    channels = [resize_rows(resize_rows(pixels[:, :, c].astype(np.float32), size).T, size).T for c in range(3)]
    return np.stack(channels).clip(0, 255)


@pytest.mark.parametrize("shape", [(128, 128), (96, 64), (240, 320), (400, 350)])
def test_equals_the_definition(shape):
    pixels = picture(*shape)[:, ::-1]  # strided
    np.testing.assert_allclose(clean_resize(pixels), definition(pixels, 299), rtol=0, atol=5e-5)


def test_same_size_is_unchanged():
    pixels = picture(299, 299)
    assert np.array_equal(clean_resize(pixels), pixels.transpose(2, 0, 1))
