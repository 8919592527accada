"""How a model uses its slots on a data set."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from slotlab.data import SlotDataset, evaluation_batches
from slotlab.diagnostics.diagnosis import Diagnosis
from slotlab.diagnostics.gathering import SlotDiagnostics
from slotlab.models import SlotModel
from slotlab.models.evaluating import evaluating
from slotlab.models.output import chosen_source
from slotlab.models.randomness import seeded_generator
from slotlab.processes import place_among_processes


@torch.inference_mode()
def diagnose(
    model: SlotModel,
    dataset: SlotDataset,
    *,
    mask_source: str | None = None,
    batch_size: int = 32,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> Diagnosis:
    """Looks at the slots, attention and masks of all images; the numbers are those of `slotlab.evaluate`.

    In several processes each takes its share, and all return the diagnosis of the whole.

    Args:
        model: put into evaluation mode for the time.
        dataset: from `slotlab.open_data`, at the model's resolution; some numbers need true masks.
        mask_source: "masks", "attention" or "posterior"; by default the model's finest. With "attention", nothing is
            decoded.
        batch_size: images at a time.
        seed: of the initial slots, which depend on it and the image alone.
        on_batch: told the number of images after each batch, for progress bars.

    Raises:
        ConfigError: an unknown source of masks.
        DataError: an image cannot be read.
        ValueError: images of another size than the model's.
    """
    source = chosen_source(mask_source, model.describe()["mask_sources"], model.finer_masks)
    device = next(model.parameters()).device
    gathered = SlotDiagnostics.of(model).to(device)
    place = place_among_processes()
    with evaluating(model):
        for batch in evaluation_batches(dataset, batch_size=batch_size, rank=place.rank, world_size=place.count):
            images = batch["image"].to(device)
            generators = [seeded_generator(seed, int(index)) for index in batch["index"]]
            if source != "attention":
                output = model(images, generators)
                masks, slots, attention = output.soft_masks(source), output.slots, output.attention
            else:
                encoded = model.encoder(images, generators)
                slots, attention = encoded.slots, encoded.attention
                maps = attention[:, -1].float().unflatten(2, encoded.attention_grid)
                masks = F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)
            gathered.update(masks, slots, attention, batch["mask"].to(device) if "mask" in batch else None)
            if on_batch is not None:
                on_batch(len(images))
    return gathered.compute()
