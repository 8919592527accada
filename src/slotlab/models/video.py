"""Video: any slot model, frame by frame, with slots that keep their objects through time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from slotlab.errors import ConfigError
from slotlab.models.building import Positive, Probability, configured, evaluating
from slotlab.models.output import SlotOutput
from slotlab.models.sampling import Generators
from slotlab.models.slot_attention import Begin, SlotAttention

Starts = Literal["learned", "boxes", "centres"]
OVERLAP, LIKENESS = 1.0, 0.5  # weights of mask overlap and of slot likeness where slots are matched


class ClipModel(nn.Module):
    """A slot model that takes clips; what it does not define itself is that of its image model.

    Attributes:
        image_model: the model of single frames.
        backpropagate: frames through which gradients flow back; 0: all frames of a clip.
    """

    image_model: Any
    backpropagate = 0

    def __init__(self, image_model: nn.Module) -> None:
        super().__init__()
        self.image_model = image_model

    def __getattr__(self, name: str) -> Any:
        """An attribute of this module, or else of the image model."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("image_model"), name)

    def step(
        self,
        images: Tensor,
        previous: SlotOutput | None,
        generator: Generators = None,
        cues: Tensor | None = None,
        segment_only: bool = False,
    ) -> SlotOutput:
        """The output for the next frames [B, 3, R, R] of B clips, after that of the frames before.

        `cues` [B, K, 4] are boxes (`boxes_of`) for models that start from them.
        """
        raise NotImplementedError

    def forward(
        self, images: Tensor, generator: Generators = None, cues: Tensor | None = None, segment_only: bool = False
    ) -> SlotOutput:
        """The output for all frames of clips [B, T, 3, R, R], as a batch of B · T images.

        The frames of a clip follow each other: `output.slots.unflatten(0, (B, T))`. Images
        [B, 3, R, R] are clips of one frame. `attention` has the iterations that all frames have.
        """
        clips = images if images.ndim == 5 else images[:, None]
        found: list[SlotOutput] = []
        for time in range(clips.shape[1]):
            previous = found[-1] if found else None
            if previous is not None and self.backpropagate and time % self.backpropagate == 0:
                previous = replace(previous, slots=previous.slots.detach())
            found.append(self.step(clips[:, time], previous, generator, cues, segment_only))
        return _joined(found)

    def segment(self, images: Tensor, generator: Generators = None, cues: Tensor | None = None) -> SlotOutput:
        """As `forward`, without what is slow: no sampling of slot diffusion."""
        return self(images, generator, cues, segment_only=True)

    def stream(
        self,
        frames: Iterable[Tensor],
        generator: Generators = None,
        cues: Tensor | None = None,
        segment_only: bool = True,
    ) -> Iterator[SlotOutput]:
        """Yields the output of each frame as it comes; memory does not grow with their number.

        Args:
            frames: images [3, R, R] of one clip, or [B, 3, R, R] of B clips, in [0, 1].
            generator: fixes the slots of the first frame, if they are random.
            cues: as for `step`.
            segment_only: skip what is slow, as `segment` does.

        Example:
            >>> import slotlab
            >>> video = TrackedModel(slotlab.load("scenes-64"))
            >>> frames, _ = slotlab.render_video(0, frames=3)
            >>> [tuple(output.segmentation().shape) for output in video.stream(frames)]
            [(1, 64, 64), (1, 64, 64), (1, 64, 64)]
        """
        previous: SlotOutput | None = None
        for frame in frames:
            with evaluating(self), torch.no_grad():
                previous = self.step(frame if frame.ndim == 4 else frame[None], previous, generator, cues, segment_only)
            yield previous


class SlotPredictor(nn.Module):
    """A transformer block from the slots of a frame to the starts of the next (SAVi's predictor).

    Normalisation comes first, and both branches begin at zero: an untrained predictor changes
    nothing.

    Args:
        dim: width D of a slot.
        heads: heads of the self-attention among slots.
        mlp_dim: hidden width of the MLP.
    """

    def __init__(self, dim: int, heads: int = 4, mlp_dim: int = 256) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"video.heads: {heads} does not divide the slots' width {dim}; take a divisor")
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, dim))
        for last in (self.attention.out_proj, cast(nn.Linear, self.mlp[2])):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, slots: Tensor) -> Tensor:
        """[B, K, D] to [B, K, D]."""
        normed = self.norm_attention(slots)
        slots = slots + self.attention(normed, normed, normed, need_weights=False)[0]
        return slots + self.mlp(self.norm_mlp(slots))


@configured("video")
class VideoModel(ClipModel):
    """Makes a video model of a slot model: slots of a frame start from those of the frame before.

    After SAVi (Kipf et al. 2022, arXiv 2111.12594). The first frame has the image model's own slot
    starts and iterations; each later one starts from what the predictor makes of the slots before.
    In a config it is the section `video` beside the settings of the image model.

    Args:
        image_model: any model with slot attention.
        predictor: "transformer": a `SlotPredictor`; "identity": the slots themselves.
        heads: heads of the predictor's self-attention.
        predictor_dim: hidden width of the predictor's MLP.
        later_iterations: iterations of slot attention on each frame after the first.
        starts: "learned": the image model's own starts on the first frame; "boxes" or "centres":
            to these is added what an MLP makes of the boxes or centres of the objects in the first
            frame: object n in slot n, slot 0 for the background (conditional SAVi).
        anchor: share of each later start that is the image model's own start of that slot, not the
            prediction: it keeps slots from drifting, and needs learned or bi-level starts.
        first_passes: times that the first frame is seen. From the second on slots start from those
            of the pass before, as in a later frame; only the last pass counts.
        backpropagate: frames through which gradients flow back; 0: all frames of a clip.

    Example:
        >>> import slotlab
        >>> video = VideoModel(slotlab.load("scenes-64"))
        >>> output = video(torch.rand(2, 3, 3, 64, 64))
        >>> output.slots.unflatten(0, (2, 3)).shape
        torch.Size([2, 3, 7, 128])
    """

    def __init__(
        self,
        image_model: nn.Module,
        predictor: Literal["transformer", "identity"] = "transformer",
        heads: Positive = 4,
        predictor_dim: Positive = 256,
        later_iterations: Annotated[int, Field(ge=1, le=64)] = 1,
        starts: Starts = "learned",
        anchor: Probability = 0.0,
        first_passes: Positive = 1,
        backpropagate: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(image_model)
        attention = self._slot_attention
        if anchor and attention.initialisation not in ("learned", "bi-level"):
            raise ConfigError("video.anchor: needs slots of their own starts; add initialisation=learned")
        self.anchor, self.first_passes = anchor, first_passes
        self.predictor = (
            SlotPredictor(attention.dim, heads, predictor_dim) if predictor == "transformer" else nn.Identity()
        )
        self.later_iterations, self.starts, self.backpropagate = later_iterations, starts, backpropagate
        if starts != "learned":
            width = 4 if starts == "boxes" else 2
            self.cue = nn.Sequential(
                nn.Linear(width, predictor_dim), nn.ReLU(), nn.Linear(predictor_dim, attention.dim)
            )
        self._video = {"predictor": predictor, "heads": heads, "predictor_dim": predictor_dim, "starts": starts}
        self._video |= {"later_iterations": later_iterations, "backpropagate": backpropagate, "anchor": anchor}
        self._video["first_passes"] = first_passes

    @property
    def config(self) -> dict[str, Any]:
        """That of the image model, with the section `video`."""
        return {**self.image_model.config, "video": self._video}

    @property
    def iterations(self) -> int:
        """Iterations of slot attention that all frames have."""
        return min(self.image_model.iterations, self.later_iterations)

    @property
    def _slot_attention(self) -> SlotAttention:
        return self.image_model.encoder.slot_attention

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        return {**self.image_model.describe(), "video": self._video}

    def step(
        self,
        images: Tensor,
        previous: SlotOutput | None,
        generator: Generators = None,
        cues: Tensor | None = None,
        segment_only: bool = False,
    ) -> SlotOutput:
        """See `ClipModel.step`; slots of the frame before become the starts of this one."""
        run = self.image_model.segment if segment_only else self.image_model
        if previous is not None:
            return run(images, generator, begin=(self.predicted(previous.slots), self.later_iterations))
        output = run(images, generator, begin=self._first_starts(len(images), generator, cues))
        for _ in range(self.first_passes - 1):
            output = run(images, generator, begin=(self.predicted(output.slots), self.later_iterations))
        return output

    def _first_starts(self, count: int, generator: Generators, cues: Tensor | None) -> Begin | None:
        """Starts of the first frame where cues are part of them; None: the image model's own."""
        attention = self._slot_attention
        if self.starts == "learned":
            return None
        if cues is None:
            raise ValueError(f"cues: a model that starts from {self.starts} needs boxes [B, K, 4]; see boxes_of(masks)")
        start = attention.initial_slots(count, generator)
        cues = cues.to(start)
        seen = (cues != 0).any(dim=2, keepdim=True)
        given = cues if self.starts == "boxes" else (cues[..., :2] + cues[..., 2:]) / 2
        added = nn.functional.pad(self.cue(given) * seen, (0, start.shape[2] - attention.dim))
        return start + added, attention.iterations

    def predicted(self, slots: Tensor) -> Tensor:
        """Starts [B, K, D] for the frame after that with these slots; poses and textures are kept."""
        own, width = self._slot_attention.start, self._slot_attention.dim
        content = self.predictor(slots[..., :width])
        content = torch.lerp(content, own.to(content), self.anchor) if self.anchor else content
        return torch.cat([content, slots[..., width:]], dim=2)


class TrackedModel(ClipModel):
    """The baseline without training: an image model frame by frame, its slots put in order.

    The slots of a frame are matched one to one to those of the frame before (Hungarian algorithm)
    by the overlap (IoU) of their masks plus half the cosine of their vectors.
    """

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        return {**self.image_model.describe(), "tracking": "Hungarian matching of mask IoU and slot cosine"}

    def step(
        self,
        images: Tensor,
        previous: SlotOutput | None,
        generator: Generators = None,
        cues: Tensor | None = None,
        segment_only: bool = False,
    ) -> SlotOutput:
        """See `ClipModel.step`; the slots come in the order of those in the frame before."""
        output = (self.image_model.segment if segment_only else self.image_model)(images, generator)
        return output if previous is None else reordered(output, matched(previous, output))


def matched(before: SlotOutput, after: SlotOutput) -> Tensor:
    """For each slot before, its slot after, int64 [B, K]: as in `TrackedModel`."""
    sources = (output.finest if output.finest in output.mask_sources else "attention" for output in (before, after))
    one, other = (
        nn.functional.one_hot(output.segmentation(source), output.slots.shape[1]).flatten(1, 2).float()
        for output, source in zip((before, after), sources, strict=True)
    )
    shared = one.transpose(1, 2) @ other
    union = one.sum(dim=1)[:, :, None] + other.sum(dim=1)[:, None] - shared
    likeness = nn.functional.cosine_similarity(before.slots[:, :, None], after.slots[:, None], dim=3)
    gain = (OVERLAP * shared / union.clamp(min=1) + LIKENESS * likeness).detach().double().cpu().numpy()
    order = np.stack([linear_sum_assignment(table, maximize=True)[1] for table in gain])
    return torch.from_numpy(order).to(before.slots.device)


def reordered(output: SlotOutput, order: Tensor) -> SlotOutput:
    """The output whose slot k is slot `order[b, k]` of `output`, int64 [B, K], in all it holds."""
    places = {"slots": 1, "attention": 2, "masks": 1, "slot_images": 1, "posterior": 1, "cross_attention": 1}
    changed = {}
    for name, dim in places.items():
        values = getattr(output, name, None)
        if values is not None:
            index = order.view(len(order), *[1] * (dim - 1), -1, *[1] * (values.ndim - dim - 1))
            changed[name] = torch.take_along_dim(values, index, dim)
    return replace(output, **changed)


def _joined(frames: Sequence[SlotOutput]) -> SlotOutput:
    """The outputs of the frames of B clips as one of B · T images, clip after clip."""
    rounds = min(frame.attention.shape[1] for frame in frames)
    frames = [replace(frame, attention=frame.attention[:, -rounds:]) for frame in frames]
    whole = {
        field.name: torch.stack([getattr(frame, field.name) for frame in frames], dim=1).flatten(0, 1)
        for field in fields(frames[0])
        if isinstance(getattr(frames[0], field.name), Tensor)
    }
    return replace(frames[0], **whole)


def cues_of(model: Any, batch: Mapping[str, Any], rows: slice = slice(None)) -> dict[str, Tensor]:
    """What the model takes besides the images of a batch: boxes, if it starts from them.

    Raises:
        ConfigError: it does, and the data has no masks.
    """
    if getattr(model, "starts", "learned") == "learned":
        return {}
    if "mask" not in batch:
        raise ConfigError(f"video.starts: {model.starts} of objects come from true masks, which this data lacks")
    masks = batch["mask"][rows]
    return {"cues": boxes_of(masks[:, 0] if masks.ndim == 4 else masks, model.slots)}


def boxes_of(masks: Tensor, slots: int) -> Tensor:
    """Boxes of the objects in masks [B, H, W], for slots 0 to K - 1: float32 [B, K, 4].

    Left, top, right and bottom in [0, 1]; zeros for slot 0 (the background) and where there is no
    object of that number.

    Example:
        >>> boxes_of(torch.tensor([[[0, 1], [0, 1]]]), slots=3)[0].tolist()
        [[0.0, 0.0, 0.0, 0.0], [0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    inside = masks[:, None] == torch.arange(slots, device=masks.device)[:, None, None]
    inside[:, 0] = False
    sides = []
    for line in (inside.any(dim=2), inside.any(dim=3)):  # columns, rows: [B, K, n]
        count = line.shape[2]
        place = torch.arange(count, device=masks.device)
        last = torch.where(line, place + 1, 0).amax(dim=2)
        first = torch.where(line, place, count).amin(dim=2)
        sides.append((torch.where(last > 0, first, 0) / count, last / count))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=2)
