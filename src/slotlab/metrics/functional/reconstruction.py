"""How far a reconstruction is from its image: squared error and peak signal-to-noise ratio."""

from typing import Literal

import torch
from torch import Tensor

from slotlab.errors import ConfigError

Reduction = Literal["sum", "mean"]


def squared_error(reconstruction: Tensor, image: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Squared error of each reconstruction.

    Args:
        reconstruction: floating [B, C, H, W], nominally in [0, 1]; not clamped here.
        image: floating, the same shape, in [0, 1].
        reduction: "sum" over channels and pixels is the MSE of the CLEVRTex evaluator (about 254
            for slot attention at 128 x 128); "mean" divides it by C * H * W.

    Returns:
        float64 [B], >= 0; NaN if the reconstruction has NaN.

    Raises:
        ValueError: the shapes differ or are not [B, C, H, W], or a dtype is not floating.
        ConfigError: the reduction has another name.

    Example:
        >>> squared_error(torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, 3, 4, 4))
        tensor([12.], dtype=torch.float64)
    """
    check_reduction(reduction)
    for name, values in (("reconstruction", reconstruction), ("image", image)):
        if not values.is_floating_point():
            raise ValueError(f"`{name}` must be floating in [0, 1], not {values.dtype}")
    if reconstruction.shape != image.shape or image.ndim != 4:
        shapes = f"{tuple(reconstruction.shape)} and {tuple(image.shape)}"
        raise ValueError(f"`reconstruction` and `image` must both be [B, C, H, W], not {shapes}")
    squares = (reconstruction.double() - image.double()).square().flatten(1)
    return squares.sum(1) if reduction == "sum" else squares.mean(1)


def peak_signal_to_noise_ratio(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (PSNR) for a peak of 1: -10 log10(mean squared error).

    Args:
        reconstruction: floating [B, C, H, W], nominally in [0, 1].
        image: floating, the same shape, in [0, 1].

    Returns:
        float64 [B] in dB; infinite for an exact reconstruction.

    Example:
        >>> peak_signal_to_noise_ratio(torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, 3, 4, 4))
        tensor([6.0206], dtype=torch.float64)
    """
    return -10 * torch.log10(squared_error(reconstruction, image, "mean"))


def check_reduction(reduction: str) -> None:
    """Raises ConfigError unless `reduction` is "sum" or "mean"."""
    if reduction not in ("sum", "mean"):
        raise ConfigError(f"`reduction` must be 'sum' or 'mean', not {reduction!r}")
