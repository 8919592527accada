"""Which slot is the background, and the background of one scene behind the objects of another."""

import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.composition.edits import Plan, Scene, replace


def background_rank(owned: Tensor, kept: Tensor) -> Tensor:
    """How much each slot looks like the background: pixels owned in the outermost rows and columns, then in all.

    Args:
        owned: bool or int [B, K, H, W], the pixels that each slot owns.
        kept: bool [B, K]; the others rank last.

    Returns:
        int64 [B, K]; the background is the slot of the largest rank.
    """
    pixels, inner = owned.sum(dim=(2, 3)), owned[:, :, 1:-1, 1:-1].sum(dim=(2, 3))
    rank = (pixels - inner) * (owned.shape[2] * owned.shape[3] + 1) + pixels
    return rank.masked_fill(~kept, -1)


def background_slot(scene: Scene) -> int:
    """The number of the slot that owns the most of the picture's outermost rows and columns; of equals the largest."""
    owned = F.one_hot(scene.segmentation(), len(scene.slots)).permute(2, 0, 1)[None]
    return int(background_rank(owned, torch.ones(owned.shape[:2], dtype=torch.bool)).argmax())


def border_share(scene: Scene, slot: int) -> float:
    """The share of the picture's outermost rows and columns that a slot owns, 0 to 1."""
    owned = scene.segmentation() == slot
    height, width = owned.shape
    return float(owned.sum() - owned[1:-1, 1:-1].sum()) / (2 * (height + width) - 4)


def take_background(edit: Scene | Plan, scene: Scene, other: Scene) -> Plan:
    """Puts the background of another scene in the place of this one's, with its pose where slots have poses.

    Args:
        edit: the slots to change: `scene` itself, or what earlier edits made of it.
        scene: as it was read, by which its background is known.
        other: as it was read with the same model.

    Raises:
        ConfigError: an earlier edit removed the background, or the scenes are of different models.
    """
    theirs = background_slot(other)
    pose = None if other.poses is None else other.poses[theirs]
    return replace(edit, background_slot(scene), other.slots[theirs], pose)
