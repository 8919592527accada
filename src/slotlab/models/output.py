"""What slot diffusion returns: the shared output and what its loss is made of."""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.errors import ConfigError, nearest

MASK_SOURCES = ("masks", "attention", "posterior")
LEAST = 1e-6  # of a mask, before its logarithm


@dataclass(eq=False)
class SlotOutput:
    """What a model makes of a batch of B images with K slots of width D, in T iterations over N = h x w features.

    Attributes:
        slots: [B, K, D], the slots after the last iteration.
        attention: [B, T, K, N], slot attention of each iteration: softmax over K, before the normalisation over N.
        attention_grid: (h, w) with h * w = N, the spatial shape of the features that the slots attend to.
        masks: [B, K, H, W] in [0, 1], the decoder's mask of each slot; sums to 1 over K.
        reconstruction: [B, 3, H, W], nominally in [0, 1] (not clamped).
        slot_images: [B, K, 3, H, W] nominally in [0, 1], each slot's own picture before mixing, where the decoder
            makes one.
        poses: [B, K, 4], each slot's x, y in [-1, 1] and scale along x, y, where slots have a relative frame.
        ceiling: [B, 3, H, W] in [0, 1], the nearest to the image that the decoder could come, where that is known: what
            a latent autoencoder makes of the image itself.
        posterior: [B, K, H, W] in [0, 1], the chance that a slot owns a pixel given the pixel's colour
            (`posterior_masks`); sums to 1 over K; where the model knows it.
        titles: what tables and figures call the sources of masks, and the reconstruction.
    """

    titles: ClassVar[dict[str, str]] = {
        "masks": "decoder masks",
        "attention": "attention masks",
        "posterior": "posterior masks",
        "reconstruction": "reconstruction",
    }

    slots: Tensor
    attention: Tensor
    attention_grid: tuple[int, int]
    masks: Tensor
    reconstruction: Tensor
    slot_images: Tensor | None = None
    poses: Tensor | None = None
    ceiling: Tensor | None = None
    posterior: Tensor | None = None

    def attention_masks(self, iteration: int = -1) -> Tensor:
        """Attention of one iteration, bilinearly resized to the image: [B, K, H, W], sums to 1 over K."""
        batch, _, slots, _ = self.attention.shape
        maps = self.attention[:, iteration].float().reshape(batch, slots, *self.attention_grid)
        return F.interpolate(maps, size=self.masks.shape[-2:], mode="bilinear", align_corners=False)

    @property
    def mask_sources(self) -> tuple[str, ...]:
        """Where masks can be taken from, of `MASK_SOURCES`."""
        return MASK_SOURCES if self.posterior is not None else MASK_SOURCES[:2]

    def soft_masks(self, source: str = "masks") -> Tensor:
        """Masks [B, K, H, W] of a source; ValueError if it is not in `mask_sources`."""
        if source not in self.mask_sources:
            raise ValueError(f"source: {source!r} is not in {self.mask_sources}")
        if source == "posterior" and self.posterior is not None:
            return self.posterior
        return self.attention_masks() if source == "attention" else self.masks

    def segmentation(self, source: str = "masks") -> Tensor:
        """The slot that owns each pixel, int64 [B, H, W]: argmax of the masks of `source`."""
        return torch.argmax(self.soft_masks(source), dim=1)

    def segmentations(self) -> dict[str, Tensor]:
        """The slot that owns each pixel, int64 [B, H, W], by the title of each source of masks that the model has."""
        return {self.titles[source]: self.segmentation(source) for source in self.mask_sources}

    def cpu(self) -> Self:
        """The same with all tensors on the CPU."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.cpu() for name, value in values.items() if isinstance(value, Tensor)})


def posterior_masks(masks: Tensor, slot_images: Tensor, images: Tensor, sigma: float) -> Tensor:
    """The chance that each slot owns a pixel, given its colour: [B, K, H, W], sums to 1 over K.

    Slots are the components of a mixture of Gaussians at each pixel, with the masks as weights, the slots' pictures as
    means and one standard deviation; Bayes' rule gives which of them the pixel is from (IODINE, Greff et al. 2019,
    arXiv 1903.00450, section 2; MONet, Burgess et al. 2019, arXiv 1901.11390, equation 3).

    Args:
        masks: [B, K, H, W], sums to 1 over K.
        slot_images: [B, K, 3, H, W], nominally in [0, 1].
        images: [B, 3, H, W] in [0, 1].
        sigma: standard deviation of a colour value, in the units of the images.
    """
    distance = (slot_images.float() - images.float()[:, None]).square().sum(dim=2)
    return torch.softmax((masks.float() + LEAST).log() - distance / (2 * sigma**2), dim=1)


def chosen_source(wanted: str | None, sources: Collection[str], finer: str) -> str:
    """Which of a model's `sources` of masks to use: the one `wanted`, or the `finer`; ConfigError for another."""
    if wanted is not None and wanted not in sources:
        if wanted in MASK_SOURCES:
            raise ConfigError(f"mask_source: this model has no {wanted} masks; it has {', '.join(sources)}")
        raise ConfigError(f"mask_source: unknown {wanted!r}{nearest(wanted, sources)}")
    return wanted or finer


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
