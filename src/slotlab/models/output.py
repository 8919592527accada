"""The one type that every model returns and that metrics, figures and reports read."""

from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.errors import ConfigError, nearest

MASK_SOURCES = ("masks", "attention")


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
        titles: what tables and figures call `masks` and `reconstruction`.
    """

    titles: ClassVar[dict[str, str]] = {"masks": "decoder masks", "reconstruction": "reconstruction"}

    slots: Tensor
    attention: Tensor
    attention_grid: tuple[int, int]
    masks: Tensor
    reconstruction: Tensor
    slot_images: Tensor | None = None
    poses: Tensor | None = None
    ceiling: Tensor | None = None

    def attention_masks(self, iteration: int = -1) -> Tensor:
        """Attention of one iteration, bilinearly resized to the image: [B, K, H, W], sums to 1 over K."""
        batch, _, slots, _ = self.attention.shape
        maps = self.attention[:, iteration].float().reshape(batch, slots, *self.attention_grid)
        return F.interpolate(maps, size=self.masks.shape[-2:], mode="bilinear", align_corners=False)

    def segmentation(self, source: str = "masks") -> Tensor:
        """The slot that owns each pixel, int64 [B, H, W]: argmax of `source`, "masks" or "attention"."""
        soft = self.masks if source == "masks" else self.attention_masks()
        return torch.argmax(soft, dim=1)

    def cpu(self) -> Self:
        """The same with all tensors on the CPU."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.cpu() for name, value in values.items() if isinstance(value, Tensor)})


def chosen_source(wanted: str | None, finer: str) -> str:
    """Which masks to use: the source that is `wanted`, or a model's `finer_masks`; ConfigError if there is no such."""
    if wanted is not None and wanted not in MASK_SOURCES:
        raise ConfigError(f"mask_source: unknown {wanted!r}{nearest(wanted, MASK_SOURCES)}")
    return wanted or finer
