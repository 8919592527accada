"""Reconstruction metrics over many images, as torchmetrics classes."""

import torch
from torch import Tensor

from slotlab.errors import ConfigError
from slotlab.metrics.functional.reconstruction import Reduction, peak_signal_to_noise_ratio, squared_error
from slotlab.metrics.score import PerImageMetric, Score


class ReconstructionError(PerImageMetric):
    """Mean squared error of reconstructions, per image summed ("sum": the official MSE) or averaged ("mean").

    A reconstruction with NaN makes the mean NaN; no image is degenerate.

    Args:
        reduction: "sum" or "mean" over channels and pixels.

    Raises:
        ConfigError: if the reduction has another name.
    """

    higher_is_better = False

    def __init__(self, reduction: Reduction = "sum") -> None:
        if reduction not in ("sum", "mean"):
            raise ConfigError(f"`reduction` must be 'sum' or 'mean', not {reduction!r}")
        super().__init__(of=f"squared_error_{reduction}")
        self.reduction: Reduction = reduction

    def update(self, reconstruction: Tensor, image: Tensor) -> None:
        """Adds a batch, floating [B, C, H, W] in [0, 1] each."""
        values = squared_error(reconstruction, image, self.reduction)[None]
        none = torch.zeros_like(values, dtype=torch.bool)
        self._add(values, none, none)

    def compute(self) -> Score:
        """The score over all images added so far, of all processes."""
        return self._scores()[0]


class PeakSignalToNoiseRatio(PerImageMetric):
    """Mean PSNR in decibel; degenerate and left out: reconstructions without any error, whose PSNR is infinite."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__(of="psnr")

    def update(self, reconstruction: Tensor, image: Tensor) -> None:
        """Adds a batch, floating [B, C, H, W] in [0, 1] each."""
        values = peak_signal_to_noise_ratio(reconstruction, image)[None]
        perfect = torch.isposinf(values)
        self._add(values, perfect, perfect)

    def compute(self) -> Score:
        """The score over all images added so far, of all processes."""
        return self._scores()[0]
