"""One pass over a data set, and what is measured on it: scores, and how a model uses its slots."""

import json
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.data import Batch, SlotDataset, evaluation_batches
from slotlab.data.dataset import ORIGINAL
from slotlab.data.sample import IGNORED
from slotlab.distributed import from_all, place_among_processes
from slotlab.errors import ConfigError
from slotlab.files import write_json
from slotlab.metrics.baselines import block_pattern, colour_groups, feature_groups, superpixels
from slotlab.metrics.functional import squared_error, without_small
from slotlab.models import (
    FeatureModel,
    FeatureOutput,
    LatentAutoencoder,
    Model,
    SlotModel,
    SlotOutput,
    merge_slots,
    with_slots,
)
from slotlab.models.building import evaluating
from slotlab.models.efficientnet import PACKAGE
from slotlab.models.output import LEAST, NEAR, OVERLAP, chosen_source
from slotlab.models.sampling import seeded_generator
from slotlab.models.video import ClipModel, TrackedModel, cues_of
from slotlab.progress import in_steps
from slotlab.released import PHOTOS

if TYPE_CHECKING:
    from slotlab.diagnostics import Diagnosis
    from slotlab.metrics import Score

Size = tuple[int, int]
Baseline = Callable[[Tensor, Size, int], Tensor]  # images [B, 3, H, W], size, number of segments -> int64 [B, *size]


def baselines_here() -> dict[str, Baseline]:
    """The baselines that need no training, by title; the last two need the extra `vision`."""

    def of_pixels(groups: Callable[[Tensor, int], Tensor]) -> Baseline:
        return lambda images, size, count: groups(resized(images, size), count)

    found = {"block pattern": of_pixels(block_pattern), "colour K-means": of_pixels(colour_groups)}
    if find_spec("skimage"):
        found["SLIC superpixels"] = of_pixels(superpixels)
    if find_spec(PACKAGE):
        from slotlab.checkpoints import load

        model: Any = load(PHOTOS)
        side, grid = model.resolution, model.encoder.grid

        def of_features(images: Tensor, size: Size, count: int) -> Tensor:
            features = F.normalize(model.encoder(resized(images.cpu(), (side, side))), dim=2)
            return feature_groups(features, grid, size, count).to(images.device)

        found["feature K-means"] = of_features
    return found


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of a model on a data set."""

    protocol: dict[str, Any]  # data, split, crop, resolution, images, seed, metrics' definitions, model.describe()
    masks: "dict[str, Score]" = field(default_factory=dict)  # ari, fg_ari, miou, mbo; empty without true masks
    attention: "dict[str, Score]" = field(default_factory=dict)  # of the last iteration, resized bilinearly
    posterior: "dict[str, Score]" = field(default_factory=dict)  # if the model has posterior masks
    video: "dict[str, dict[str, Score]]" = field(default_factory=dict)  # of clips, by source, see `VideoScores`
    reconstruction: "dict[str, Score]"  # mse_sum (as CLEVRTex), mse, psnr (dB), after a clamp; or feature_error
    loss: float  # the training objective, mean over images
    baselines: "dict[str, dict[str, Score]]" = field(default_factory=dict)  # by title, if they were asked for
    best_annotator: "dict[str, dict[str, Score]]" = field(default_factory=dict)  # by source or title, if several
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
        content: dict[str, Any] = {"protocol": self.protocol, **means, "details": details, **rest}
        by_title = {"baselines": self.baselines, "best_annotator": self.best_annotator, "video": self.video}
        for group, found in by_title.items():
            if found or group == "baselines":
                content[group] = {title: {name: asdict(one) for name, one in of.items()} for title, of in found.items()}
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
    images. `segment_only` calls `model.segment`, which skips slow sampling. Images whose masks have
    their original sizes come one by one. Of clips, batch and output hold all frames, clip after
    clip, and `index` the clips; a model of images is tracked (`slotlab.models.TrackedModel`).

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
    batch_size = 1 if getattr(dataset, "mask_resolution", None) == ORIGINAL else batch_size
    with evaluating(model):
        for batch in evaluation_batches(dataset, batch_size=batch_size, rank=place.rank, world_size=place.count):
            for name in batch.keys() & {"image", "mask", "classes", "annotators"}:
                batch[name] = batch[name].to(device)
            output = _run(model, batch, seed, segment_only)
            for name in batch.keys() & {"image", "mask"} if batch["image"].ndim == 5 else ():
                batch[name] = batch[name].flatten(0, 1)
            yield batch, output


def _run(model: Any, batch: Batch, seed: int, segment_only: bool = False) -> Any:
    """The output for a batch; clips that a model of images sees are tracked."""
    if batch["image"].ndim == 5 and not isinstance(model, ClipModel):
        model = TrackedModel(model)
    generators = [seeded_generator(seed, int(index)) for index in batch["index"]]
    return (model.segment if segment_only else model)(batch["image"], generators, **cues_of(model, batch))


@torch.inference_mode()
def batch_output(model: Model, batch: Batch, seed: int) -> Any:
    """A model's output for one batch, as `outputs` yields it, on the CPU."""
    with evaluating(model):
        image = batch["image"].to(next(model.parameters()).device)
        output = _run(model, Batch(**{**batch, "image": image}), seed)  # pyright: ignore
    if isinstance(output, SlotOutput):
        return output.cpu()
    return replace(output, reconstruction=output.reconstruction.cpu())


class Evaluator:
    """Gathers scores over a loop over `outputs`; the protocol names its `seed` and the `weights`.

    With `baselines` it also scores baselines without training (`slotlab.metrics.baselines`), in as many
    segments as the model has slots. Objects below the share `min_area` of the picture are ignored.
    Masks of another size than the true ones are resized bilinearly, before the argmax. Where the
    data was opened with `every_mask`, mBO by class is scored too, or each annotator.

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
        min_area: float = 0.0,
    ) -> None:
        from torchmetrics import MeanMetric  # torchmetrics takes seconds to import

        from slotlab.diagnostics import SlotDiagnostics
        from slotlab.metrics import (
            MeanBestOverlap,
            PeakSignalToNoiseRatio,
            ReconstructionError,
            SegmentationScores,
            VideoScores,
        )

        if not 0 <= min_area < 1:
            raise ConfigError(f"min_area={min_area}: expected a share of the picture, from 0 to below 1")

        device = next(model.parameters()).device
        self.model, self.dataset = model, dataset
        self.protocol = {**model.describe(), "slot_seed": seed, **({} if weights is None else {"weights": weights})}
        self.protocol |= {"min_area": min_area} if min_area else {}
        self.min_area, self.more = min_area, set[str]()  # and what the batches have beside the mask
        self.sources = tuple(self.protocol.get("mask_sources", ()))
        self.costless = baselines_here() if baselines and self.sources else {}
        titles, slots = (*self.sources, *self.costless), self.protocol.get("slots")
        self.scores = {title: SegmentationScores(slots=slots).to(device) for title in titles}
        self.by_class = {title: MeanBestOverlap().to(device) for title in titles}
        self.best = {title: SegmentationScores(slots=slots, over="best").to(device) for title in titles}
        self.video = {title: VideoScores().to(device) for title in titles}
        self.diagnostics = None if isinstance(model, LatentAutoencoder) else SlotDiagnostics.of(model).to(device)
        mean = ReconstructionError("mean")
        errors = {"mse_sum": ReconstructionError("sum"), "mse": mean, "psnr": PeakSignalToNoiseRatio()}
        if isinstance(getattr(model, "image_model", model), FeatureModel):
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
            masks, seen = output.soft_masks(self.finer_masks), None
            if target is not None:  # at the masks' resolution
                seen = F.interpolate(target[:, None].double(), masks.shape[2:], mode="nearest")[:, 0].long()
            self.diagnostics.update(masks, output.slots, output.attention, seen, len(images) // len(batch["index"]))
        if len(images) > len(batch["index"]) and not isinstance(model, ClipModel):
            self.protocol |= TrackedModel(model).describe()
        if target is not None:
            size = (target.shape[1], target.shape[2])
            for source in self.sources:
                self._score(source, resized(output.soft_masks(source), size).argmax(dim=1), batch)
            for title, groups in self.costless.items():
                self._score(title, groups(images, size, self.protocol["slots"]), batch)
        pair = output.reconstruction.clamp(0, 1), images
        if isinstance(output, FeatureOutput):
            pair = output.predicted.transpose(1, 2)[..., None], output.features.transpose(1, 2)[..., None]
        else:
            self.squared_errors += squared_error(*pair, "mean").tolist()
        for error in self.errors.values():
            error.update(*pair)
        self.loss.update(model.losses(output, images))

    def _score(self, title: str, owners: Tensor, batch: Any) -> None:
        """Adds the segments `owners` int64 [B, H, W] of a source of masks, or of a baseline."""
        target = self._counted(batch["mask"])
        self.more |= batch.keys() & {"annotators", "classes"}
        if "classes" in batch:
            self.by_class[title].update(owners, batch["classes"].where(target >= 0, IGNORED))
        if "annotators" in batch:
            target = self._counted(batch["annotators"])
            self.best[title].update(owners, target)
        if len(owners) > (clips := len(batch["index"])):
            self.more.add("clips")
            self.video[title].update(owners.unflatten(0, (clips, -1)), target.unflatten(0, (clips, -1)))
        self.scores[title].update(owners, target)

    def _counted(self, target: Tensor) -> Tensor:
        return without_small(target, self.min_area) if self.min_area else target

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
            protocol |= {"miou": self.scores["masks"].definition, "mbo": "true objects, background excluded"}
            diagnosis = self.diagnostics.compute()
            found |= {"slots_used": diagnosis.slots_used, "warnings": diagnosis.warnings(with_slots(self.model))}
            found["diagnostics"] = {"mask_source": self.finer_masks, **diagnosis.numbers()}
            if self.dataset.has_masks:
                scores = {title: scores.compute() for title, scores in self.scores.items()}
                more = from_all([*self.more])
                if "classes" in more:
                    for title, by_class in self.by_class.items():
                        scores[title]["mbo_class"] = by_class.compute()
                found |= {source: scores[source] for source in self.sources}
                found["baselines"] = {title: scores[title] for title in self.costless}
                if "annotators" in more:
                    found["best_annotator"] = {title: best.compute() for title, best in self.best.items()}
                if "clips" in more:
                    found["video"] = {title: clips.compute() for title, clips in self.video.items()}
        return Evaluation(protocol=protocol, reconstruction=reconstruction, loss=float(self.loss.compute()), **found)


def resized(maps: Tensor, size: Size) -> Tensor:
    """Maps [B, C, H, W] resized bilinearly to [B, C, *size], averaged where they shrink."""
    return maps if maps.shape[2:] == size else F.interpolate(maps.float(), size, mode="bilinear", antialias=True)


@in_steps
def evaluate(
    model: Model,
    dataset: SlotDataset,
    *,
    batch_size: int = 32,
    seed: int = 0,
    weights: str | None = None,
    baselines: bool = False,
    min_area: float = 0.0,
    merge: bool = False,
) -> Generator[int, None, Evaluation]:
    """Scores a model on a data set, on the model's device and in float32.

    Takes the arguments of `outputs` and raises its errors. All processes return the scores of the
    whole. The protocol names the `weights`, e.g. "moving average"; `baselines` and `min_area` as
    for `Evaluator`. With `merge`, slots that hold one object are merged before they are scored, and
    those that hold nothing emptied (`slotlab.models.merge_slots`). To score masks at another
    resolution than the model's, open the data with `mask_resolution`.

    Example:
        >>> import slotlab
        >>> model = slotlab.load("scenes-64")
        >>> data = slotlab.open_data("scenes:plain", resolution=64, count=2, max_objects=6)
        >>> slotlab.evaluate(model, data).masks["fg_ari"].count
        2
    """
    evaluator = Evaluator(model, dataset, seed, weights, baselines, min_area)
    if merge:
        evaluator.protocol |= {"merged": f"overlap {OVERLAP}, distance {NEAR}, emptied below {LEAST}"}
    for batch, output in outputs(model, dataset, batch_size=batch_size, seed=seed):
        if merge and len(output) > len(batch["index"]):
            raise ConfigError("merge: a slot of a clip keeps its object from frame to frame; leave it out for clips")
        evaluator.update(batch, merge_slots(output, with_slots(model).finer_masks) if merge else output)
        yield len(batch["index"])
    return evaluator.compute()


@in_steps
def diagnose(
    model: SlotModel, dataset: SlotDataset, *, mask_source: str | None = None, batch_size: int = 32, seed: int = 0
) -> Generator[int, None, "Diagnosis"]:
    """Measures how a model uses its slots; the numbers equal the `diagnostics` of `evaluate`.

    Takes the arguments of `outputs` and raises its errors. Some numbers need true masks. The
    `mask_source` is "masks", "attention" (needs no sampling) or "posterior", by default
    `model.finer_masks`; ConfigError if the model has no such masks.
    """
    from slotlab.diagnostics import SlotDiagnostics

    source = chosen_source(mask_source, model.describe()["mask_sources"], model.finer_masks)
    gathered = SlotDiagnostics.of(model).to(next(model.parameters()).device)
    plain = source == "attention"  # needs no sampling
    for batch, output in outputs(model, dataset, batch_size=batch_size, seed=seed, segment_only=plain):
        frames = len(batch["image"]) // len(batch["index"])
        gathered.update(output.soft_masks(source), output.slots, output.attention, batch.get("mask"), frames)
        yield len(batch["index"])
    return gathered.compute()
