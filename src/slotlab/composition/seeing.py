"""What a model sees in images, as far as editing and libraries need it: slots, masks, poses; no sample is painted."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.models import SlotDiffusion, SlotModel


@dataclass(frozen=True)
class Seen:
    """Slots [B, K, D], the finest masks [B, K, H, W] (sum to 1 over K), and poses [B, K, 4] if slots have them."""

    slots: Tensor
    masks: Tensor
    poses: Tensor | None

    @property
    def owners(self) -> Tensor:
        """The slot that owns each pixel, int64 [B, H, W]: `SlotOutput.segmentation(model.finer_masks)`."""
        return self.masks.argmax(dim=1)


@torch.no_grad()
def see(model: SlotModel, images: Tensor, generators: Sequence[torch.Generator]) -> Seen:
    """Slots and masks of images [B, 3, R, R] in [0, 1], which are brought to the model's device.

    The masks are of the source that fits objects best (`model.finer_masks`). For slot diffusion that is slot attention,
    so that nothing has to be denoised. The slots are those of `model(images, generators)`.

    Args:
        model: in evaluation mode.
        images: of the model's resolution.
        generators: one per image, on which alone what is random depends.
    """
    images = images.to(next(model.parameters()).device)
    if isinstance(model, SlotDiffusion):
        encoded = model.encoder(images, generators)
        soft = encoded.attention[:, -1].float().unflatten(2, encoded.attention_grid)
        side = (model.resolution, model.resolution)
        return Seen(encoded.slots, F.interpolate(soft, size=side, mode="bilinear", align_corners=False), None)
    output = model(images, generators)
    return Seen(output.slots, output.soft_masks(model.finer_masks), output.poses)
