"""One pass over a data set, and what is measured on it: scores, and how a model uses its slots."""

import json
import math
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from slotlab.data import Batch, SlotDataset, evaluation_batches
from slotlab.distributed import from_all, place_among_processes
from slotlab.files import write_json
from slotlab.metrics.baselines import block_pattern, colour_groups
from slotlab.metrics.functional import squared_error
from slotlab.models import FeatureGrouping, FeatureOutput, LatentAutoencoder, Model, SlotModel
from slotlab.models.building import evaluating
from slotlab.models.output import chosen_source
from slotlab.models.randomness import seeded_generator
from slotlab.progress import finish

if TYPE_CHECKING:
    from slotlab.diagnostics import Diagnosis
    from slotlab.metrics import Score

BASELINES = {"block pattern": block_pattern, "colour K-means": colour_groups}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of a model on a data set."""

    protocol: dict[str, Any]  # data, split, crop, resolution, images, seed, metrics' definitions, model.describe()
    masks: "dict[str, Score]" = field(default_factory=dict)  # ari, fg_ari, miou, mbo; empty without true masks
    attention: "dict[str, Score]" = field(default_factory=dict)  # of the last iteration, resized bilinearly
    posterior: "dict[str, Score]" = field(default_factory=dict)  # if the model has posterior masks
    reconstruction: "dict[str, Score]"  # mse_sum (as CLEVRTex), mse, psnr (dB), after a clamp; or feature_error
    loss: float  # the training objective, mean over images
    baselines: "dict[str, dict[str, Score]]" = field(default_factory=dict)  # by title, if they were asked for
    usual_error: float = math.nan  # 99th percentile over images of the reconstruction's mse; NaN if it paints none
    slots_used: float = math.nan  # mean number of slots that own more than 0.5 % of an image; NaN without slots
    diagnostics: dict[str, Any] = field(default_factory=dict)  # of `mask_source`, the masks that fit objects best
    warnings: list[str] = field(default_factory=list)  # what the diagnostics show to be wrong, with what to try

    @property
    def segmentation(self) -> "dict[str, dict[str, Score]]":
        """Scores by source of masks, of the sources that were scored."""
        return {name: scores for name in ("masks", "attention", "posterior") if (scores := getattr(self, name))}

    def to_json(self) -> dict[str, Any]:
        """The content of `metrics.json`: means by name, "details"; None for NaN and infinity."""
        groups = {"masks": self.masks, "attention": self.attention, **self.segmentation}
        groups["reconstruction"] = self.reconstruction
        details = {group: {name: asdict(score) for name, score in scores.items()} for group, scores in groups.items()}
        means = {group: {name: score.mean for name, score in scores.items()} for group, scores in groups.items()}
        rest = {name: getattr(self, name) for name in ("loss", "usual_error", "slots_used", "diagnostics", "warnings")}
        costless = {title: {name: asdict(one) for name, one in of.items()} for title, of in self.baselines.items()}
        content = {"protocol": self.protocol, **means, "details": details, "baselines": costless, **rest}
        return json.loads(json.dumps(content), parse_constant=lambda _: None)

    def write(self, path: str | Path) -> None:
        """Writes `to_json()` to a file, whole or not at all."""
        write_json(path, self.to_json())


@torch.inference_mode()
def outputs(
    model: Model, dataset: SlotDataset, *, batch_size: int = 32, seed: int = 0, segment_only: bool = False
) -> Iterator[tuple[Batch, Any]]:
    """Runs a model over a data set; yields each batch and the model's output for it.

    The model is in evaluation mode, and batches are moved to its device. The random numbers for an
    image (initial slots, noise of samples) depend on `seed` and on the image's index only, so the
    batch size does not change the results. Each of several processes runs over its share of the
    images. `segment_only` calls `model.segment`, which skips slow sampling.

    Raises:
        DataError: an image cannot be read.
        ValueError: the images have another size than the model's.

    Example:
        >>> import slotlab
        >>> model = slotlab.load("scenes-64")
        >>> data = slotlab.open_data("scenes:plain", split="test", resolution=64, count=2)
        >>> for batch, output in outputs(model, data):
        ...     print(batch["index"].tolist(), tuple(output.masks.shape))
        [0, 1] (2, 7, 64, 64)
    """
    device = next(model.parameters()).device
    place = place_among_processes()
    run: Any = getattr(model, "segment") if segment_only else model  # noqa: B009
    with evaluating(model):
        for batch in evaluation_batches(dataset, batch_size=batch_size, rank=place.rank, world_size=place.count):
            for name in batch.keys() & {"image", "mask"}:
                batch[name] = batch[name].to(device)
            yield batch, run(batch["image"], [seeded_generator(seed, int(index)) for index in batch["index"]])


class Evaluator:
    """Gathers scores over a loop over `outputs`; the protocol names its `seed` and the `weights`.

    With `baselines` it also scores what costs nothing: a pattern of blocks, and K-means of colour and
    place, in as many segments as the model has slots (`slotlab.metrics.baselines`).

    Example:
        >>> import slotlab
        >>> model = slotlab.load("scenes-64")
        >>> data = slotlab.open_data("scenes:plain", resolution=64, count=2, max_objects=6)
        >>> evaluator = Evaluator(model, data)
        >>> for batch, output in outputs(model, data):
        ...     evaluator.update(batch, output)
        >>> evaluator.compute().protocol["images"]
        2
    """

    def __init__(
        self,
        model: Model,
        dataset: SlotDataset,
        seed: int = 0,
        weights: str | None = None,
        baselines: bool = False,
    ) -> None:
        from torchmetrics import MeanMetric  # torchmetrics takes seconds to import

        from slotlab.diagnostics import SlotDiagnostics
        from slotlab.metrics import PeakSignalToNoiseRatio, ReconstructionError, SegmentationScores

        device = next(model.parameters()).device
        self.model, self.dataset = model, dataset
        self.protocol = {**model.describe(), "slot_seed": seed, **({} if weights is None else {"weights": weights})}
        scores = SegmentationScores(slots=self.protocol.get("slots"))
        self.segmentation = {source: scores.clone().to(device) for source in self.protocol.get("mask_sources", ())}
        costless = BASELINES if baselines and self.segmentation else {}
        self.baselines = {title: scores.clone().to(device) for title in costless}
        self.diagnostics = None if isinstance(model, LatentAutoencoder) else SlotDiagnostics.of(model).to(device)
        mean = ReconstructionError("mean")
        errors = {"mse_sum": ReconstructionError("sum"), "mse": mean, "psnr": PeakSignalToNoiseRatio()}
        if isinstance(model, FeatureGrouping):
            errors = {"feature_error": mean}
        self.errors = {name: error.to(device) for name, error in errors.items()}
        self.squared_errors: list[float] = []
        self.finer_masks = getattr(model, "finer_masks", "")
        self.loss = MeanMetric(nan_strategy="disable").to(device)

    @torch.inference_mode()
    def update(self, batch: Batch, output: Any) -> None:
        """Adds a batch and the model's output for it, as `outputs` yields them."""
        model: Any = self.model
        images, target = batch["image"], batch.get("mask")
        if self.diagnostics is not None:
            masks = output.soft_masks(self.finer_masks)
            self.diagnostics.update(masks, output.slots, output.attention, target)
        if target is not None:
            for source, scores in self.segmentation.items():
                scores.update(output.segmentation(source), target)
            for title, scores in self.baselines.items():
                scores.update(BASELINES[title](images, self.protocol["slots"]), target)
        pair = output.reconstruction.clamp(0, 1), images
        if isinstance(output, FeatureOutput):
            pair = output.predicted.transpose(1, 2)[..., None], output.features.transpose(1, 2)[..., None]
        else:
            self.squared_errors += squared_error(*pair, "mean").tolist()
        for error in self.errors.values():
            error.update(*pair)
        self.loss.update(model.losses(output, images))

    def compute(self) -> Evaluation:
        """The scores of all images added so far, of all processes."""
        reconstruction = {name: error.compute() for name, error in self.errors.items()}
        described = self.dataset.describe()
        if "broken" in described:
            described["broken"] = len(set(from_all([file.file for file in getattr(self.dataset, "broken", [])])))
        protocol = {**described, "images": next(iter(reconstruction.values())).count, **self.protocol}
        found: dict[str, Any] = {}
        if errors := from_all(self.squared_errors):
            found["usual_error"] = float(np.quantile(errors, 0.99))
        if self.diagnostics is not None:
            protocol |= {"miou": self.segmentation["masks"].definition, "mbo": "true objects, background excluded"}
            diagnosis = self.diagnostics.compute()
            trained = not isinstance(self.model, FeatureGrouping)
            found |= {"slots_used": diagnosis.slots_used, "warnings": diagnosis.warnings(trained=trained)}
            found["diagnostics"] = {"mask_source": self.finer_masks, **diagnosis.numbers()}
            if self.dataset.has_masks:
                found |= {source: scores.compute() for source, scores in self.segmentation.items()}
                found["baselines"] = {title: scores.compute() for title, scores in self.baselines.items()}
        return Evaluation(protocol=protocol, reconstruction=reconstruction, loss=float(self.loss.compute()), **found)


def evaluate(
    model: Model,
    dataset: SlotDataset,
    *,
    batch_size: int = 32,
    seed: int = 0,
    weights: str | None = None,
    baselines: bool = False,
) -> Evaluation:
    """Scores a model on a data set, on the model's device and in float32.

    Takes the arguments of `outputs` and raises its errors. All processes return the scores of the
    whole. The protocol names the `weights`, e.g. "moving average"; `baselines` as for `Evaluator`.

    Example:
        >>> import slotlab
        >>> model = slotlab.load("scenes-64")
        >>> data = slotlab.open_data("scenes:plain", resolution=64, count=2, max_objects=6)
        >>> slotlab.evaluate(model, data).masks["fg_ari"].count
        2
    """
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "weights": weights, "baselines": baselines}
    return finish(evaluate_steps(model, dataset, **options))


def evaluate_steps(
    model: Model,
    dataset: SlotDataset,
    *,
    batch_size: int = 32,
    seed: int = 0,
    weights: str | None = None,
    baselines: bool = False,
) -> Generator[int, None, Evaluation]:
    """`evaluate` as a generator: yields the number of images of each batch, returns the scores."""
    evaluator = Evaluator(model, dataset, seed, weights, baselines)
    for batch, output in outputs(model, dataset, batch_size=batch_size, seed=seed):
        evaluator.update(batch, output)
        yield len(batch["index"])
    return evaluator.compute()


def diagnose(
    model: SlotModel, dataset: SlotDataset, *, mask_source: str | None = None, batch_size: int = 32, seed: int = 0
) -> "Diagnosis":
    """Measures how a model uses its slots; the numbers equal the `diagnostics` of `evaluate`.

    Takes the arguments of `outputs` and raises its errors. Some numbers need true masks. The
    `mask_source` is "masks", "attention" (needs no sampling) or "posterior", by default
    `model.finer_masks`; ConfigError if the model has no such masks.
    """
    return finish(diagnose_steps(model, dataset, mask_source=mask_source, batch_size=batch_size, seed=seed))


def diagnose_steps(
    model: SlotModel, dataset: SlotDataset, *, mask_source: str | None = None, batch_size: int = 32, seed: int = 0
) -> "Generator[int, None, Diagnosis]":
    """`diagnose` as a generator: yields the number of images of each batch."""
    from slotlab.diagnostics import SlotDiagnostics

    source = chosen_source(mask_source, model.describe()["mask_sources"], model.finer_masks)
    gathered = SlotDiagnostics.of(model).to(next(model.parameters()).device)
    plain = source == "attention"  # needs no sampling
    for batch, output in outputs(model, dataset, batch_size=batch_size, seed=seed, segment_only=plain):
        gathered.update(output.soft_masks(source), output.slots, output.attention, batch.get("mask"))
        yield len(batch["index"])
    return gathered.compute()
