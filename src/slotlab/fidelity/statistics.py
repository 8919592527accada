"""Feature nets, and the statistics of features of a set of images: gathered, saved, loaded."""

import http.client
import json
import os
import re
import warnings
from collections.abc import Callable, Generator, Iterable
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
from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.files import regular, replacing, sha256_of
from slotlab.metrics.distances import FeatureSample, FeatureStatistics
from slotlab.models.efficientnet import efficientnet_file, open_efficientnet
from slotlab.progress import finish, in_steps

INCEPTION, INCEPTION_SIDE = "inception-2015-12-05", 299
FILE_NAME = f"{INCEPTION}.pt"
URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{FILE_NAME}"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"  # as in k-diffusion; 95,607,719 bytes
VARIABLE = "SLOTLAB_INCEPTION"


@dataclass(frozen=True)
class FeatureNet:
    """A network that turns images into feature vectors."""

    name: str  # names its distances; INCEPTION for the published Inception only
    side: int  # images are resized to side x side
    dimension: int  # of a feature vector, D
    fingerprint: str  # first 12 digits of the SHA-256 of the weights
    features: Callable[[Tensor], Tensor]  # float32 [B, 3, side, side] in [0, 255] to [B, D]


def open_network(
    features: str | Path = "inception", inception: str | Path | None = None, device: str = "cpu"
) -> FeatureNet:
    """Opens a feature net.

    Args:
        features: "inception"; "efficientnet-lite0"; or a TorchScript file with the interface of the
            published Inception (a submodule `layers` that maps [B, 3, 299, 299] in [-1, 1] to
            [B, D] or [B, D, 1, 1]).
        inception: the Inception file, if not $SLOTLAB_INCEPTION, the cached one or a download.
        device: where it runs.

    Raises:
        ConfigError: there is no such net.
        CheckpointError: its weights are missing, damaged or not of that interface.
    """
    name = str(features)
    if name == "inception":
        return _torchscript(find_inception(inception), device)
    if inception is not None:
        raise ConfigError(f"an Inception file was given, but the features are {name!r}: leave one of them out")
    if name == "efficientnet-lite0":
        return _efficientnet(device)
    if not Path(name).is_file():
        raise ConfigError(f"no feature net {name!r}: give inception, efficientnet-lite0 or a TorchScript file")
    return _torchscript(Path(name), device)


def cached_file() -> Path:
    """Where the downloaded Inception is kept: slotlab/ in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slotlab" / FILE_NAME


def find_inception(path: str | Path | None = None) -> Path:
    """The file of the published Inception: `path`, $SLOTLAB_INCEPTION, the cache, or a download.

    Raises:
        CheckpointError: a file is missing or is not the published one, or the download fails.
    """
    named, cached = path or os.environ.get(VARIABLE), cached_file()
    file = Path(named) if named else cached
    if file.is_file():
        if (found := sha256_of(file)) != SHA256:
            remedy = f"use it as features={str(file)!r}" if named else "delete it, so that it is downloaded again"
            wrong = f"is not the Inception network that FID is defined by (its SHA-256 is {found}, not {SHA256})"
            raise CheckpointError(f"{file} {wrong}: {remedy}")
        return file
    if named:
        raise CheckpointError(f"{file}: no such file ({'the given file' if path else f'${VARIABLE}'})")
    cached.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(URL, str(cached), hash_prefix=SHA256, progress=False)
    except (OSError, RuntimeError, http.client.HTTPException) as error:  # RuntimeError: another hash
        raise CheckpointError(
            f"the Inception network could not be downloaded ({error}). Fetch {URL} on a machine that can, and put it "
            f"at {cached}, or set {VARIABLE} to its path, or pass its path. Without it, "
            "features='efficientnet-lite0' gives FD-efficientnet-lite0, which is not FID"
        ) from error
    return cached


def _torchscript(path: Path, device: str) -> FeatureNet:
    try:
        with warnings.catch_warnings():  # TorchScript is deprecated, but it is what the network is published as
            warnings.simplefilter("ignore", DeprecationWarning)
            layers = torch.jit.load(str(path), map_location=device).eval().layers
        features = torch.inference_mode()(lambda images: layers((images.to(device) - 128) / 128).flatten(1))
        one = features(torch.zeros(1, 3, INCEPTION_SIDE, INCEPTION_SIDE))
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise CheckpointError(
            f"{path}: not a TorchScript file with a submodule `layers` for images [B, 3, {INCEPTION_SIDE}, "
            f"{INCEPTION_SIDE}] ({reason})"
        ) from error
    digest = sha256_of(path)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)
    if digest == SHA256 or name == INCEPTION:
        name = INCEPTION if digest == SHA256 else f"{INCEPTION}-other"  # a file of that name with other weights
    return FeatureNet(name, INCEPTION_SIDE, one.shape[1], digest[:12], features)


def _efficientnet(device: str) -> FeatureNet:
    network, fingerprint = open_efficientnet(), sha256_of(efficientnet_file())[:12]
    features = torch.inference_mode()(lambda images: network.to(device)(images.to(device)))
    return FeatureNet("efficientnet-lite0", 224, 1280, fingerprint, features)


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
