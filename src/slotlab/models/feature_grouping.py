"""Objects in photographs: frozen features of a network, grouped by how alike they are."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from slotlab.errors import CheckpointError, needs
from slotlab.models.building import check_arguments, check_images, configured, full_precision
from slotlab.models.frozen_features import FrozenFeatures
from slotlab.models.output import FeatureOutput
from slotlab.models.sampling import Generators

SHARPNESS = 4.0  # of soft memberships: softmax of -4 times the squared distance to a cluster's centre


@configured("model")
class FeatureGrouping(nn.Module):
    """Takes photographs apart without training: groups frozen features, then superpixels.

    Features of nearby places that point in one direction are strongly linked, and normalised cuts
    of that graph give the groups (Shi and Malik 2000; with self-supervised features: TokenCut, Wang
    et al. 2022, arXiv 2202.11539). Superpixels (Felzenszwalb and Huttenlocher 2004) then give the
    masks the edges of the image.

    The groups are things that look or mean alike: objects of one kind that touch are often one
    group. There are no classes. Nothing is random. It takes images of any size whose sides are
    multiples of the features' stride, 32 of EfficientNet-Lite0 (`working_size`), and cannot paint:
    `compose` and `edit` need a decoder.

    Args:
        resolution: side of the square images of data sets; other images have as many pixels.
        slots: number of groups K, some of which may own no pixel in the end.
        temperature: how fast links fall with the angle: exp((cos - 1) / temperature).
        spread: how fast they fall with the distance d in sides: exp(-d^2 / (2 spread^2)).
        features: arguments of `FrozenFeatures`; by default EfficientNet-Lite0's.

    Raises:
        CheckpointError: the package with the network's weights is not installed.
        ConfigError: an unknown key or a value out of range.

    Example:
        >>> model = FeatureGrouping(resolution=64, slots=2)
        >>> output = model(torch.rand(1, 3, 64, 96))
        >>> output.masks.shape, output.slots.shape
        (torch.Size([1, 2, 64, 96]), torch.Size([1, 2, 192]))
    """

    kind = "feature-grouping"
    finer_masks = "masks"
    iterations = 1

    def __init__(
        self,
        resolution: Annotated[int, Field(ge=8, le=4096)] = 448,
        slots: Annotated[int, Field(ge=1, le=64)] = 8,
        temperature: Annotated[float, Field(gt=0)] = 0.05,
        spread: Annotated[float, Field(gt=0)] = 0.3,
        features: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "kind": self.kind,
            "resolution": resolution,
            "slots": slots,
            "temperature": temperature,
            "spread": spread,
            **({} if features is None else {"features": dict(features)}),  # older configs lack it
        }
        self.resolution, self.slots = resolution, slots
        self.temperature, self.spread = temperature, spread
        check_arguments("features", FrozenFeatures, features or {}, reserved={"resolution"})
        self.encoder = FrozenFeatures(resolution, **(features or {}))

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        return {
            "slots": self.slots,
            "iterations": self.iterations,
            "features": self.encoder.describe(),
            "mask_sources": {
                "masks": "superpixel masks, groups of features averaged over superpixels, argmax",
                "attention": "feature masks, groups of features, resized bilinearly, argmax",
            },
        }

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """The size at which an image is seen: about resolution^2 pixels, multiples of the stride.

        Example:
            >>> FeatureGrouping().working_size(480, 640)
            (384, 512)
        """
        scale, stride = self.resolution / (height * width) ** 0.5, self.encoder.stride
        most = self.resolution**2 // stride  # a line of pixels would have sides without end
        high, wide = (min(max(1, round(side * scale / stride)) * stride, most) for side in (height, width))
        return high, wide

    @torch.no_grad()
    def forward(self, images: Tensor, generator: Generators = None, raw: Tensor | None = None) -> FeatureOutput:
        """Groups of images [B, 3, H, W] in [0, 1]; ValueError if the stride does not divide a side.

        `raw` are their features `encoder.raw(images)`, if cached. The `generator` is not used:
        nothing is random.
        """
        stride = self.encoder.stride
        check_images(images, stride, self.encoder.mean.dtype, values=True, multiples=True)
        grid = (images.shape[2] // stride, images.shape[3] // stride)
        features = F.normalize(self.encoder(images, raw), dim=2)
        rows, columns = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
        places = torch.stack([rows.flatten(), columns.flatten()], dim=1) * stride / self.resolution
        settings = (places, self.slots, self.temperature, self.spread)
        shares = torch.stack([spectral_groups(one, *settings) for one in features.cpu()])
        maps = F.interpolate(shares.unflatten(2, grid), images.shape[2:], mode="bilinear")
        masks = torch.stack([snapped(soft, image) for soft, image in zip(maps, images.cpu(), strict=True)])
        shares, masks = shares.to(images.device), masks.to(images.device)
        slots = shares @ features / shares.sum(dim=2, keepdim=True).clamp(min=1e-6)
        return FeatureOutput(
            slots=slots,
            attention=shares[:, None],
            attention_grid=grid,
            masks=masks,
            reconstruction=torch.einsum("bkc,bkhw->bchw", feature_colours(features, slots), masks),
            features=features,
            predicted=shares.transpose(1, 2) @ slots,
        )

    def segment(self, images: Tensor, generator: Generators = None) -> FeatureOutput:
        """The same as `forward`."""
        return self(images, generator)

    def encode(self, images: Tensor, generator: Generators = None) -> Tensor:
        """Slots [B, K, 192]: the mean features of each group."""
        return self(images, generator).slots

    def attend(self, images: Tensor, generator: Generators = None) -> Tensor:
        """Memberships [B, 1, K, N] of the features in the groups, which sum to 1 over K."""
        return self(images, generator).attention

    def losses(self, output: FeatureOutput, images: Tensor) -> Tensor:
        """Squared error of the features that the slots predict, mean over values: float32 [B]."""
        return output.feature_errors()


def spectral_groups(
    features: Tensor, places: Tensor, count: int, temperature: float = 0.05, spread: float = 0.3
) -> Tensor:
    """Memberships [count, N] of features [N, C] of length 1 in groups, which sum to 1 over groups.

    Their `places` [N, 2] are in sides of a square; for the settings see `FeatureGrouping`.

    Example:
        >>> features, places = torch.eye(2).repeat_interleave(2, dim=0), torch.zeros(4, 2)
        >>> first = spectral_groups(features, places, count=2).argmax(dim=0)
        >>> (first[:2] == first[0]).all(), (first[2:] == 1 - first[0]).all()
        (tensor(True), tensor(True))
    """
    with full_precision(features):
        near = torch.exp(-torch.cdist(places, places).square() / (2 * spread**2))
        alike = torch.exp((features @ features.T - 1) / temperature)
        shares = memberships(leading_vectors(near * alike, count))
    return F.pad(shares, (0, count - shares.shape[1])).T


def leading_vectors(links: Tensor, count: int) -> Tensor:
    """The `count` leading eigenvectors [N, count] of the normalised links [N, N]."""
    scale = links.sum(dim=1).rsqrt()
    return torch.linalg.eigh((scale[:, None] * links * scale).double()).eigenvectors[:, -count:].flip(1).float()


def memberships(vectors: Tensor) -> Tensor:
    """Soft K-means memberships [N, K] of `vectors` [N, K]; fewer than K if few of them differ."""
    from sklearn.cluster import KMeans  # takes a second to import

    rows = F.normalize(vectors, dim=1).numpy()
    count = min(rows.shape[1], len(np.unique(rows.round(4), axis=0)))
    means: Any = KMeans(count, n_init=3, random_state=0)  # type: ignore[arg-type]  # typed as a word
    return torch.softmax(-SHARPNESS * torch.from_numpy(means.fit(rows).transform(rows)).float().square(), dim=1)


def snapped(soft: Tensor, image: Tensor) -> Tensor:
    """Gives each superpixel of an image [3, H, W] to the slot with most of it in `soft` [K, H, W].

    Superpixels are made at half the size. Returns masks [K, H, W] that sum to 1 over K and are soft
    at edges only.

    Raises:
        CheckpointError: scikit-image is not installed.
    """
    with needs("vision", "superpixels need", CheckpointError):
        from skimage.segmentation import felzenszwalb
    size = (image.shape[1] // 2, image.shape[2] // 2)
    small, maps = (F.interpolate(one[None], size, mode="bilinear", antialias=True)[0] for one in (image, soft))
    pixels = (255 * small).round().to(torch.uint8).permute(1, 2, 0).numpy()
    pieces = torch.from_numpy(felzenszwalb(pixels, scale=60, sigma=0.8, min_size=60))
    count = int(pieces.max()) + 1
    sums = torch.zeros(count, len(soft)).index_add_(0, pieces.flatten(), maps.flatten(1).T)
    owners = F.one_hot(sums.argmax(dim=1)[pieces], len(soft)).permute(2, 0, 1).float()
    return F.interpolate(owners[None], image.shape[1:], mode="bilinear")[0]


def feature_colours(features: Tensor, shown: Tensor) -> Tensor:
    """`shown` [B, K, C] as colours [B, K, 3] in [0, 1]: principal components of the image."""
    colours = []
    for own, some in zip(features, shown, strict=True):
        centre = own.mean(dim=0)
        _, _, axes = torch.linalg.svd(own - centre, full_matrices=False)
        axes = axes[:3] * axes[:3].sum(dim=1, keepdim=True).sign()  # the signs are not determined
        spread = ((own - centre) @ axes.T).std(dim=0).clamp(min=1e-6)
        colours.append(F.pad(0.5 + (some - centre) @ axes.T / spread / 4, (0, 3 - len(axes))).clamp(0, 1))
    return torch.stack(colours)
