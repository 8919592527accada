"""Feature statistics of a set of images: gathered through a feature net, saved and loaded."""

import json
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from slotlab.data.folders import find_images
from slotlab.data.images import ROUNDING, decode_image
from slotlab.data.loading import in_order
from slotlab.errors import DataError
from slotlab.fidelity.networks import FeatureNet
from slotlab.files import regular, replacing
from slotlab.metrics.distances import FeatureSample, FeatureStatistics
from slotlab.progress import finish, in_steps

BATCH = 16  # images per call of the feature net
KEPT = 10_000  # feature vectors kept for the kernel distance: 80 MB of Inception's
FORMAT = 1
Resized = tuple[Tensor, tuple[int, int], bool]  # float32 [3, S, S] in [0, 255]; (W, H) and whether JPEG, as stored


def clean_resize(pixels: NDArray[np.uint8], size: int = 299) -> NDArray[np.float32]:
    """Resizes an image, uint8 [H, W, 3], as clean-FID's `clean` mode does.

    Each channel becomes a float image (PIL mode "F"), is resized with PIL's bicubic filter
    (a = -0.5, antialiased) and clipped to [0, 255]; nothing is rounded.

    Returns:
        float32 [3, size, size] in [0, 255].

    Source: Parmar, Zhang and Zhu, "On Aliased Resizing and Surprising Subtleties in GAN
    Evaluation", arXiv 2104.11222.

    Example:
        >>> clean_resize(np.full((4, 6, 3), 128, np.uint8), size=2)[0].tolist()
        [[128.0, 128.0], [128.0, 128.0]]
    """
    channels = [Image.fromarray(channel) for channel in pixels.transpose(2, 0, 1).astype(np.float32, order="C")]
    resized = [np.asarray(channel.resize((size, size), Image.Resampling.BICUBIC)) for channel in channels]
    return np.stack(resized).clip(0, 255)


@dataclass
class SetInformation:
    """Where a set of images comes from, and the feature net that looked at it."""

    source: str
    split: str | None
    network: str
    fingerprint: str  # of the net's weights
    count: int  # of images
    resolution: tuple[int, int] | None  # (W, H); None if the images differ in size
    jpegs: int  # number of JPEG files

    def __str__(self) -> str:
        sides = f"{self.resolution[0]} x {self.resolution[1]}" if self.resolution else "mixed sizes"
        split = f", split {self.split}" if self.split else ""
        return f"{self.count:,} images of {sides}{split}, {self.source}"


@dataclass
class SetStatistics:
    """Features of a set of images: mean and covariance, and a sample for the kernel distance."""

    information: SetInformation
    statistics: FeatureStatistics
    sample: Tensor  # float32 [at most 10,000, D], drawn uniformly

    def save(self, path: str | Path) -> None:
        """Writes an .npz file, whole or not at all."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                information=np.array(json.dumps({"format": FORMAT, **asdict(self.information)})),
                mean=self.statistics.mean.numpy(),
                scatter=self.statistics.scatter.numpy(),
                sample=self.sample.numpy(),
            )

    @classmethod
    def load(cls, path: str | Path) -> "SetStatistics":
        """Reads what `save` wrote; nothing is unpickled. DataError if it is missing or damaged."""
        try:
            with np.load(regular(Path(path)), allow_pickle=False) as file:
                values = json.loads(str(file["information"]))
                mean, scatter, sample = (torch.from_numpy(file[name]) for name in ("mean", "scatter", "sample"))
            if values.pop("format") != FORMAT:
                raise ValueError("of another version of slotlab")
            size = values.pop("resolution")
            information = SetInformation(**values, resolution=tuple(size) if size else None)
            counts = (information.count, information.jpegs, *(information.resolution or (1, 1)))
            if len(counts) != 4 or not all(isinstance(count, int) for count in counts):
                raise ValueError("a count or size is no whole number")
            width, kept = len(mean), len(sample)
            if (mean.shape, scatter.shape, sample.shape) != ((width,), (width, width), (kept, width)):
                raise ValueError("mean, scatter and sample are of different sizes")
            if not all(bool(torch.isfinite(values).all()) for values in (mean, scatter, sample)):
                raise ValueError("some values are not finite")
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        except Exception as error:  # NumPy raises a different kind for each way in which a file is damaged
            raise DataError(f"{path}: not saved feature statistics ({error}); make them again") from error
        statistics = FeatureStatistics(len(mean))
        statistics.count, statistics.mean, statistics.scatter = information.count, mean, scatter
        return cls(information, statistics, sample)


@in_steps
def folder_statistics(
    folder: str | Path, network: FeatureNet, split: str | None = None, mixed_sizes: bool = False
) -> Generator[int, None, SetStatistics]:
    """Statistics of the images in a folder and below it, in constant memory.

    All images have one size, unless `mixed_sizes`. The protocol names their `split`, e.g. "val".

    Raises:
        DataError: the folder is missing or empty, an image is broken, or sizes are mixed.
    """
    paths = find_images(folder)

    def read(path: Path) -> Resized:
        decoded = decode_image(path, str(path), remedy="delete it or write it again")
        size = decoded.image.shape[1], decoded.image.shape[0]
        return torch.from_numpy(clean_resize(decoded.image, network.side)), size, decoded.format in ("JPEG", "MPO")

    def images() -> Iterable[Resized]:
        first = None
        for path, image in zip(paths, in_order(read, paths), strict=True):
            (width, height), first = image[1], first or image[1]
            if image[1] != first and not mixed_sizes:
                sizes = f"{path} is {width} x {height}, but {paths[0]} is {first[0]} x {first[1]}"
                raise DataError(f"{sizes}: bring all images to one size first, or allow mixed sizes")
            yield image

    return _gathered(images(), network, str(folder), split)


def batch_statistics(
    batches: Iterable[Tensor], network: FeatureNet, source: str, split: str | None = None
) -> SetStatistics:
    """Statistics of images in memory, as if each had been saved as PNG and read again.

    The images are float [B, 3, H, W] in [0, 1] (rounded to 8 bits here) or uint8. The protocol
    names their `source` and `split`.

    Raises:
        DataError: there are no images, or values are NaN or outside [0, 1].
        ValueError: images of another shape or type.
    """

    def images() -> Iterable[Resized]:
        for batch in batches:
            if batch.ndim != 4 or batch.shape[1] != 3 or not (batch.is_floating_point() or batch.dtype == torch.uint8):
                found = f"{batch.dtype} {list(batch.shape)}"
                raise ValueError(f"{source}: expected images [B, 3, H, W], floating or uint8, got {found}")
            if batch.is_floating_point():
                low, high = (float(value) for value in batch.detach().float().aminmax())
                if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN is in no range
                    raise DataError(f"{source}: images have values from {low:g} to {high:g}; expected [0, 1]")
                batch = (batch.float().clamp(0, 1) * 255).round().to(torch.uint8)
            for pixels in batch.permute(0, 2, 3, 1).cpu().numpy():
                size = pixels.shape[1], pixels.shape[0]
                yield torch.from_numpy(clean_resize(pixels, network.side)), size, False

    return finish(_gathered(images(), network, source, split))


def _gathered(
    images: Iterable[Resized], network: FeatureNet, source: str, split: str | None
) -> Generator[int, None, SetStatistics]:
    statistics, sample = FeatureStatistics(network.dimension), FeatureSample(KEPT)
    sizes: set[tuple[int, int]] = set()
    jpegs, images = 0, iter(images)
    while batch := list(islice(images, BATCH)):
        features = network.features(torch.stack([pixels for pixels, _, _ in batch]))
        statistics.add(features)
        sample.add(features)
        sizes.update(size for _, size, _ in batch)
        jpegs += sum(jpeg for _, _, jpeg in batch)
        yield len(batch)
    if not statistics.count:
        raise DataError(f"{source}: no images")
    resolution = sizes.pop() if len(sizes) == 1 else None
    information = SetInformation(source, split, network.name, network.fingerprint, statistics.count, resolution, jpegs)
    return SetStatistics(information, statistics, sample.features)
