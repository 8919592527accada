"""A trained model whose masks teach slot attention where to look (self-distillation)."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.checkpoints import load
from slotlab.data import Batch
from slotlab.errors import ConfigError
from slotlab.models import FeatureAutoencoder, FeatureModel, FrozenFeatures, TrainableModel, with_slots
from slotlab.models.sampling import seeded_generator

MOST_KEPT = 500_000  # images whose labels are kept in memory


class Teacher:
    """Labels of features by the masks of a model, which stays as it is.

    The labels of an image are found once and kept, so they depend on its index and `seed` only.

    Args:
        name: what `slotlab.load` takes: a run, such as one of the same preset, or "photos".
        student: the model that is trained.
        seed: of the teacher's initial slots.

    Raises:
        CheckpointError: there is no such model, or it has no slots.
        ConfigError: it takes images of another size.
    """

    def __init__(self, name: str, student: TrainableModel, seed: int) -> None:
        self.model, self.seed = with_slots(load(name), name), seed
        if self.model.resolution != student.resolution:
            seen, wanted = self.model.resolution, student.resolution
            raise ConfigError(f"training.teacher: {name} sees {seen}x{seen} pixels, the model {wanted}x{wanted}")
        self._same_features = (
            isinstance(student, FeatureAutoencoder)
            and isinstance(self.model, FeatureModel)
            and frozen_in(self.model).fingerprint() == frozen_in(student).fingerprint()
        )
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def labels(self, batch: Batch, rows: slice, grid: Sequence[int]) -> Tensor:
        """The teacher's slot of each feature, int64 [B, h, w], of some rows of a batch."""
        index = batch["index"][rows].tolist()
        found = {number: self._kept[number] for number in index if number in self._kept}
        if new := [place for place, number in enumerate(index) if number not in found]:
            images = batch["image"][rows][new]
            device = images.device
            self.model.to(device)
            generators = [seeded_generator(self.seed, index[place]) for place in new]
            if self._same_features and "features" in batch:
                raw = batch["features"][rows][new].to(device)
                output = cast(Any, self.model)(images, generators, raw=raw)
            else:
                output = cast(Any, self.model).segment(images, generators)
            soft = F.adaptive_avg_pool2d(output.soft_masks(self.model.finer_masks), tuple(grid))  # type: ignore[arg-type]
            found |= {index[place]: labels for place, labels in zip(new, soft.argmax(dim=1).short(), strict=True)}
        if len(self._kept) < MOST_KEPT:
            self._kept |= {number: labels.cpu() for number, labels in found.items()}
        return torch.stack([found[number].cpu() for number in index]).long()


def frozen_in(model: FeatureModel) -> FrozenFeatures:
    """The frozen network of a model."""
    return model.encoder.backbone if isinstance(model, FeatureAutoencoder) else model.encoder
