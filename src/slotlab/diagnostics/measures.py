"""What single batches show of how slots are used: pure functions, one value or one row per image."""

import math

import torch
from torch import Tensor

USED_SHARE = 0.005  # the smallest visible object covers 20 of 64 x 64 pixels
BACKGROUND_SHARE = 0.1
OVERLAP = 0.5
NEAR = 0.1


def owned_shares(masks: Tensor) -> Tensor:
    """Share of the pixels that each slot owns (argmax of masks [B, K, H, W]): float32 [B, K], sums to 1."""
    return _owned(masks) / masks[0, 0].numel()


def mask_entropy(masks: Tensor) -> Tensor:
    """Entropy over slots of masks [B, K, H, W], mean over pixels, divided by log K: float32 [B] in [0, 1].

    0 where each pixel belongs to one slot, 1 where all slots share it evenly; 0 for a single slot.
    """
    slots = masks.shape[1]
    if slots == 1:
        return masks.new_zeros(len(masks))
    return torch.special.entr(masks.float()).sum(dim=1).mean(dim=(1, 2)) / math.log(slots)


def attention_changes(attention: Tensor) -> Tensor:
    """Share of the attention [B, T, K, N] that goes to another slot than one iteration before: [B, T - 1] in [0, 1]."""
    return (attention[:, 1:] - attention[:, :-1]).abs().sum(dim=2).mean(dim=2) / 2


def background_slots(masks: Tensor, target: Tensor) -> Tensor:
    """How many slots own more than a tenth of the true background each: float32 [B]; NaN where there is none.

    Args:
        masks: [B, K, H, W].
        target: true masks, int64 [B, H, W], 0 = background.
    """
    background = target == 0
    pixels = background.sum(dim=(1, 2))
    shares = _owned(masks, background) / pixels[:, None]
    return torch.where(pixels > 0, (shares > BACKGROUND_SHARE).sum(dim=1).float(), math.nan)


def duplicates(masks: Tensor, slots: Tensor) -> Tensor:
    """Which pairs of slots hold the same thing: bool [B, K, K], true only above the diagonal.

    Two slots are duplicates in an image if their masks overlap: where they hold more than half of a pixel together
    (which must be 0.5 % of the image), the lesser one has more than half of what the greater has. Or if one of them is
    used and their vectors are nearly equal: closer than a tenth of the root mean square distance of slots in the batch.

    Args:
        masks: [B, K, H, W] in [0, 1], sums to 1 over K.
        slots: [B, K, D].
    """
    count, used = masks.shape[1], owned_shares(masks) > USED_SHARE
    spread = (2 * (slots - slots.mean(dim=(0, 1))).square().sum(dim=2).mean()).sqrt()
    differences = (slots[:, :, None] - slots[:, None]).square().sum(dim=3).sqrt()
    found = (differences <= NEAR * spread) & (used[:, :, None] | used[:, None])
    for one in range(count):
        for other in range(one + 1, count):
            lesser = torch.minimum(masks[:, one], masks[:, other])
            greater = torch.maximum(masks[:, one], masks[:, other])
            place = lesser + greater > 0.5
            overlaps = (lesser * place).sum(dim=(1, 2)) > OVERLAP * (greater * place).sum(dim=(1, 2))
            found[:, one, other] |= overlaps & (place.float().mean(dim=(1, 2)) > USED_SHARE)
    return found.triu(diagonal=1)


def _owned(masks: Tensor, counted: Tensor | None = None) -> Tensor:
    """Pixels that each slot owns, of those `counted` (bool [B, H, W]): int64 [B, K]."""
    batch, slots = masks.shape[:2]
    places = masks.argmax(dim=1) + slots * torch.arange(batch, device=masks.device)[:, None, None]
    kept = places.flatten() if counted is None else places[counted]
    return torch.bincount(kept, minlength=batch * slots).view(batch, slots)
