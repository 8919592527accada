"""What models with slots return for a batch of images, and slots merged in it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.errors import ConfigError, nearest

MASK_SOURCES = ("masks", "attention", "posterior")
SMALLEST = 1e-6  # of a mask, before its logarithm
OVERLAP, NEAR, LEAST = 0.6, 0.2, 0.005  # of merge_slots
Output = TypeVar("Output", bound="SlotOutput")


@dataclass(eq=False)
class SlotOutput:
    """Slots, masks and reconstruction of B images: K slots, T iterations, N = h x w features.

    Attributes:
        slots: [B, K, D], the slots after the last iteration.
        attention: [B, T, K, N], slot attention of each iteration, sums to 1 over K.
        attention_grid: (h, w) with h * w = N, the spatial shape of the features.
        masks: [B, K, H, W] in [0, 1], the decoder's mask of each slot; sums to 1 over K.
        reconstruction: [B, 3, H, W], nominally in [0, 1] (not clamped).
        slot_images: [B, K, 3, H, W] nominally in [0, 1], before mixing, if the decoder makes them.
        ceiling: [B, 3, H, W] in [0, 1], the best reconstruction that the decoder could give.
        posterior: [B, K, H, W] in [0, 1], the probability that a slot owns a pixel given its
            colour (`posterior_masks`), if the model knows it; sums to 1 over K.
        titles: names of the sources of masks and of the reconstruction in tables and figures.

    Example:
        >>> import slotlab
        >>> output = slotlab.load("scenes-64")(torch.zeros(2, 3, 64, 64))
        >>> output.mask_sources
        ('masks', 'attention', 'posterior')
        >>> output.segmentation("masks").shape, len(output[0])
        (torch.Size([2, 64, 64]), 1)
    """

    titles: ClassVar[dict[str, str]] = {
        "masks": "decoder masks",
        "attention": "attention masks",
        "posterior": "posterior masks",
        "ceiling": "autoencoder",
        "reconstruction": "reconstruction",
    }

    slots: Tensor
    attention: Tensor
    attention_grid: tuple[int, int]
    masks: Tensor
    reconstruction: Tensor
    slot_images: Tensor | None = None
    ceiling: Tensor | None = None
    posterior: Tensor | None = None

    def attention_masks(self, iteration: int = -1) -> Tensor:
        """Attention of one iteration, bilinearly resized: [B, K, H, W], sums to 1 over K."""
        maps = self.attention[:, iteration].float().unflatten(2, self.attention_grid)
        return F.interpolate(maps, size=self.masks.shape[-2:], mode="bilinear", align_corners=False)

    @property
    def mask_sources(self) -> tuple[str, ...]:
        """Where masks can be taken from, of `MASK_SOURCES`."""
        return MASK_SOURCES if self.posterior is not None else MASK_SOURCES[:2]

    @property
    def finest(self) -> str:
        """The source of masks that fits objects best."""
        return "masks" if self.posterior is None else "posterior"

    def soft_masks(self, source: str = "masks") -> Tensor:
        """Masks [B, K, H, W] of a source; ValueError if it is not in `mask_sources`."""
        if source not in self.mask_sources:
            raise ValueError(f"source: {source!r} is not in {self.mask_sources}")
        if source == "posterior" and self.posterior is not None:
            return self.posterior
        return self.attention_masks() if source == "attention" else self.masks

    def segmentation(self, source: str = "masks") -> Tensor:
        """The slot that owns each pixel, int64 [B, H, W]: argmax of the masks of `source`."""
        return torch.argmax(self.soft_masks(source), dim=1)

    def segmentations(self) -> dict[str, Tensor]:
        """`segmentation` of each of the `mask_sources`, by its title."""
        return {self.titles[source]: self.segmentation(source) for source in self.mask_sources}

    def __len__(self) -> int:
        """Number of images B."""
        return len(self.slots)

    def __getitem__(self, index: int) -> Self:
        """The output of one image, as a batch of one."""
        return self._with_each(lambda tensor: tensor[[index]])

    def cpu(self) -> Self:
        """The same output with all tensors on the CPU."""
        return self._with_each(Tensor.cpu)

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, **{name: change(one) for name, one in vars(self).items() if isinstance(one, Tensor)})


def posterior_masks(masks: Tensor, slot_images: Tensor, images: Tensor, sigma: float) -> Tensor:
    """The probability that a slot owns a pixel, given its colour: [B, K, H, W], sums to 1 over K.

    At each pixel the slots are a mixture of Gaussians with the masks as weights, the slot images as
    means and one standard deviation; Bayes' rule gives which of them the pixel is from (IODINE,
    Greff et al. 2019, arXiv 1903.00450, section 2; MONet, Burgess et al. 2019, arXiv 1901.11390,
    eq. 3).

    The masks [B, K, H, W] sum to 1 over K; slot images [B, K, 3, H, W], images [B, 3, H, W] and
    `sigma`, the standard deviation of a colour value, are in units of [0, 1].

    Example:
        >>> masks = torch.full((1, 2, 1, 1), 0.5)
        >>> slot_images = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 1, 1)
        >>> posterior_masks(masks, slot_images, torch.ones(1, 3, 1, 1), sigma=0.5).flatten().round(decimals=3)
        tensor([0.0020, 0.9980])
    """
    distance = (slot_images.float() - images.float()[:, None]).square().sum(dim=2)
    return torch.softmax((masks.float() + SMALLEST).log() - distance / (2 * sigma**2), dim=1)


def chosen_source(wanted: str | None, sources: Collection[str], finer: str) -> str:
    """The `wanted` source of masks, or `finer`; ConfigError if it is not one of `sources`.

    Example:
        >>> chosen_source(None, ["masks", "attention"], finer="attention")
        'attention'
    """
    if wanted is not None and wanted not in sources:
        if wanted in MASK_SOURCES:
            raise ConfigError(f"mask_source: this model has no {wanted} masks; it has {', '.join(sources)}")
        raise ConfigError(f"mask_source: unknown {wanted!r}{nearest(wanted, sources)}")
    return wanted or finer


@dataclass(eq=False, kw_only=True)
class DiffusionOutput(SlotOutput):
    """The slots of a batch, and one denoising of its latents at a random timestep.

    In evaluation mode `reconstruction` is a sample from the slots, clamped to [0, 1], `masks` are
    the denoiser's cross-attention, resized bilinearly, and `ceiling` is what the autoencoder makes
    of the image. In training mode `masks` are the attention masks and `reconstruction` is empty,
    [B, 3, 0, 0].

    Attributes:
        timesteps: [B], the timestep of each image.
        noise: [B, C, h, w], the noise added to the latents.
        target: [B, C, h, w], what the denoiser should predict.
        predicted: [B, C, h, w], what it predicts.
        weights: [B], weight of each image in the loss.
        cross_attention: [B, K, h', w'], the denoiser's attention to slots, sums to 1 over K: at the
            timestep of the masks, or in training that of `predicted` if `keeps_cross_attention`.
    """

    titles: ClassVar[dict[str, str]] = {
        "masks": "cross-attention masks",
        "attention": "attention masks",
        "ceiling": "autoencoder",
        "reconstruction": "sample",
    }

    timesteps: Tensor
    noise: Tensor
    target: Tensor
    predicted: Tensor
    weights: Tensor
    cross_attention: Tensor | None = None

    @property
    def finest(self) -> str:
        """The source of masks that fits objects best."""
        return "attention"

    @property
    def loss(self) -> Tensor:
        """Weighted squared error of each image, mean over its values: float32 [B]."""
        error = (self.predicted.float() - self.target.float()).square()
        return self.weights * error.flatten(1).mean(dim=1)


@dataclass(eq=False, kw_only=True)
class FeatureOutput(SlotOutput):
    """The slots of a batch, and the frozen features that they stand for.

    `reconstruction` shows what the slots predict, as the first three principal components of each
    image's features in [0, 1]: it is not like the image, and its error is the `feature_errors`.

    Attributes:
        features: [B, N, C], of the frozen network.
        predicted: [B, N, C], what the slots predict.
    """

    titles: ClassVar[dict[str, str]] = {
        "masks": "superpixel masks",
        "attention": "feature masks",
        "ceiling": "frozen features",
        "reconstruction": "slot features",
    }

    features: Tensor
    predicted: Tensor

    def feature_errors(self) -> Tensor:
        """Squared error of what the slots predict, mean over N and C: float32 [B]."""
        return (self.predicted.float() - self.features.float()).square().mean(dim=(1, 2))


@dataclass(eq=False, kw_only=True)
class SlotFeatureOutput(FeatureOutput):
    """A `FeatureOutput` of slot attention and a decoder."""

    titles: ClassVar[dict[str, str]] = {
        "masks": "decoder masks",
        "attention": "attention masks",
        "ceiling": "frozen features",
        "reconstruction": "predicted features",
    }


@dataclass(eq=False, kw_only=True)
class SuperpixelOutput(SlotFeatureOutput):
    """A `SlotFeatureOutput` whose masks are averaged over superpixels."""

    titles: ClassVar[dict[str, str]] = {**SlotFeatureOutput.titles, "masks": "superpixel masks"}


for made in (SlotOutput, DiffusionOutput, FeatureOutput, SlotFeatureOutput, SuperpixelOutput):
    torch.export.register_dataclass(made, serialized_type_name=f"slotlab.{made.__name__}")


def merge_slots(
    output: Output, source: str | None = None, *, overlap: float = OVERLAP, near: float = NEAR, least: float = LEAST
) -> Output:
    """Merges slots that hold the same thing, and empties slots that hold nothing.

    A model has as many slots for an image of two objects as for one of ten. Two slots hold the same
    thing if the lesser mask lies mostly on the greater one, or if their vectors are nearly equal;
    of those, the pair with the largest overlap is merged first. The greater mask takes over the
    lesser, which becomes 0 (compare MetaSlot, arXiv 2505.20772, which removes slots that share a
    learned prototype). A slot then left with hardly a pixel gives them to the other slots.

    The number of slots, their vectors and the reconstruction stay as they are.

    Args:
        output: of a model, for a batch of images.
        source: masks that decide, "masks", "attention" or "posterior"; by default the finest.
        overlap: two slots are one if the sum of the lesser of both masks, over the pixels, is above
            this share of the smaller mask; 1 merges none by their masks.
        near: or if their distance is below this share of the root mean square distance of the
            image's slots; 0 merges none by their vectors.
        least: a slot is empty if it owns less than this share of the pixels; 0 empties none.

    Returns:
        The output with other masks, attention and slot images; all masks sum to 1 as before.

    Example:
        >>> import slotlab
        >>> output = slotlab.load("textured-128")(slotlab.render([2], resolution=128).image)
        >>> merged = merge_slots(output)
        >>> output.masks.shape[1], int((merged.posterior.amax(dim=(2, 3)) > 0.5).sum())
        (11, 8)
    """
    masks = output.soft_masks(source or output.finest).float()
    taken = torch.stack([_taken_by(*one, overlap, near) for one in zip(masks, output.slots.float(), strict=True)])
    into = torch.nn.functional.one_hot(taken, masks.shape[1]).to(masks)  # [B, K, K], each slot's successor
    owned = _moved(masks, into).argmax(dim=1).flatten(1)
    shares = torch.zeros_like(masks[:, :, 0, 0]).scatter_add_(1, owned, torch.ones_like(owned, dtype=masks.dtype))
    shares = shares / owned.shape[1]
    kept = (shares >= least) | (shares == shares.amax(dim=1, keepdim=True))

    def changed(soft: Tensor, dim: int = 1) -> Tensor:
        moved = _moved(soft.transpose(1, dim).float(), into) * _like(kept, soft)
        moved += 1e-12 * _like(kept, soft)  # where all that is left is 0
        return (moved / moved.sum(dim=1, keepdim=True)).transpose(1, dim).to(soft.dtype)

    more = {}
    if output.posterior is not None:
        more["posterior"] = changed(output.posterior)
    if output.slot_images is not None:  # what the slots of one painted together
        weights = (output.masks.float() + 1e-12)[:, :, None]
        painted = _moved(weights * output.slot_images.float(), into) / _moved(weights, into).clamp(min=1e-12)
        more["slot_images"] = torch.where(_like(into.sum(dim=1), painted) > 0, painted, output.slot_images.float())
    return replace(output, masks=changed(output.masks), attention=changed(output.attention, 2), **more)


def _taken_by(masks: Tensor, slots: Tensor, overlap: float, near: float) -> Tensor:
    """The slot that takes over each slot of an image, int64 [K]; itself if none does."""
    sums = masks.detach().flatten(1).clone()
    apart = torch.cdist(slots.detach(), slots.detach())
    close = apart < near * apart.square().mean().sqrt()
    taken = torch.arange(len(masks), device=masks.device)
    while True:
        sizes = sums.sum(dim=1)
        shared = torch.stack([torch.minimum(one, sums).sum(dim=1) for one in sums])
        found = shared / torch.minimum(sizes, sizes[:, None]).clamp(min=1e-6)
        found = torch.where(close, found.clamp(min=1), found)
        there = taken == torch.arange(len(masks), device=masks.device)
        found = found * (there & there[:, None]).fill_diagonal_(False)
        if found.max() <= overlap:
            return taken
        lesser, greater = sorted(divmod(int(found.argmax()), len(masks)), key=lambda slot: float(sizes[slot]))
        sums[greater] += sums[lesser]
        sums[lesser] = 0
        taken[taken == lesser] = greater


def _moved(values: Tensor, into: Tensor) -> Tensor:
    """Values [B, K, ...] of the slots, added up for the slot that takes each over."""
    return torch.einsum("bk...,bkj->bj...", values, into)


def _like(numbers: Tensor, values: Tensor) -> Tensor:
    """Numbers [B, K] as floats with as many dimensions as `values` [B, K, ...]."""
    return numbers.view(*numbers.shape, *[1] * (values.ndim - 2)).float()
