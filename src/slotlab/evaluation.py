"""How well a model takes images apart: one evaluation, one protocol, all four mask metrics for both kinds of masks."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from slotlab.data import Batch, SlotDataset, evaluation_batches
from slotlab.distributed import from_all, place_among_processes
from slotlab.files import replacing
from slotlab.models import LatentAutoencoder, Model
from slotlab.models.building import evaluating
from slotlab.models.randomness import seeded_generator

if TYPE_CHECKING:
    from slotlab.metrics import Score

MBO_DEFINITION = "true objects, background excluded"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of a model on a data set.

    Attributes:
        protocol: data, split, crop, resolution, number of images, what the model says of itself (`describe`: slots,
            sources of the masks, sampler), seed, and the definitions used.
        masks: scores of `output.masks`: "ari", "fg_ari", "miou", "mbo"; empty for data without true masks, and for a
            model without slots.
        attention: the same of the slot-attention masks of the last iteration, resized bilinearly.
        posterior: the same of the posterior masks, where the model has them.
        reconstruction: "mse_sum" (official CLEVRTex: sum over channels and pixels), "mse" (mean), "psnr" (dB), of
            reconstructions clamped to [0, 1].
        loss: the training objective, mean over images.
        slots_used: mean number of slots that own more than 0.5 % of an image; NaN for a model without slots.
        diagnostics: how the slots are used, in numbers (docs/diagnostics.md), of the masks that fit objects better:
            `mask_source`; empty for a model without slots.
        warnings: what the diagnostics show to be wrong, in words, each with what to try.
    """

    protocol: dict[str, Any]
    masks: "dict[str, Score]" = field(default_factory=dict)
    attention: "dict[str, Score]" = field(default_factory=dict)
    posterior: "dict[str, Score]" = field(default_factory=dict)
    reconstruction: "dict[str, Score]"
    loss: float
    slots_used: float
    diagnostics: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def segmentation(self) -> "dict[str, dict[str, Score]]":
        """Scores by source of masks, of the sources that were scored."""
        sources = {"masks": self.masks, "attention": self.attention, "posterior": self.posterior}
        return {source: scores for source, scores in sources.items() if scores}

    def to_json(self) -> dict[str, Any]:
        """What `metrics.json` holds: every mean under its name, with standard errors and counts beside.

        What is not finite is None, for JSON has no other word for it.
        """
        groups = {"masks": self.masks, "attention": self.attention, **self.segmentation}
        groups["reconstruction"] = self.reconstruction
        content: dict[str, Any] = {"protocol": self.protocol}
        content |= {group: {name: score.mean for name, score in scores.items()} for group, scores in groups.items()}
        content["details"] = {
            group: {name: asdict(score) for name, score in scores.items()} for group, scores in groups.items()
        }
        content |= {"loss": self.loss, "slots_used": self.slots_used}
        return _finite(content | {"diagnostics": self.diagnostics, "warnings": self.warnings})

    def write(self, path: str | Path) -> None:
        """Writes `to_json()` to `path`, whole or not at all."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    """JSON values without NaN and infinity, which become None."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@torch.inference_mode()
def outputs(
    model: Model, dataset: SlotDataset, *, batch_size: int = 32, seed: int = 0, segment_only: bool = False
) -> Iterator[tuple[Batch, Any]]:
    """What a model makes of each batch of a data set: the one pass that scores, diagnoses and collects slots.

    The model is in evaluation mode meanwhile. What is random in an image depends on `seed` and the image's index alone,
    so the batch size makes no difference. Of several processes each takes its share of the images.

    Args:
        model: what to run; the batches come on its device.
        dataset: from `slotlab.open_data`, at the model's resolution.
        batch_size: images at a time.
        seed: of the initial slots, and of the noise of samples.
        segment_only: call `model.segment`, which paints nothing where painting is slow, instead of the model.

    Yields:
        The batch, and the model's output.

    Raises:
        DataError: an image cannot be read.
        ValueError: images of another size than the model's.
    """
    device = next(model.parameters()).device
    place = place_among_processes()
    run: Any = getattr(model, "segment") if segment_only else model  # noqa: B009
    with evaluating(model):
        for batch in evaluation_batches(dataset, batch_size=batch_size, rank=place.rank, world_size=place.count):
            batch["image"] = batch["image"].to(device)
            if "mask" in batch:
                batch["mask"] = batch["mask"].to(device)
            yield batch, run(batch["image"], [seeded_generator(seed, int(index)) for index in batch["index"]])


@torch.inference_mode()
def evaluate(
    model: Model,
    dataset: SlotDataset,
    *,
    batch_size: int = 32,
    seed: int = 0,
    weights: str | None = None,
    on_batch: Callable[[int], None] | None = None,
    on_output: Callable[[Batch, Any], None] | None = None,
) -> Evaluation:
    """Scores `model` on all of `dataset`, on the model's device and in float32.

    Initial slots depend on `seed` and the image alone, so that the result does not depend on the batch size; in
    several processes each takes its share, and all return the scores of the whole.

    Args:
        model: what to score; put into evaluation mode for the time.
        dataset: from `slotlab.open_data`, at the model's resolution.
        batch_size: images at a time.
        seed: of the initial slots, and of the noise of samples.
        weights: for the protocol, which weights these are, such as "moving average".
        on_batch: told the number of images after each batch, for progress bars.
        on_output: given each batch and what the model made of it, for scores of single images.

    Raises:
        DataError: an image cannot be read.
        ValueError: images of another size than the model's.
    """
    from torchmetrics import MeanMetric

    from slotlab.diagnostics import SlotDiagnostics
    from slotlab.metrics import PeakSignalToNoiseRatio, ReconstructionError, SegmentationScores

    device = next(model.parameters()).device
    definitions = model.describe()
    segmentation = {source: SegmentationScores().to(device) for source in definitions.get("mask_sources", ())}
    errors = {
        "mse_sum": ReconstructionError("sum").to(device),
        "mse": ReconstructionError("mean").to(device),
        "psnr": PeakSignalToNoiseRatio().to(device),
    }
    loss = MeanMetric(nan_strategy="disable").to(device)
    slot_model = None if isinstance(model, LatentAutoencoder) else model
    gathered = None if slot_model is None else SlotDiagnostics.of(slot_model).to(device)
    place = place_among_processes()
    with evaluating(model):
        for batch in evaluation_batches(dataset, batch_size=batch_size, rank=place.rank, world_size=place.count):
            images = batch["image"].to(device)
            output: Any = model(images, [seeded_generator(seed, int(index)) for index in batch["index"]])
            target = batch["mask"].to(device) if "mask" in batch else None
            if slot_model is not None and gathered is not None:
                gathered.update(output.soft_masks(slot_model.finer_masks), output.slots, output.attention, target)
                if target is not None:
                    for source, scores in segmentation.items():
                        scores.update(output.segmentation(source), target)
            for error in errors.values():
                error.update(output.reconstruction.clamp(0, 1), images)
            loss.update(model.losses(output, images))
            if on_output is not None:
                on_output(batch, output)
            if on_batch is not None:
                on_batch(len(images))
    diagnosis = None if gathered is None else gathered.compute()
    scored = dataset.has_masks and diagnosis is not None
    reconstruction = {name: error.compute() for name, error in errors.items()}
    described = dataset.describe()
    if "broken" in described:
        described["broken"] = len(set(from_all([file.file for file in getattr(dataset, "broken", [])])))
    return Evaluation(
        protocol={
            **described,
            "images": reconstruction["mse"].count,
            **definitions,
            "slot_seed": seed,
            **({} if weights is None else {"weights": weights}),
            **({"miou": segmentation["masks"].definition, "mbo": MBO_DEFINITION} if diagnosis else {}),
        },
        **({source: scores.compute() for source, scores in segmentation.items()} if scored else {}),
        reconstruction=reconstruction,
        loss=float(loss.compute()),
        slots_used=diagnosis.slots_used if diagnosis else math.nan,
        diagnostics={"mask_source": slot_model.finer_masks, **diagnosis.numbers()} if slot_model and diagnosis else {},
        warnings=diagnosis.warnings() if diagnosis else [],
    )
