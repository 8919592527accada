"""Signs that a model does not find objects: collapsed slots, spatial tiling, too few slots."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from slotlab.metrics.functional import adjusted_rand_index

USED_SHARE = 0.005  # the smallest visible object covers 20 of 64 x 64 pixels
TILING_ARI = 0.6


@dataclass
class SlotDiagnostics:
    """Gathers what batches of segmentations show, and puts it in words.

    Attributes:
        slots: number of slots K of the model.
    """

    slots: int
    _used: list[Tensor] = field(default_factory=list)
    _alike: list[Tensor] = field(default_factory=list)
    _most_objects: int = 0

    def update(self, segmentation: Tensor, target: Tensor | None = None) -> None:
        """Adds a batch: the slot that owns each pixel, int64 [B, H, W], and true masks where there are any."""
        shares = torch.nn.functional.one_hot(segmentation.flatten(1), self.slots).float().mean(dim=1)
        self._used.append((shares > USED_SHARE).sum(dim=1))
        if len(segmentation) > 1:
            self._alike.append(adjusted_rand_index(segmentation, segmentation.roll(1, dims=0)))
        if target is not None:
            present = torch.nn.functional.one_hot(target.flatten(1).clamp(min=0)).any(dim=1)[:, 1:]
            self._most_objects = max(self._most_objects, int(present.sum(dim=1).max()))

    @property
    def slots_used(self) -> float:
        """Mean number of slots that own more than 0.5 % of an image; NaN where no image was seen."""
        if not self._used:
            return float("nan")
        return float(torch.cat(self._used).float().mean())

    @property
    def likeness(self) -> float:
        """Mean ARI between the segmentations of different images: near 1, the masks ignore the image."""
        return float(torch.cat(self._alike).mean()) if self._alike else 0.0

    def warnings(self) -> list[str]:
        """What is wrong, each with what to try; empty if nothing shows."""
        found = []
        if self._most_objects + 1 > self.slots:
            found.append(
                f"{self.slots} slots for images of up to {self._most_objects} objects: objects must share slots; "
                f"set slots={self._most_objects + 1} (one more than objects, for the background)"
            )
        if self.slots > 1 and self.slots_used < 1.5:
            found.append(
                f"slots have collapsed: {self.slots_used:.1f} of {self.slots} own any of the image; "
                f"train longer, lower learning_rate, or more warmup_steps"
            )
        elif self.likeness > TILING_ARI:
            found.append(
                f"slots tile the picture: segmentations of different images agree with ARI {self.likeness:.2f}; "
                f"try a smaller decoder, a larger encoder, another seed, or more warmup_steps"
            )
        return found
