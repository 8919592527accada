"""What is known of a set of pictures through a feature net, and how it is saved and used again."""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from slotlab.data.folders import image_files
from slotlab.errors import DataError
from slotlab.fidelity.networks import FeatureNet
from slotlab.files import replacing
from slotlab.metrics.distances import FeatureSample, FeatureStatistics

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Picture:
    """One picture, ready for a feature net: `pixels` float32 [3, S, S] in [0, 255], and what it was as a file."""

    pixels: Tensor
    size: tuple[int, int]
    jpeg: bool


def list_images(folder: str | Path) -> list[Path]:
    """The image files in a folder and below it, sorted, without hidden ones.

    Raises:
        DataError: if the folder does not exist, holds no image, or holds the masks of a data set too.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        raise DataError(f"{folder}: masks are no pictures to compare; name {folder / 'images'}")
    found = [path for path in image_files(folder, nested=True) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        raise DataError(f"{folder}: no images; looked for {', '.join(SUFFIXES)} in it and below")
    masks = [path for path in found if path.name.endswith("_flat.png")]
    if masks:
        raise DataError(f"{masks[0]} is a mask: give a folder of pictures alone, cropped and resized as in training")
    return found


def read_picture(path: Path, side: int) -> Picture:
    """Reads one file as RGB and resizes it to `side`.

    Raises:
        DataError: if it cannot be read, or has more than 8 bits per channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path}: {image.mode} pixels; write it with 8 bits per channel")
            pixels = np.asarray(image.convert("RGB"))
            jpeg = image.format in ("JPEG", "MPO")
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        raise DataError(f"{path}: cannot be read as an image ({error}); delete it or write it again") from error
    return Picture(torch.from_numpy(clean_resize(pixels, side)), (pixels.shape[1], pixels.shape[0]), jpeg)


def read_batches(paths: list[Path], side: int, batch_size: int, workers: int) -> Iterator[list[Picture]]:
    """Reads pictures in order, in batches, one batch ahead on `workers` threads; memory holds two batches."""
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        waiting = [pool.submit(read_picture, path, side) for path in batches[0]]
        for following in [*batches[1:], []]:
            coming = [pool.submit(read_picture, path, side) for path in following]
            yield [picture.result() for picture in waiting]
            waiting = coming


def clean_resize(pixels: NDArray[np.uint8], size: int = 299) -> NDArray[np.float32]:
    """Resizes a picture as clean-FID's `clean` mode does.

    Each channel becomes a float picture (PIL mode "F"), is resized with PIL's bicubic filter (a = -0.5, its support
    widened by the scale when shrinking: antialiased), and is clipped to [0, 255]; nothing is rounded.

    Args:
        pixels: uint8 [H, W, 3].
        size: side of the square result.

    Returns:
        float32 [3, size, size] in [0, 255].

    Source: Parmar, Zhang and Zhu, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", arXiv 2104.11222.
    """
    channels = [Image.fromarray(np.ascontiguousarray(pixels[:, :, channel], dtype=np.float32)) for channel in range(3)]
    resized = [np.asarray(channel.resize((size, size), Image.Resampling.BICUBIC)) for channel in channels]
    return np.stack(resized).clip(0, 255)


KEPT = 10_000  # feature vectors kept for the kernel distance: 80 MB of Inception's
FORMAT = 1


@dataclass
class SetInformation:
    """Where a set of pictures comes from: its source, split, net, number, resolution (W, H; None if mixed), JPEGs."""

    source: str
    split: str | None
    network: str
    fingerprint: str
    count: int
    resolution: tuple[int, int] | None
    jpegs: int


@dataclass
class SetStatistics:
    """Features of a set of pictures: their mean and covariance, and a sample of at most `KEPT` for the kernel distance.

    Attributes:
        information: where the set comes from.
        statistics: mean and covariance over all of it.
        sample: float32 [at most KEPT, D], drawn uniformly.
    """

    information: SetInformation
    statistics: FeatureStatistics
    sample: Tensor

    def save(self, path: str | Path) -> None:
        """Writes an .npz file (mean, covariance scatter, sample, and a JSON text), whole or not at all."""
        information = json.dumps({"format": FORMAT, **asdict(self.information)})
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                information=np.array(information),
                mean=self.statistics.mean.numpy(),
                scatter=self.statistics.scatter.numpy(),
                sample=self.sample.numpy(),
            )

    @classmethod
    def load(cls, path: str | Path) -> "SetStatistics":
        """Reads what `save` wrote; nothing is unpickled.

        Raises:
            DataError: if the file is missing, damaged, or of another format.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                information = json.loads(str(file["information"]))
                mean, scatter, sample = (torch.from_numpy(file[name]) for name in ("mean", "scatter", "sample"))
            if information.pop("format") != FORMAT:
                raise DataError(f"{path}: feature statistics of another version of slotlab; make them again")
            size = information.pop("resolution")
            known = SetInformation(**information, resolution=tuple(size) if size else None)
        except DataError:
            raise
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        except Exception as error:  # NumPy raises a different kind for each way in which a file is damaged
            raise DataError(f"{path}: not saved feature statistics ({error}); make them again") from error
        statistics = FeatureStatistics(len(mean))
        statistics.count, statistics.mean, statistics.scatter = known.count, mean, scatter
        return cls(known, statistics, sample)


def folder_statistics(
    folder: str | Path,
    network: FeatureNet,
    split: str | None = None,
    mixed_sizes: bool = False,
    batch_size: int = 16,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> SetStatistics:
    """Statistics of the pictures in a folder and below it, read once, in memory that does not grow with their number.

    Args:
        folder: of images, all of one size.
        network: the feature net.
        split: what the protocol line shall say of it, e.g. "val".
        mixed_sizes: allow pictures of several sizes (each is resized to the net's input by itself).
        batch_size: pictures per call of the net.
        workers: threads that read and resize.
        progress: called with pictures done and in total after each batch.

    Raises:
        DataError: if the folder is missing or empty, an image is broken, or sizes are mixed.
    """
    paths = list_images(folder)

    def batches() -> Iterable[list[Picture]]:
        done = 0
        for batch in read_batches(paths, network.side, batch_size, workers):
            for path, picture in zip(paths[done:], batch, strict=False):
                if not mixed_sizes and picture.size != size.setdefault("of the first", picture.size):
                    raise DataError(
                        f"{path} is {picture.size[0]} x {picture.size[1]}, but {paths[0]} is "
                        f"{size['of the first'][0]} x {size['of the first'][1]}: bring all images to one size first, "
                        "or allow mixed sizes"
                    )
            done += len(batch)
            yield batch
            if progress:
                progress(done, len(paths))

    size: dict[str, tuple[int, int]] = {}
    return _gather(batches(), network, str(folder), split)


def batch_statistics(
    batches: Iterable[Tensor], network: FeatureNet, source: str, split: str | None = None
) -> SetStatistics:
    """Statistics of pictures that were never files: as if each had been saved as PNG and read again.

    Args:
        batches: pictures, float [B, 3, H, W] in [0, 1] (rounded to 8 bits here) or uint8 [B, 3, H, W].
        network: the feature net.
        source: what the protocol line shall say they are.
        split: likewise.

    Raises:
        DataError: if there are none, or one has NaN or infinity.
        ValueError: pictures of another shape.
    """

    def pictures() -> Iterable[list[Picture]]:
        for batch in batches:
            if batch.ndim != 4 or batch.shape[1] != 3:
                raise ValueError(f"{source}: expected pictures [B, 3, H, W], got {list(batch.shape)}")
            if batch.is_floating_point():
                if not bool(torch.isfinite(batch).all()):
                    raise DataError(f"{source}: a picture has values that are not finite; look at what made it")
                batch = (batch.float().clamp(0, 1) * 255).round().to(torch.uint8)
            arrays = batch.permute(0, 2, 3, 1).cpu().numpy()
            resized = (torch.from_numpy(clean_resize(pixels, network.side)) for pixels in arrays)
            yield [Picture(pixels, (batch.shape[3], batch.shape[2]), jpeg=False) for pixels in resized]

    return _gather(pictures(), network, source, split)


def _gather(batches: Iterable[list[Picture]], network: FeatureNet, source: str, split: str | None) -> SetStatistics:
    statistics, sample = FeatureStatistics(network.dimension), FeatureSample(KEPT)
    sizes: set[tuple[int, int]] = set()
    jpegs = 0
    for batch in batches:
        features = network.features(torch.stack([picture.pixels for picture in batch]))
        statistics.add(features)
        sample.add(features)
        sizes.update(picture.size for picture in batch)
        jpegs += sum(picture.jpeg for picture in batch)
    if not statistics.count:
        raise DataError(f"{source}: no images")
    resolution = sizes.pop() if len(sizes) == 1 else None
    information = SetInformation(source, split, network.name, network.fingerprint, statistics.count, resolution, jpegs)
    return SetStatistics(information, statistics, sample.features)
