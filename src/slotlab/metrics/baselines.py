"""Baselines that need no training, to read a model's scores against."""

import torch
from torch import Tensor
from torch.nn import functional as F

PIXELS = 4096  # of an image, about: K-means learns from so many


def block_pattern(images: Tensor, count: int) -> Tensor:
    """The same grid of at most `count` blocks for each of the images [B, 3, H, W]: int64 [B, H, W].

    It knows nothing of the image, yet reaches an FG-ARI that looks like a result where objects are
    far from each other.

    Example:
        >>> block_pattern(torch.zeros(1, 3, 4, 6), count=7)[0]
        tensor([[0, 0, 1, 1, 2, 2],
                [0, 0, 1, 1, 2, 2],
                [3, 3, 4, 4, 5, 5],
                [3, 3, 4, 4, 5, 5]])
    """
    height, width = images.shape[2:]
    rows = int(count**0.5)
    columns = count // rows
    row, column = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    return (row[:, None] * columns + column).expand(len(images), -1, -1).to(images.device)


def colour_groups(images: Tensor, count: int) -> Tensor:
    """K-means of colour and place of pixels of images [B, 3, H, W] in [0, 1]: int64 [B, H, W].

    Places count as much as colours: both run from 0 to 1. It is repeatable.

    Example:
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[:, :, :2] = 1
        >>> groups = colour_groups(image, count=2)[0]
        >>> len(groups[:2].unique()), len(groups.unique())
        (1, 2)
    """
    from sklearn.cluster import KMeans  # takes a second to import

    found, (height, width) = [], images.shape[2:]
    places = torch.stack(torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij"))
    for image in images.cpu():
        rows = torch.cat([image.float(), places]).flatten(1).T.contiguous().numpy()
        means = KMeans(count, n_init="auto", random_state=0).fit(rows[:: max(1, len(rows) // PIXELS)])
        found.append(torch.from_numpy(means.predict(rows)).long().reshape(height, width))
    return torch.stack(found).to(images.device)


def superpixels(images: Tensor, count: int) -> Tensor:
    """About `count` SLIC superpixels of each image [B, 3, H, W] in [0, 1]: int64 [B, H, W].

    Needs scikit-image (extra `vision`).

    Source: Achanta et al., "SLIC superpixels", 2012.

    Example:
        >>> len(superpixels(torch.rand(1, 3, 32, 32), count=4).unique()) <= 6
        True
    """
    from skimage.segmentation import slic

    each = [slic(image.permute(1, 2, 0).double().numpy(), count, start_label=0) for image in images.cpu()]
    return torch.stack([torch.from_numpy(one).long() for one in each]).to(images.device)


def feature_groups(features: Tensor, grid: tuple[int, int], size: tuple[int, int], count: int) -> Tensor:
    """K-means of the features [B, N, C] of each image, resized bilinearly: int64 [B, *size].

    The `grid` (h, w) with h * w = N is where the features are. It is repeatable.

    Example:
        >>> features = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
        >>> groups = feature_groups(features, (2, 2), (4, 4), count=2)[0]
        >>> len(groups[:2].unique()), len(groups.unique())
        (1, 2)
    """
    from sklearn.cluster import KMeans

    means = KMeans(count, n_init="auto", random_state=0)
    owners = torch.stack([torch.from_numpy(means.fit_predict(one.numpy())).long() for one in features.cpu()])
    shares = F.one_hot(owners, count).float().unflatten(1, grid).permute(0, 3, 1, 2)
    return F.interpolate(shares, size, mode="bilinear").argmax(dim=1).to(features.device)
