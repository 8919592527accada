"""What is known of a set of pictures through a feature net, and how it is saved and used again."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slotlab.atomic import replacing
from slotlab.errors import DataError
from slotlab.fidelity.folder import Picture, list_images, read_batches
from slotlab.fidelity.networks import FeatureNet
from slotlab.fidelity.resize import clean_resize
from slotlab.metrics.frechet import FeatureStatistics
from slotlab.metrics.kernel import FeatureSample

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
