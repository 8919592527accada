"""Signs that a model does not find objects: collapsed or duplicate slots, tiling and more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from slotlab.metrics.functional import adjusted_rand_index, without_small
from slotlab.models import FeatureGrouping, FeatureModel, SlotModel

USED_SHARE = 0.005  # of an image: the smallest visible object covers 20 of 64 x 64 pixels
BACKGROUND_SHARE = 0.1  # of the true background, for a slot to count as part of it
OVERLAP, NEAR = 0.5, 0.1  # of masks, and of vectors, for duplicates
MEAN_SIDE = 32  # resolution of the mean masks
ENTROPY_BINS = 20
# Warnings are given beyond these values; docs/diagnostics.md says how they were chosen.
COLLAPSED = 1.5  # slots used
TILING, ABOVE_TRUTH = 0.5, 0.2  # ARI between images
SPLIT = 1.5  # slots in the background
DUPLICATE_PAIRS, OF_ONE_PAIR = 1.5, 0.3  # pairs per image; share of the images
SOFT = 0.5  # entropy
UNSETTLED = 0.2  # attention change
FEWEST_IMAGES = 20  # to call a slot dead
LARGE_SHARE, MOST_IMAGES = 0.01, 0.95  # slots must be enough for the objects above 1 % of 95 % of the images
NUMBERS = (  # of a `Diagnosis`, in `metrics.json`
    *("images", "slots_used", "slots_used_counts", "slot_use", "slot_shares", "mask_entropy", "attention_change"),
    *("attention_changes", "likeness", "true_likeness", "background_slots", "objects", "dead_slots", "duplicates"),
    "duplicate_pairs",
)


def owned_shares(masks: Tensor, counted: Tensor | None = None) -> Tensor:
    """Share of the pixels that each slot owns (argmax of masks [B, K, H, W]): float32 [B, K].

    With `counted`, bool [B, H, W], the share of those pixels; NaN for an image without any.

    Example:
        >>> first = torch.tensor([[0.9, 0.6], [0.7, 0.2]])
        >>> owned_shares(torch.stack([first, 1 - first])[None])
        tensor([[0.7500, 0.2500]])
    """
    batch, slots = masks.shape[:2]
    places = masks.argmax(dim=1) + slots * torch.arange(batch, device=masks.device)[:, None, None]
    kept = places.flatten() if counted is None else places[counted]
    pixels = masks[0, 0].numel() if counted is None else counted.sum(dim=(1, 2))[:, None]
    return torch.bincount(kept, minlength=batch * slots).view(batch, slots) / pixels


def mask_entropy(masks: Tensor) -> Tensor:
    """Entropy over slots of masks [B, K, H, W], mean over pixels, divided by log K: float32 [B].

    0 if each pixel belongs to one slot, 1 if all slots share it evenly; 0 for a single slot.

    Example:
        >>> mask_entropy(torch.full((1, 4, 8, 8), 0.25))
        tensor([1.])
    """
    return torch.special.entr(masks.float()).sum(dim=1).mean(dim=(1, 2)) / math.log(max(masks.shape[1], 2))


def attention_changes(attention: Tensor) -> Tensor:
    """Share of the attention [B, T, K, N] that moves to another slot per iteration: [B, T - 1].

    Example:
        >>> first = torch.tensor([[1.0, 1.0], [0.0, 0.0]])  # both features to slot 0
        >>> second = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # one moves to slot 1
        >>> attention_changes(torch.stack([first, second])[None])
        tensor([[0.5000]])
    """
    return (attention[:, 1:] - attention[:, :-1]).abs().sum(dim=2).mean(dim=2) / 2


def background_slots(masks: Tensor, target: Tensor) -> Tensor:
    """How many slots own over a tenth of the true background each: float32 [B]; NaN without one.

    Masks are [B, K, H, W], the true masks int64 [B, H, W] with 0 = background, below 0 = ignored.
    """
    shares = owned_shares(masks, target == 0)
    return torch.where(shares[:, 0].isnan(), math.nan, (shares > BACKGROUND_SHARE).sum(dim=1).float())


def duplicates(masks: Tensor, slots: Tensor) -> Tensor:
    """Which pairs of slots hold the same thing in an image.

    Two slots are duplicates if their masks [B, K, H, W] overlap: over the pixels of which they hold
    more than half together (at least 0.5 % of the image), the lesser one has more than half of what
    the greater has. Or if one of them is used and their vectors, of slots [B, K, D], are closer
    than a tenth of the root mean square distance of slots in the batch. Returns bool [B, K, K],
    true only above the diagonal.

    Example:
        >>> masks = torch.tensor([0.5, 0.5, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        >>> duplicates(masks, torch.eye(3)[None]).nonzero()
        tensor([[0, 0, 1]])
    """
    used = owned_shares(masks) > USED_SHARE
    spread = (2 * (slots - slots.mean(dim=(0, 1))).square().sum(dim=2).mean()).sqrt()
    differences = (slots[:, :, None] - slots[:, None]).square().sum(dim=3).sqrt()
    found = (differences <= NEAR * spread) & (used[:, :, None] | used[:, None])
    for one, other in combinations(range(masks.shape[1]), 2):
        lesser = torch.minimum(masks[:, one], masks[:, other])
        greater = torch.maximum(masks[:, one], masks[:, other])
        place = lesser + greater > 0.5
        overlaps = (lesser * place).sum(dim=(1, 2)) > OVERLAP * (greater * place).sum(dim=(1, 2))
        found[:, one, other] |= overlaps & (place.float().mean(dim=(1, 2)) > USED_SHARE)
    return found.triu(diagonal=1)


def number_of_objects(target: Tensor) -> Tensor:
    """The number of objects in each true mask [B, H, W], of ids above 0: int64 [B].

    Example:
        >>> number_of_objects(torch.tensor([[[-1, 0, 3, 7]], [[0, 0, 0, 0]]]))
        tensor([2, 0])
    """
    ids = target.flatten(1).clamp(min=0).sort(dim=1).values
    return (ids.diff(dim=1) != 0).sum(dim=1) + (ids[:, 0] != 0)


@dataclass(eq=False)  # not frozen: torchmetrics copies what `compute` returns field by field
class Diagnosis:
    """How a model uses its slots on some images; see docs/diagnostics.md for healthy values."""

    images: int
    slots_used_counts: Sequence[int]  # images in which 0, 1, ..., K slots are used: own over 0.5 % of the pixels
    slot_use: Sequence[float]  # share of the images in which each slot is used, [K]
    slot_shares: Sequence[float]  # mean share of the pixels that each slot owns, [K]
    mask_entropy: float  # over slots, mean over pixels and images, divided by log K; in [0, 1]
    entropy_counts: Sequence[int]  # images by entropy, in 20 equal bins from 0 to 1
    attention_changes: Sequence[float]  # share that moves to another slot per iteration, [T - 1]
    duplicate_shares: Sequence[Sequence[float]]  # share of images in which slots i < j hold the same thing, [K][K]
    likeness: float | None  # mean ARI between the segmentations of neighbouring images; None for a single image
    true_likeness: float | None  # the same for the true masks; None, as below, without true masks
    background_slots: float | None  # mean number of slots that own more than a tenth of the true background
    objects: float | None  # mean number of objects
    large_objects: int | None  # above 1 % of an image: at most so many in 95 % of the images
    mean_masks: Tensor  # share of the images in which each slot owns each place, float32 [K, 32, 32]

    @property
    def slots_used(self) -> float:
        """Mean number of slots that own more than 0.5 % of an image."""
        return sum(number * images for number, images in enumerate(self.slots_used_counts)) / self.images

    @property
    def attention_change(self) -> float | None:
        """Share of the attention that moves in the last iteration; None for a single one."""
        return self.attention_changes[-1] if self.attention_changes else None

    @property
    def dead_slots(self) -> list[int]:
        """Slots that are used in no image."""
        return [slot for slot, use in enumerate(self.slot_use) if use == 0]

    @property
    def duplicate_pairs(self) -> list[list[Any]]:
        """[i, j, share] of pairs that are duplicates in over 30 % of the images; worst first."""
        shares = [[i, j, share] for i, row in enumerate(self.duplicate_shares) for j, share in enumerate(row)]
        return sorted((pair for pair in shares if pair[2] > OF_ONE_PAIR), key=lambda pair: -pair[2])

    @property
    def duplicates(self) -> float:
        """Mean number of pairs of duplicate slots per image."""
        return sum(map(sum, self.duplicate_shares))

    def numbers(self) -> dict[str, Any]:
        """The `NUMBERS`, as JSON values; unknown ones are left out."""
        return {name: value for name in NUMBERS if (value := getattr(self, name)) is not None}

    def warnings(self, model: SlotModel | None = None) -> list[str]:
        """What is wrong, each as "name: what was measured; what to try"; empty if nothing is.

        What to try depends on the `model`: one that is not trained has its number of slots only;
        for photographs, whose background is many things, a split background gets no advice.
        """
        image_model = getattr(model, "image_model", model)
        found = self._warnings(isinstance(image_model, FeatureModel))
        remedy = "this model is not trained, so try another number of slots: slotlab segment --slots K"
        untrained = isinstance(image_model, FeatureGrouping)
        return [f"{warning.partition('; ')[0]}; {remedy}" for warning in found] if untrained else found

    def _warnings(self, of_features: bool) -> list[str]:
        found, slots, images = [], len(self.slot_use), self.images
        fewer = f"slots={max(2, slots - 1)}"
        if self.large_objects is not None and self.large_objects + 1 > slots:
            found.append(
                f"too few slots: {slots} for images with up to {self.large_objects} objects above 1 % of the picture "
                f"(95 % of the images have no more), so some objects share a slot; set slots={self.large_objects + 1} "
                f"(one more than objects, for the background)"
            )
        if slots > 1 and self.slots_used < COLLAPSED:
            collapse = f"slots have collapsed: {self.slots_used:.1f} of {slots} own any of the image"
            return [*found, f"{collapse}; train longer (steps), halve learning_rate, or double warmup_steps"]
        true = -1.0 if self.true_likeness is None else self.true_likeness
        if self.likeness is not None and self.likeness > max(TILING, ABOVE_TRUTH + true):
            truth = "" if self.true_likeness is None else f" (true masks: {true:.2f})"
            narrower = "halve the decoder's channels, or use a wider encoder"
            found.append(
                f"slots tile the picture: segmentations of different images agree with ARI {self.likeness:.2f}{truth}, "
                f"as if the masks ignored the image; try another seed (seed=1), double warmup_steps, "
                f"{'or set initialisation=groups' if of_features else narrower}"
            )
        if self.background_slots is not None and self.background_slots > SPLIT and not of_features:
            found.append(
                f"the background is split: {self.background_slots:.1f} slots own more than a tenth of it each; train "
                f"longer, or set background_penalty=0.01 (with learned slots and a broadcast decoder; otherwise "
                f"mask_penalty=0.001) and double it until the background is whole, or use fewer slots ({fewer})"
            )
        if (dead := self.dead_slots) and images >= FEWEST_IMAGES:
            found.append(
                f"dead slots: {', '.join(map(str, dead))}, never used: at most 0.5 % of each of {images} images; set "
                f"slots={slots - len(dead)} if that is enough for the objects, else initialisation=gaussian, which "
                f"makes all slots alike, or another seed (seed=1)"
            )
        if (pairs := self.duplicate_pairs) or self.duplicates > DUPLICATE_PAIRS:
            named = ", ".join(f"{one} and {other} (in {share:.0%} of the images)" for one, other, share in pairs[:3])
            named += f" and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
            sharing = (
                ", or set sharing_penalty=0.02 for the last third of the steps (sharing_penalty_start; with learned "
                "slots and a broadcast decoder, otherwise mask_penalty=0.001)"
            )
            found.append(
                f"duplicate slots: {named or f'{self.duplicates:.1f} pairs in each image, always others'} "
                f"hold the same thing; use fewer slots ({fewer}), train longer (steps){'' if of_features else sharing}"
            )
        if self.mask_entropy > SOFT:
            found.append(
                f"soft masks: their entropy is {self.mask_entropy:.2f} of the highest possible, so slots share pixels "
                f"instead of owning them; train longer (steps), or try mask_penalty=0.001"
            )
        if (change := self.attention_change or 0.0) > UNSETTLED:
            iterations = len(self.attention_changes) + 1
            found.append(
                f"attention does not settle: {change:.0%} of it moves to another slot in the last of {iterations} "
                f"iterations; set iterations={iterations + 2}, or train longer (steps)"
            )
        return found


class SlotDiagnostics(Metric):
    """Measures how a model uses its slots, as a torchmetrics class in constant memory.

    Example:
        >>> masks = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).expand(4, 2, 8, 8)  # slot 0 takes all
        >>> gathered = SlotDiagnostics(slots=2, iterations=1)
        >>> gathered.update(masks, torch.randn(4, 2, 16), masks.flatten(2)[:, None])
        >>> diagnosis = gathered.compute()
        >>> diagnosis.slots_used, diagnosis.warnings()[0].partition(":")[0]
        (1.0, 'slots have collapsed')
    """

    full_state_update = False

    def __init__(self, slots: int, iterations: int) -> None:
        super().__init__()
        self.slots = slots
        self._before: Tensor | None = None
        shapes: dict[str, tuple[int, ...]] = {"slots_used_counts": (slots + 1,), "slot_use": (slots,)}
        shapes |= {"slot_shares": (slots,), "entropy_counts": (ENTROPY_BINS,), "attention_changes": (iterations - 1,)}
        shapes |= {"duplicate_shares": (slots, slots), "mean_masks": (slots, MEAN_SIDE, MEAN_SIDE)}
        shapes |= dict.fromkeys(("images", "mask_entropy", "pairs", "likeness", "true_likeness"), ())
        shapes |= dict.fromkeys(("masked", "objects", "background", "with_background"), ())
        shapes["large_objects"] = (round(1 / LARGE_SHARE) + 1,)
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    @classmethod
    def of(cls, model: SlotModel) -> "SlotDiagnostics":
        """An empty one for a model."""
        return cls(model.slots, model.iterations)

    def update(
        self, masks: Tensor, slots: Tensor, attention: Tensor, target: Tensor | None = None, frames: int = 1
    ) -> None:
        """Adds masks [B, K, H, W], slots [B, K, D], attention [B, T, K, N], and any true masks.

        Images of clips of so many `frames` are alike, so that only the first of each is compared.
        """
        masks = masks.float()
        shares, entropy = owned_shares(masks), mask_entropy(masks)
        used = shares > USED_SHARE
        owners = masks.argmax(dim=1)
        owned = F.one_hot(owners, self.slots).movedim(3, 1).float()
        added: dict[str, Any] = {
            "images": len(masks),
            "slots_used_counts": torch.bincount(used.sum(dim=1), minlength=self.slots + 1),
            "slot_use": used.sum(dim=0),
            "slot_shares": shares.sum(dim=0),
            "mask_entropy": entropy.sum(),
            "entropy_counts": torch.histc(entropy.clamp(0, 1), ENTROPY_BINS, 0, 1),
            "attention_changes": attention_changes(attention).sum(dim=0),
            "duplicate_shares": duplicates(masks, slots.float()).sum(dim=0),
            "mean_masks": F.adaptive_avg_pool2d(owned, MEAN_SIDE).sum(dim=0),
        }
        if target is not None:
            split = background_slots(masks, target)
            added |= {"masked": len(masks), "objects": number_of_objects(target).sum()}
            added |= {"background": split.nansum(), "with_background": (~split.isnan()).sum()}
            large = number_of_objects(without_small(target, LARGE_SHARE))
            added["large_objects"] = torch.bincount(large, minlength=round(1 / LARGE_SHARE) + 1)
        # The ARI between the segmentations of each image and the one before it.
        now = (owners[:, None] if target is None else torch.stack([owners, target], dim=1))[::frames]
        row = now if self._before is None else torch.cat([self._before, now])
        self._before = now[-1:]
        if len(row) > 1:
            added["pairs"] = len(row) - 1
            for name, maps in zip(("likeness", "true_likeness"), row.unbind(1), strict=False):
                added[name] = adjusted_rand_index(maps[1:].clamp(min=0), maps[:-1].where(maps[1:] >= 0, -1)).sum()
        for name, values in added.items():
            state: Tensor = getattr(self, name)
            state += torch.as_tensor(values).to(state)

    def compute(self) -> Diagnosis:
        """The diagnosis of all images added so far, of all processes."""
        sums: dict[str, Any] = {name: getattr(self, name).cpu() for name in self._defaults}
        images, pairs, masked = sums["images"], sums["pairs"], bool(sums["masked"] > 0)
        means = ("slot_use", "slot_shares", "mask_entropy", "attention_changes", "duplicate_shares")
        return Diagnosis(
            images=int(images),
            **{name: sums[name].long().tolist() for name in ("slots_used_counts", "entropy_counts")},
            **{name: (sums[name] / images).tolist() for name in means},
            likeness=float(sums["likeness"] / pairs) if pairs > 0 else None,
            true_likeness=float(sums["true_likeness"] / pairs) if masked and pairs > 0 else None,
            background_slots=float(sums["background"] / full) if (full := sums["with_background"]) > 0 else None,
            objects=float(sums["objects"] / images) if masked else None,
            large_objects=int((sums["large_objects"].cumsum(0) < MOST_IMAGES * sums["masked"]).sum())
            if masked
            else None,
            mean_masks=(sums["mean_masks"] / images).float(),
        )

    def reset(self) -> None:
        """Removes all images."""
        super().reset()
        self._before = None
