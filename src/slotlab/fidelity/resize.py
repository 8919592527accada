"""clean-FID's resize: one picture to the input of a feature net, antialiased, in floating point."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def clean_resize(pixels: NDArray[np.uint8], size: int = 299) -> NDArray[np.float32]:
    """Resizes a picture as clean-FID's `clean` mode does.

    Each channel becomes a float picture (PIL mode "F"), is resized with PIL's bicubic filter (a = -0.5, its support
    widened by the scale when shrinking: antialiased), and is clipped to [0, 255]; nothing is rounded.

    Args:
        pixels: uint8 [H, W, 3].
        size: side of the square result.

    Returns:
        float32 [3, size, size] in [0, 255].

    Source: Parmar, Zhang and Zhu, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", arXiv 2104.11222.
    """
    channels = [Image.fromarray(np.ascontiguousarray(pixels[:, :, channel], dtype=np.float32)) for channel in range(3)]
    resized = [np.asarray(channel.resize((size, size), Image.Resampling.BICUBIC)) for channel in channels]
    return np.stack(resized).clip(0, 255)
