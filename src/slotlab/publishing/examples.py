"""Pictures for a model's card, chosen by score and not by eye: the first images, the best and the worst."""

from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from slotlab.data import Batch, SlotDataset
from slotlab.metrics.functional import adjusted_rand_index, peak_signal_to_noise_ratio
from slotlab.models import Model
from slotlab.reporting.figures import reconstruction_grid
from slotlab.reporting.previews import outputs

CELL = 96


@dataclass
class ImageScores:
    """A score of each image of a data set, in its order; `add` is what `slotlab.evaluate` takes as `on_output`.

    Attributes:
        source: the masks to score, a model's `finer_masks`; none for a model without slots.
        name: what is scored: FG-ARI of these masks, or the PSNR of the reconstruction where there are none, or no true
            ones.
        index: the images' numbers in their data set.
        values: their scores; more is better.
    """

    source: str | None = None
    name: str = ""
    index: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, batch: Batch, output: Any) -> None:
        """Adds the scores of a batch, given what a model made of it."""
        if self.source is not None and "mask" in batch:
            self.name = f"FG-ARI of the {output.titles.get(self.source, 'attention masks')}"
            target = batch["mask"].to(output.masks.device)
            values = adjusted_rand_index(output.segmentation(self.source), target, foreground_only=True)
        else:
            self.name = "PSNR of the reconstruction"
            images = batch["image"].to(output.reconstruction.device)
            values = peak_signal_to_noise_ratio(output.reconstruction.clamp(0, 1), images)
        self.index += batch["index"].tolist()
        self.values += values.tolist()

    def chosen(self, count: int) -> dict[str, list[int]]:
        """Places of the `first` images, of the `best` and of the `worst`, the extreme one first; equals in order."""
        scores = torch.tensor(self.values, dtype=torch.float64)
        return {
            "first": list(range(min(count, len(scores)))),
            "best": scores.argsort(descending=True, stable=True)[:count].tolist(),
            "worst": scores.argsort(stable=True)[:count].tolist(),
        }


def example_picture(model: Model, dataset: SlotDataset, places: list[int], seed: int = 0) -> Image.Image:
    """A row for each image of `dataset` at `places`: what the model makes of it, beside the truth."""
    batch = dataset.batch(places)
    return reconstruction_grid(batch["image"].cpu(), outputs(model, batch, seed), batch.get("mask"), cell=CELL)
