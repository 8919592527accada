"""What slot diffusion returns: the shared output and what its loss is made of."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from slotlab.models.output import SlotOutput


@dataclass(eq=False, kw_only=True)
class DiffusionOutput(SlotOutput):
    """What slot diffusion makes of images: the slots, and one denoising of their latents at a random timestep.

    In evaluation mode `reconstruction` is a sample from the slots, clamped to [0, 1], `masks` are the denoiser's
    cross-attention, resized bilinearly, and `ceiling` is what the autoencoder makes of the images. In training mode
    none of these is computed: `masks` are the slot-attention masks and `reconstruction` is empty, [B, 3, 0, 0].

    Attributes:
        timesteps: [B], the timestep of each image.
        noise: [B, C, h, w], what was added to the latents.
        target: [B, C, h, w], what the denoiser should have answered.
        predicted: [B, C, h, w], what it answered.
        weights: [B], weight of each image in the loss.
        cross_attention: [B, K, h', w'], which slot the denoiser looks at where, sums to 1 over K: in evaluation mode at
            the timestep of the masks, which are this resized; in training mode while it made `predicted`, if the model
            `keeps_cross_attention`.
    """

    titles: ClassVar[dict[str, str]] = {
        "masks": "cross-attention masks",
        "attention": "attention masks",
        "reconstruction": "sample",
    }

    timesteps: Tensor
    noise: Tensor
    target: Tensor
    predicted: Tensor
    weights: Tensor
    cross_attention: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """Weighted squared error of each image, mean over its values: float32 [B]; its mean is the objective."""
        error = (self.predicted.float() - self.target.float()).square()
        return self.weights * error.flatten(1).mean(dim=1)
