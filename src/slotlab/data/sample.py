"""The one sample type of the library, and what every data set offers."""

from collections.abc import Sequence
from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor

IGNORED = -1  # in masks: pixels that annotators left open, which scores leave out


class Sample(TypedDict):
    """One image, or one clip of T frames, as `dataset[i]` returns it.

    `image`: float32 [3, H, W] in [0, 1], of a clip [T, 3, H, W]. `mask`: int64 [H, W], of a clip
    [T, H, W], 0 = background, 1.. = objects, -1 = ignored; absent without masks. `index`: the
    sample's number in its data set, int64 scalar. `latents`: float32 [C, h, w], if a packed cache
    holds those of a latent autoencoder; `features`: float32 [N, C], if it holds those of a frozen
    network. `classes`: int64 [H, W], and `annotators`: int64 [A, H, W], if the data set was opened
    with `every_mask` and has them.
    """

    image: Tensor
    mask: NotRequired[Tensor]
    classes: NotRequired[Tensor]
    annotators: NotRequired[Tensor]
    latents: NotRequired[Tensor]
    features: NotRequired[Tensor]
    index: Tensor


class LatentEncoder(Protocol):
    """Makes latents of images, such as `slotlab.models.LatentAutoencoder`."""

    def encode(self, images: Tensor) -> Tensor:
        """Latents [B, C, h, w] of images [B, 3, H, W] in [0, 1]."""
        ...

    def fingerprint(self) -> str:
        """The same for two encoders only if they make the same latents."""
        ...


class FeatureEncoder(Protocol):
    """Makes features of images, such as `slotlab.models.FrozenFeatures`."""

    def raw(self, images: Tensor) -> Tensor:
        """Features [B, N, C] of images [B, 3, H, W] in [0, 1]."""
        ...

    def fingerprint(self) -> str:
        """The same for two encoders only if they make the same features."""
        ...


class Batch(TypedDict):
    """Samples stacked: `image` [B, 3, H, W] or [B, T, 3, H, W], and `index` [B].

    `mask` and `classes` [B, H, W], `annotators` [B, A, H, W] (all -1 where an image has fewer),
    `latents` [B, C, h, w] and `features` [B, N, C], if there are any.
    """

    image: Tensor
    mask: NotRequired[Tensor]
    classes: NotRequired[Tensor]
    annotators: NotRequired[Tensor]
    latents: NotRequired[Tensor]
    features: NotRequired[Tensor]
    index: Tensor


def only(batch: Batch) -> Sample:
    """The sample of a batch of one."""
    return Sample(**{name: values[0] for name, values in batch.items()})  # pyright: ignore


@runtime_checkable
class KnowsObjects(Protocol):
    """A data set that knows what the objects in its images are."""

    def objects(self, numbers: Sequence[int]) -> list[list[dict[str, Any]]]:
        """The objects of the images of these `index` values, each with `shape`, `material`, ...

        In the order of their ids from 1; DataError if this copy of the data has no metadata.
        """
        ...


@runtime_checkable
class SlotDataset(Protocol):
    """What every data set of the library offers."""

    has_masks: bool

    def __len__(self) -> int:
        """Number of samples in the chosen split."""
        ...

    def __getitem__(self, position: int) -> Sample:
        """The sample at `position` in 0..len-1 (IndexError beyond)."""
        return only(self.batch([position]))

    def batch(self, positions: Sequence[int]) -> Batch:
        """The samples at `positions`, stacked."""
        ...

    def describe(self) -> dict[str, Any]:
        """For protocols, as JSON values: data, kind, split, crop, resolution, count."""
        ...
