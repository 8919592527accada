"""What a model's use of its slots shows, in numbers and in words: what is wrong, and which setting to try."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

COLLAPSED = 1.5  # slots used
TILING, ABOVE_TRUTH = 0.5, 0.2  # ARI between images
SPLIT = 1.5  # slots in the background
DUPLICATE_PAIRS, OF_ONE_PAIR = 1.5, 0.3  # pairs an image; share of the images
SOFT = 0.5  # entropy
UNSETTLED = 0.2  # attention change
FEWEST_IMAGES = 20  # to call a slot dead


@dataclass(eq=False)  # not frozen: torchmetrics copies what `compute` returns field by field
class Diagnosis:
    """How a model uses its slots on some images; for what is healthy see docs/diagnostics.md.

    Attributes:
        images: how many images.
        used_counts: images in which 0, 1, ..., K slots are used: own more than 0.5 % of the pixels.
        use: share of the images in which each slot is used, [K].
        shares: mean share of the pixels that each slot owns, [K].
        entropy: of the masks over slots, mean over pixels and images, divided by log K; in [0, 1].
        entropy_counts: images by their entropy, in 20 equal bins from 0 to 1.
        attention_changes: share of the attention that moves to another slot in each iteration after the first, [T - 1].
        duplicates: share of the images in which slots i < j hold the same thing, [K][K].
        likeness: mean ARI between the segmentations of neighbouring images; NaN for a single image.
        true_likeness: the same of the true masks, where there are any.
        background_slots: mean number of slots that own more than a tenth of the true background each.
        objects: mean number of objects, by the true masks.
        most_objects: in one image, by the true masks.
        mean_masks: share of the images in which each slot owns each place, float32 [K, 32, 32].
    """

    images: int
    used_counts: Sequence[int]
    use: Sequence[float]
    shares: Sequence[float]
    entropy: float
    entropy_counts: Sequence[int]
    attention_changes: Sequence[float]
    duplicates: Sequence[Sequence[float]]
    likeness: float
    true_likeness: float | None
    background_slots: float | None
    objects: float | None
    most_objects: int | None
    mean_masks: Tensor

    @property
    def slots(self) -> int:
        """Number of slots K."""
        return len(self.use)

    @property
    def slots_used(self) -> float:
        """Mean number of slots that own more than 0.5 % of an image."""
        return sum(number * images for number, images in enumerate(self.used_counts)) / self.images

    @property
    def dead_slots(self) -> list[int]:
        """Slots that are used in no image."""
        return [slot for slot, use in enumerate(self.use) if use == 0]

    @property
    def duplicate_pairs(self) -> list[tuple[int, int, float]]:
        """Pairs of slots that hold the same thing in more than 30 % of the images, with that share; the worst first."""
        pairs = [(one, other, share) for one, row in enumerate(self.duplicates) for other, share in enumerate(row)]
        return sorted((pair for pair in pairs if pair[2] > OF_ONE_PAIR), key=lambda pair: -pair[2])

    @property
    def duplicates_per_image(self) -> float:
        """Mean number of pairs of slots that hold the same thing."""
        return sum(map(sum, self.duplicates))

    def numbers(self) -> dict[str, Any]:
        """What `metrics.json` holds, as JSON values; what is not known is left out."""
        values: dict[str, Any] = {
            "images": self.images,
            "slots_used": self.slots_used,
            "slots_used_counts": list(self.used_counts),
            "slot_use": list(self.use),
            "slot_shares": list(self.shares),
            "mask_entropy": self.entropy,
            "attention_change": self.attention_changes[-1] if self.attention_changes else None,
            "attention_changes": list(self.attention_changes),
            "likeness": None if math.isnan(self.likeness) else self.likeness,
            "true_likeness": None if math.isnan(self.likeness) else self.true_likeness,
            "background_slots": self.background_slots,
            "objects": self.objects,
            "dead_slots": self.dead_slots,
            "duplicates": self.duplicates_per_image,
            "duplicate_pairs": [list(pair) for pair in self.duplicate_pairs],
        }
        return {name: value for name, value in values.items() if value is not None}

    def warnings(self) -> list[str]:
        """What is wrong, each with what to try; empty if nothing shows. What it is called stands before the colon."""
        if self.slots > 1 and self.slots_used < COLLAPSED:
            return [*self._too_few(), self._collapse()]
        found = [*self._too_few(), *self._tiling(), *self._background(), *self._dead(), *self._duplicates()]
        return [*found, *self._entropy(), *self._attention()]

    def _too_few(self) -> list[str]:
        if self.most_objects is None or self.most_objects + 1 <= self.slots:
            return []
        return [
            f"too few slots: {self.slots} for images of up to {self.most_objects} objects, so that objects must share "
            f"them; set slots={self.most_objects + 1} (one more than objects, for the background)"
        ]

    def _collapse(self) -> str:
        return (
            f"slots have collapsed: {self.slots_used:.1f} of {self.slots} own any of the image; train longer (steps), "
            f"halve learning_rate, or double warmup_steps"
        )

    def _tiling(self) -> list[str]:
        true = -1.0 if self.true_likeness is None else self.true_likeness
        if not self.likeness > max(TILING, true + ABOVE_TRUTH):
            return []
        truth = "" if self.true_likeness is None else f" (true masks: {self.true_likeness:.2f})"
        return [
            f"slots tile the picture: segmentations of different images agree with ARI {self.likeness:.2f}{truth}, as "
            f"if the masks ignored the image; try another seed (seed=1), double warmup_steps, halve the decoder's "
            f"channels, or widen the encoder's"
        ]

    def _background(self) -> list[str]:
        if self.background_slots is None or not self.background_slots > SPLIT:
            return []
        return [
            f"the background is split: {self.background_slots:.1f} slots own more than a tenth of it each; train "
            f"longer, try background_penalty=0.01 (with learned slots and a broadcast decoder; else "
            f"mask_penalty=0.001), doubled until it is whole, or fewer slots (slots={max(2, self.slots - 1)})"
        ]

    def _dead(self) -> list[str]:
        dead = self.dead_slots
        if not dead or self.images < FEWEST_IMAGES:
            return []
        are, they = ("is", "it owns") if len(dead) == 1 else ("are", "they own")
        return [
            f"dead slots: {_listed(dead)} {are} never used, {they} at most 0.5 % of each of {self.images} images; set "
            f"slots={self.slots - len(dead)} if that is enough for the objects, else initialisation=gaussian, which "
            f"makes all slots alike, or another seed (seed=1)"
        ]

    def _duplicates(self) -> list[str]:
        pairs, fewer = self.duplicate_pairs, f"slots={max(2, self.slots - 1)}"
        if pairs:
            named = ", ".join(f"{one} and {other} (in {share:.0%} of the images)" for one, other, share in pairs[:3])
            more = f" and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
        elif self.duplicates_per_image > DUPLICATE_PAIRS:
            named, more = f"{self.duplicates_per_image:.1f} pairs in each image, now these, now those", ""
        else:
            return []
        return [
            f"duplicate slots: {named}{more} hold the same thing; try fewer slots ({fewer}), train longer (steps), or "
            f"in the last third of the steps sharing_penalty=0.02 (sharing_penalty_start; with learned slots and a "
            f"broadcast decoder, else mask_penalty=0.001)"
        ]

    def _entropy(self) -> list[str]:
        if not self.entropy > SOFT:
            return []
        return [
            f"soft masks: their entropy is {self.entropy:.2f} of the most there can be, slots share the pixels instead "
            f"of owning them; train longer (steps), or try mask_penalty=0.001"
        ]

    def _attention(self) -> list[str]:
        if not self.attention_changes or not self.attention_changes[-1] > UNSETTLED:
            return []
        iterations = len(self.attention_changes) + 1
        return [
            f"attention does not settle: {self.attention_changes[-1]:.0%} of it moves to another slot in the last of "
            f"{iterations} iterations; set iterations={iterations + 2}, or train longer (steps)"
        ]


def _listed(numbers: Sequence[int]) -> str:
    words = [str(number) for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
