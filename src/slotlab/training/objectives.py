"""What training adds to a model's loss (`model.losses`): penalties, further losses, a teacher."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from slotlab.checkpoints import load
from slotlab.config import TrainingSettings
from slotlab.data import Batch
from slotlab.errors import ConfigError
from slotlab.models import (
    FeatureAutoencoder,
    FeatureModel,
    FrozenFeatures,
    SlotDiffusion,
    TrainableModel,
    with_slots,
)
from slotlab.models.output import DiffusionOutput, SlotOutput, merge_slots
from slotlab.models.sampling import seeded_generator

EPSILON = 1e-6  # added to masks and attention before the logarithm
GROUND_SIGMA = 0.06  # tolerance of a background colour, in units of the images
PAINTING_SIGMA = 0.1  # error of slot 0 beyond which a pixel counts less: it shows an object
PAINTING_WEIGHT = 10
CONTRAST_TEMPERATURE = 0.1
SMALLEST_SHARE = 1e-3  # of the image, added to the shares of slots and labels
MOST_KEPT = 10**9  # bytes of labels, or of paintings, that are kept in memory


def with_penalties(
    loss: Tensor, output: SlotOutput, images: Tensor, settings: TrainingSettings, step: int, frames: int = 1
) -> Tensor:
    """The loss plus all penalties that `settings` turn on at a step, each with its weight.

    `output` and `images` are those of clips of so many frames, clip after clip.
    """
    if settings.mask_penalty and step >= settings.mask_penalty_start:
        loss = loss + settings.mask_penalty * mask_area_penalty(output)
    if settings.background_penalty and step >= settings.background_penalty_start:
        loss = loss + background_weight(settings, step) * background_penalty(output, images)
    if settings.sharing_penalty and step >= settings.sharing_penalty_start:
        loss = loss + settings.sharing_penalty * sharing_penalty(output)
    if settings.attention_loss and step >= settings.attention_loss_start:
        loss = loss + settings.attention_loss * attention_disagreement(output)
    if settings.contrast_loss and frames > 1:
        loss = loss + settings.contrast_loss * slot_contrast(output.slots.unflatten(0, (-1, frames)))
    if settings.cross_attention_loss:
        loss = loss + settings.cross_attention_loss * cross_attention_disagreement(output)
    if settings.colour_loss:
        loss = loss + settings.colour_loss * colour_error(output, images)
    return loss


def background_weight(settings: TrainingSettings, step: int) -> float:
    """Weight of `background_penalty` at a step from its start on: linear to its final value.

    A strong pull early unites the background before slots divide it. A weak pull later leaves
    objects that hardly stand out to the other slots.

    Example:
        >>> pull = {"background_penalty": 1.0, "final_background_penalty": 0.0}
        >>> background_weight(TrainingSettings(steps=10, **pull), 5)
        0.5
    """
    first, start = settings.background_penalty, settings.background_penalty_start
    last = first if settings.final_background_penalty is None else settings.final_background_penalty
    return first + (last - first) * (step - start) / max(1, settings.steps - start)


def mask_area_penalty(output: SlotOutput) -> Tensor:
    """One minus the summed squares of the masks' shares of the image (Simpson's index).

    0 if one slot has the whole image, 1 - 1/K if K slots share it evenly. Reconstruction is
    indifferent to how many slots paint a plain background; a small weight favours one. Small
    objects hardly count, so they keep their slots.
    """
    shares = output.masks.float().mean(dim=(2, 3))
    return (1 - shares.square().sum(dim=1)).mean()


def background_penalty(output: SlotOutput, images: Tensor) -> Tensor:
    """Makes slot 0, and no other, paint the background; mean over pixels and the batch.

    Slots that divide a background never give it back: a mask near 0 or 1 hardly has a gradient, nor
    has the image of a slot under a mask of 0. So for slot 0, whatever its mask m_0:

    - its image p_0 should look like the image x except at objects: e_0 / (e_0 + 2 s^2) with
      e = |p - x|^2 summed over channels, which is nearly flat at objects (Geman and McClure 1985);
    - where it paints as well as all slots together, m_0 should be 1: -log m_0, weighted by
      exp(-max(0, e_0 - e) / 2 t^2) without gradient. Other slots keep what they paint better.

    For slots with learned starts only: random slots are interchangeable.
    """
    if output.slot_images is None:
        raise ValueError("background_penalty: needs the image of each slot")
    images = images.float()
    alone = (output.slot_images[:, 0].float() - images).square().sum(dim=1)
    together = (output.reconstruction.float() - images).square().sum(dim=1)
    as_good = torch.exp(-(alone - together).clamp(min=0) / (2 * GROUND_SIGMA**2)).detach()
    pull = as_good * -(output.masks[:, 0].float() + EPSILON).log()
    return (pull + PAINTING_WEIGHT * alone / (alone + 2 * PAINTING_SIGMA**2)).mean()


def sharing_penalty(output: SlotOutput) -> Tensor:
    """Sum of the square roots of the shares of the image of all slots but slot 0.

    Two slots that each have half of an object cost sqrt(2) times one that has it all; the root is
    steepest for the smaller half, which gives way. Use it late, with slot 0 as background: earlier,
    an object that no slot paints well yet would go to slot 0.
    """
    shares = output.masks[:, 1:].float().mean(dim=(2, 3))
    return (shares + SMALLEST_SHARE).sqrt().sum(dim=1).mean()


def attention_disagreement(output: SlotOutput) -> Tensor:
    """Cross-entropy of the last iteration's attention against the masks; mean over positions.

    The target, masks averaged to the grid of the attention, gets no gradient. Attention learns to
    cover whole objects, and slots read all of them. SPOT (Kakogeorgiou et al. 2024, arXiv
    2312.00648) distils masks into attention too, but from a teacher.
    """
    target = F.adaptive_avg_pool2d(output.masks.detach().float(), output.attention_grid).flatten(2)
    return -(target * (output.attention[:, -1].float() + EPSILON).log()).sum(dim=1).mean()


def teacher_disagreement(output: SlotOutput, labels: Tensor, balance: float = 0.0) -> Tensor:
    """Cross-entropy of attention against a teacher's labels, int64 [B, h, w].

    Summed over places, divided by their number; a place counts as its label's share of the image
    ** -`balance`. So with 0.5 small objects count for more, and the whole is larger.

    Labels are those of the features, or of a finer grid, to which attention is then resized. Each
    label goes to the slot whose attention fits it best, so that the sum of intersections over
    unions is largest; labels without a slot do not count. After SPOT (Kakogeorgiou et al. 2024,
    arXiv 2312.00648, section 3.2).
    """
    attention = output.attention[:, -1].float()
    size = tuple(labels.shape[1:])
    if size != tuple(output.attention_grid):
        maps = attention.unflatten(2, output.attention_grid)
        attention = F.interpolate(maps, size, mode="bilinear", align_corners=False).flatten(2)
    true = F.one_hot(labels.flatten(1).to(attention.device)).float()  # [B, N, K']
    own = F.one_hot(attention.argmax(dim=1), attention.shape[1]).float()
    both = own.transpose(1, 2) @ true
    union = own.sum(1)[:, :, None] + true.sum(1)[:, None] - both
    pairs = [linear_sum_assignment(one, maximize=True) for one in (both / union.clamp(min=1)).cpu().numpy()]
    logs = (attention + EPSILON).log()
    weighted = true * (true.mean(dim=1, keepdim=True) + SMALLEST_SHARE) ** -balance
    sums = [(one[slots] * each[:, ids].T).sum() for one, each, (slots, ids) in zip(logs, weighted, pairs, strict=True)]
    return -torch.stack(sums).mean() / labels[0].numel()


def cross_attention_disagreement(output: SlotOutput) -> Tensor:
    """Cross-entropy of cross-attention against slot attention; mean over positions.

    The target, the last iteration's attention averaged to the grid of the cross-attention, gets no
    gradient. The denoiser learns to read each place's slot: its masks match the slots, and editing
    a slot changes its object.
    """
    if not isinstance(output, DiffusionOutput) or output.cross_attention is None:
        raise ValueError("cross_attention_loss: needs a denoiser's cross-attention")
    attention = output.attention[:, -1].detach().float().unflatten(2, output.attention_grid)
    target = F.adaptive_avg_pool2d(attention, output.cross_attention.shape[-2:])  # type: ignore[arg-type]
    return -(target * (output.cross_attention.float() + EPSILON).log()).sum(dim=1).mean()


def slot_contrast(slots: Tensor) -> Tensor:
    """Cross-entropy of finding a slot of a frame again among all slots of the next, in the batch.

    Slots are [B, T, K, D]. Between frames t and t + 1 the cosines of all B · K slots with all
    others, divided by a temperature of 0.1, are logits; the right answer is the same slot of the
    same clip (Manasyan et al. 2024, arXiv 2412.14295). It makes slots differ from each other, and
    keep what they hold.
    """
    normed = F.normalize(slots.float(), dim=3).transpose(0, 1).flatten(1, 2)  # [T, B K, D]
    logits = normed[:-1] @ normed[1:].transpose(1, 2) / CONTRAST_TEMPERATURE
    right = torch.arange(logits.shape[1], device=slots.device).expand(len(logits), -1)
    return F.cross_entropy(logits.flatten(0, 1), right.flatten())


def prediction_error(predicted: Tensor, slots: Tensor) -> Tensor:
    """Squared error of the starts predicted for each frame but the first against its slots; mean.

    `slots` are [B, T, K, D], and `predicted` [B, T - 1, K, D] what the predictor makes of those of
    all frames but the last. The target gets no gradient. The predictor learns how objects move, so
    that fewer iterations are left to do.
    """
    return F.mse_loss(predicted.float(), slots[:, 1:].detach().float())


def colour_error(output: SlotOutput, images: Tensor) -> Tensor:
    """Squared error of colour without brightness, of values in [-1, 1]: summed over channels.

    Light and shade make up most of a scene's variance, so reconstruction learns colours long after
    shapes; but colours tell neighbouring objects apart.
    """
    error = 2 * (output.reconstruction.float() - images.float())
    return (error - error.mean(dim=1, keepdim=True)).square().sum(dim=1).mean()


class Teacher:
    """Labels of features by the masks of a model, which stays as it is.

    The labels of an image are found once and kept, so they depend on its index and `seed` only.

    Args:
        name: what `slotlab.load` takes: a run, such as one of the same preset, or "photos".
        student: the model that is trained.
        seed: of the teacher's initial slots.
        merged: merge its slots that hold one object, and empty those that hold nothing.

    Raises:
        CheckpointError: there is no such model, or it has no slots.
        ConfigError: it takes images of another size.
    """

    def __init__(self, name: str, student: TrainableModel, seed: int, merged: bool = False) -> None:
        self.model, self.seed, self.merged = with_slots(load(name), name), seed, merged
        if self.model.resolution != student.resolution:
            seen, wanted = self.model.resolution, student.resolution
            raise ConfigError(f"training.teacher: {name} sees {seen}x{seen} pixels, the model {wanted}x{wanted}")
        self._same_features = (
            isinstance(student, FeatureAutoencoder)
            and isinstance(self.model, FeatureModel)
            and frozen_in(self.model).fingerprint() == frozen_in(student).fingerprint()
        )
        self._student = student
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def labels(self, batch: Batch, rows: slice, grid: Sequence[int]) -> Tensor:
        """The teacher's slot at each place of a grid, int64 [B, h, w], of some rows of a batch."""
        index = batch["index"][rows].tolist()
        found = {number: self._kept[number] for number in index if number in self._kept}
        if new := [place for place, number in enumerate(index) if number not in found]:
            device = next(self._student.parameters()).device
            images = batch["image"][rows][new].to(device)
            self.model.to(device)
            generators = [seeded_generator(self.seed, index[place]) for place in new]
            if self._same_features and "features" in batch:
                raw = batch["features"][rows][new].to(device)
                output = cast(Any, self.model)(images, generators, raw=raw)
            else:
                output = cast(Any, self.model).segment(images, generators)
            if self.merged:
                output = merge_slots(output, self.model.finer_masks)
            soft = F.adaptive_avg_pool2d(output.soft_masks(self.model.finer_masks), tuple(grid))  # type: ignore[arg-type]
            found |= {index[place]: labels for place, labels in zip(new, soft.argmax(dim=1).short(), strict=True)}
        if 2 * math.prod(grid) * len(self._kept) < MOST_KEPT:
            self._kept |= {number: labels.cpu() for number, labels in found.items()}
        return torch.stack([found[number].cpu() for number in index]).long()


class Paintings:
    """What the decoder of slot diffusion paints of each image; kept, as frozen slots stay the same."""

    def __init__(self, model: SlotDiffusion) -> None:
        self.model = model
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def of(self, batch: Batch, rows: slice) -> Tensor:
        """`SlotDiffusion.painting` of some rows of a batch, each found by itself."""
        found, device = [], next(self.model.parameters()).device
        for number, image in zip(batch["index"][rows].tolist(), batch["image"][rows], strict=True):
            painting = self._kept.get(number)
            if painting is None:
                painting = cast(Tensor, self.model.painting(self.model.encoder(image[None].to(device))[0])).cpu()
                if painting.nbytes * len(self._kept) < MOST_KEPT:
                    self._kept[number] = painting
            found.append(painting)
        return torch.cat(found)


def frozen_in(model: FeatureModel) -> FrozenFeatures:
    """The frozen network of a model."""
    return model.encoder.backbone if isinstance(model, FeatureAutoencoder) else model.encoder
