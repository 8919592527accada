"""The sums of what batches show, over a data set and over processes."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from slotlab.diagnostics.diagnosis import Diagnosis
from slotlab.diagnostics.measures import (
    USED_SHARE,
    attention_changes,
    background_slots,
    duplicates,
    mask_entropy,
    owned_shares,
)
from slotlab.metrics.functional import adjusted_rand_index
from slotlab.models import SlotModel

MEAN_SIDE = 32  # the mean masks are kept in this size
ENTROPY_BINS = 20


class SlotDiagnostics(Metric):
    """Gathers how a model uses its slots; memory does not grow with the number of images.

    Args:
        slots: number of slots K of the model.
        iterations: of its slot attention.
    """

    full_state_update = False

    def __init__(self, slots: int, iterations: int) -> None:
        super().__init__()
        self.slots = slots
        self._before: Tensor | None = None
        shapes: dict[str, tuple[int, ...]] = {
            "images": (),
            "used": (slots + 1,),
            "use": (slots,),
            "shares": (slots,),
            "entropy": (),
            "entropies": (ENTROPY_BINS,),
            "changes": (iterations - 1,),
            "pairs": (),
            "likeness": (),
            "true_likeness": (),
            "masked": (),
            "objects": (),
            "background": (),
            "with_background": (),
            "duplicates": (slots, slots),
            "mean_masks": (slots, MEAN_SIDE, MEAN_SIDE),
        }
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("most_objects", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    @classmethod
    def of(cls, model: SlotModel) -> "SlotDiagnostics":
        """With nothing gathered yet, for a model."""
        return cls(model.slots, model.encoder.slot_attention.iterations)

    def update(self, masks: Tensor, slots: Tensor, attention: Tensor, target: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            masks: [B, K, H, W] in [0, 1], sums to 1 over K.
            slots: [B, K, D].
            attention: [B, T, K, N], softmax over K.
            target: true masks, int64 [B, H, W], 0 = background, where there are any.
        """
        masks = masks.float()
        shares, entropy = owned_shares(masks), mask_entropy(masks)
        used = shares > USED_SHARE
        self._add("images", torch.tensor(len(masks)))
        self._add("used", torch.bincount(used.sum(dim=1), minlength=self.slots + 1))
        self._add("use", used.sum(dim=0))
        self._add("shares", shares.sum(dim=0))
        self._add("entropy", entropy.sum())
        self._add("entropies", torch.histc(entropy.clamp(0, 1), ENTROPY_BINS, 0, 1))
        self._add("changes", attention_changes(attention).sum(dim=0))
        self._add("duplicates", duplicates(masks, slots.float()).sum(dim=0))
        owners = masks.argmax(dim=1)
        owned = F.one_hot(owners, self.slots).movedim(3, 1).float()
        self._add("mean_masks", F.adaptive_avg_pool2d(owned, MEAN_SIDE).sum(dim=0))
        if target is not None:
            split = background_slots(masks, target)
            self._add("masked", torch.tensor(len(masks)))
            self._add("background", split.nansum())
            self._add("with_background", (~split.isnan()).sum())
            ids = target.flatten(1).sort(dim=1).values
            objects = (ids.diff(dim=1) != 0).sum(dim=1) + (ids[:, 0] != 0)
            self._add("objects", objects.sum())
            self.most_objects = torch.maximum(self.most_objects, objects.max().to(self.most_objects))
        self._compare(owners, target)

    def compute(self) -> Diagnosis:
        """The diagnosis of all images added so far, of all processes."""
        values: dict[str, Any] = {name: getattr(self, name).cpu() for name in self._defaults}
        images, masked = values["images"], bool(values["masked"] > 0)
        return Diagnosis(
            images=int(images),
            used_counts=values["used"].long().tolist(),
            use=(values["use"] / images).tolist(),
            shares=(values["shares"] / images).tolist(),
            entropy=float(values["entropy"] / images),
            entropy_counts=values["entropies"].long().tolist(),
            attention_changes=(values["changes"] / images).tolist(),
            duplicates=(values["duplicates"] / images).tolist(),
            likeness=float(values["likeness"] / values["pairs"]),
            true_likeness=float(values["true_likeness"] / values["pairs"]) if masked else None,
            background_slots=float(values["background"] / values["with_background"])
            if values["with_background"] > 0
            else None,
            objects=float(values["objects"] / images) if masked else None,
            most_objects=int(values["most_objects"]) if masked else None,
            mean_masks=(values["mean_masks"] / images).float(),
        )

    def reset(self) -> None:
        """Forgets all images."""
        super().reset()
        self._before = None

    def _compare(self, owners: Tensor, target: Tensor | None) -> None:
        """Adds how alike the segmentation of each image is to that of the image before."""
        now = owners[:, None] if target is None else torch.stack([owners, target], dim=1)
        row = now if self._before is None else torch.cat([self._before, now])
        self._before = now[-1:]
        if len(row) > 1:
            self._add("pairs", torch.tensor(len(row) - 1))
            self._add("likeness", adjusted_rand_index(row[1:, 0], row[:-1, 0]).sum())
            if target is not None:
                self._add("true_likeness", adjusted_rand_index(row[1:, 1], row[:-1, 1]).sum())

    def _add(self, name: str, values: Tensor) -> None:
        state: Tensor = getattr(self, name)
        state += values.to(state)
