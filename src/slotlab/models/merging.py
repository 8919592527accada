"""Fewer slots for an image: those that hold one object become one, those that hold nothing none."""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from slotlab.models.output import SlotOutput

Output = TypeVar("Output", bound=SlotOutput)

OVERLAP, NEAR, LEAST = 0.6, 0.2, 0.005


def merge_slots(
    output: Output, source: str | None = None, *, overlap: float = OVERLAP, near: float = NEAR, least: float = LEAST
) -> Output:
    """Merges slots that hold the same thing, and empties slots that hold nothing.

    A model has as many slots for an image of two objects as for one of ten. Two slots hold the same
    thing if the lesser mask lies mostly on the greater one, or if their vectors are nearly equal;
    of those, the pair with the largest overlap is merged first. The greater mask takes over the
    lesser, which becomes 0 (compare MetaSlot, arXiv 2505.20772, which removes slots that share a
    learned prototype). A slot then left with hardly a pixel gives them to the other slots.

    The number of slots, their vectors and the reconstruction stay as they are.

    Args:
        output: of a model, for a batch of images.
        source: masks that decide, "masks", "attention" or "posterior"; by default the finest.
        overlap: two slots are one if the sum of the lesser of both masks, over the pixels, is above
            this share of the smaller mask; 1 merges none by their masks.
        near: or if their distance is below this share of the root mean square distance of the
            image's slots; 0 merges none by their vectors.
        least: a slot is empty if it owns less than this share of the pixels; 0 empties none.

    Returns:
        The output with other masks, attention and slot images; all masks sum to 1 as before.

    Example:
        >>> import slotlab
        >>> output = slotlab.load("textured-128")(slotlab.render([2], resolution=128).image)
        >>> merged = merge_slots(output)
        >>> output.masks.shape[1], int((merged.posterior.amax(dim=(2, 3)) > 0.5).sum())
        (11, 8)
    """
    masks = output.soft_masks(source or output.finest).float()
    taken = torch.stack([_taken_by(*one, overlap, near) for one in zip(masks, output.slots.float(), strict=True)])
    into = torch.nn.functional.one_hot(taken, masks.shape[1]).to(masks)  # [B, K, K], each slot's successor
    owned = _moved(masks, into).argmax(dim=1).flatten(1)
    shares = torch.zeros_like(masks[:, :, 0, 0]).scatter_add_(1, owned, torch.ones_like(owned, dtype=masks.dtype))
    shares = shares / owned.shape[1]
    kept = (shares >= least) | (shares == shares.amax(dim=1, keepdim=True))

    def changed(soft: Tensor, dim: int = 1) -> Tensor:
        moved = _moved(soft.transpose(1, dim).float(), into) * _like(kept, soft)
        moved += 1e-12 * _like(kept, soft)  # where all that is left is 0
        return (moved / moved.sum(dim=1, keepdim=True)).transpose(1, dim).to(soft.dtype)

    more = {}
    if output.posterior is not None:
        more["posterior"] = changed(output.posterior)
    if output.slot_images is not None:  # what the slots of one painted together
        weights = (output.masks.float() + 1e-12)[:, :, None]
        painted = _moved(weights * output.slot_images.float(), into) / _moved(weights, into).clamp(min=1e-12)
        more["slot_images"] = torch.where(_like(into.sum(dim=1), painted) > 0, painted, output.slot_images.float())
    return replace(output, masks=changed(output.masks), attention=changed(output.attention, 2), **more)


def _taken_by(masks: Tensor, slots: Tensor, overlap: float, near: float) -> Tensor:
    """The slot that takes over each slot of an image, int64 [K]; itself if none does."""
    sums = masks.detach().flatten(1).clone()
    apart = torch.cdist(slots.detach(), slots.detach())
    close = apart < near * apart.square().mean().sqrt()
    taken = torch.arange(len(masks), device=masks.device)
    while True:
        sizes = sums.sum(dim=1)
        shared = torch.stack([torch.minimum(one, sums).sum(dim=1) for one in sums])
        found = shared / torch.minimum(sizes, sizes[:, None]).clamp(min=1e-6)
        found = torch.where(close, found.clamp(min=1), found)
        there = taken == torch.arange(len(masks), device=masks.device)
        found = found * (there & there[:, None]).fill_diagonal_(False)
        if found.max() <= overlap:
            return taken
        lesser, greater = sorted(divmod(int(found.argmax()), len(masks)), key=lambda slot: float(sizes[slot]))
        sums[greater] += sums[lesser]
        sums[lesser] = 0
        taken[taken == lesser] = greater


def _moved(values: Tensor, into: Tensor) -> Tensor:
    """Values [B, K, ...] of the slots, added up for the slot that takes each over."""
    return torch.einsum("bk...,bkj->bj...", values, into)


def _like(numbers: Tensor, values: Tensor) -> Tensor:
    """Numbers [B, K] as floats with as many dimensions as `values` [B, K, ...]."""
    return numbers.view(*numbers.shape, *[1] * (values.ndim - 2)).float()
