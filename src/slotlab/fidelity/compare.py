"""Frechet and kernel distance of two sets of images, with the protocol they were measured by."""

import warnings
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slotlab.data.folders import find_images
from slotlab.errors import DataError
from slotlab.fidelity.statistics import INCEPTION, SetInformation, SetStatistics, folder_statistics, open_network
from slotlab.metrics.distances import chance_distance, frechet_distance, kernel_distance
from slotlab.progress import Stage, in_steps, stage

ENOUGH = 2048  # images on each side below which a warning is given: the number of Inception's features


class FidelityWarning(UserWarning):
    """The distance between two sets of images may be unreliable."""


@dataclass(frozen=True)
class FrechetResult:
    """A distance between real and generated images, with what it was measured on."""

    name: str  # "FID", or "FD-" and the name of the feature net
    distance: float  # squared Frechet distance
    chance: float  # its bias: about the distance of two samples of one distribution with as many images
    kernel_name: str  # "KID", or "KD-" and the name of the feature net
    kernel: float  # kernel distance: mean over subsets
    kernel_deviation: float  # standard deviation over subsets
    real: SetInformation
    generated: SetInformation
    notes: tuple[str, ...]  # reasons to doubt the number: few images, JPEGs, different resolutions

    def protocol(self) -> str:
        """One line that says what the numbers were measured on."""
        net = f"features {self.real.network} ({self.real.fingerprint}), clean resize"
        return f"{net}; real: {self.real}; generated: {self.generated}"

    def as_dict(self) -> dict[str, Any]:
        """The whole result, for JSON."""
        return {**asdict(self), "protocol": self.protocol()}

    def __str__(self) -> str:
        kernel = f"{self.kernel_name} {self.kernel:.4g} ± {self.kernel_deviation:.2g}"
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([f"{self.name} {self.distance:.4g}   {kernel}", self.protocol(), *notes])


@in_steps
def compare_folders(
    real: str | Path,
    generated: str | Path,
    features: str | Path = "inception",
    inception: str | Path | None = None,
    split: str | None = None,
    mixed_sizes: bool = False,
    device: str = "cpu",
) -> Generator[Stage, None, FrechetResult]:
    """Compares two folders of images: clean-FID and KID by default. Each note is a FidelityWarning.

    Args:
        real: folder of the reference images, or an .npz file of saved statistics.
        generated: folder of generated images, or an .npz file.
        features: the feature net; any but "inception" gives a distance named FD-<net>. This,
            `inception` and `device` as for `open_network`; not used for two .npz files.
        inception: the Inception file.
        split: the split of the real images, for the protocol.
        mixed_sizes: allow images of several sizes within a folder.
        device: where the feature net runs.

    Raises:
        DataError: a folder is missing or empty, an image is broken or the only one, sizes are
            mixed, features are NaN, or saved statistics are of another net.
    """
    sides = Path(real), Path(generated)
    opened = {side: SetStatistics.load(side) for side in sides if side.suffix == ".npz"}
    totals = {side: len(find_images(side)) for side in sides if side not in opened}  # a wrong name fails now
    if totals:
        yield "opening the feature net", 0, None
        network = open_network(features, inception, device)
        for known in opened.values():
            _check_same_net(known.information, next(iter(totals)), (network.name, network.fingerprint))
        for side, total in totals.items():
            steps = folder_statistics.steps(side, network, split if side == sides[0] else None, mixed_sizes)
            opened[side] = yield from stage(f"features of {side}", total, steps)
    return compare(*(opened[side] for side in sides))


def compare(real: SetStatistics, generated: SetStatistics) -> FrechetResult:
    """Compares two sets of images by their statistics; see `compare_folders`."""
    first, second = real.information, generated.information
    _check_same_net(first, second.source, (second.network, second.fingerprint))
    for side in (first, second):
        if side.count < 2:
            raise DataError(f"{side.source}: {side.count} image; a distance needs at least 2, better thousands")
    a, b = real.statistics, generated.statistics
    distance = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    chance = chance_distance((a.covariance + b.covariance) / 2, first.count, second.count)
    kernel, deviation = kernel_distance(real.sample, generated.sample)
    notes = tuple(_notes(first, second, chance))
    for note in notes:
        warnings.warn(note, FidelityWarning, stacklevel=3)
    names = ("FID", "KID") if first.network == INCEPTION else (f"FD-{first.network}", f"KD-{first.network}")
    return FrechetResult(names[0], distance, chance, names[1], kernel, deviation, first, second, notes)


def _check_same_net(side: SetInformation, other: str | Path, net: tuple[str, str]) -> None:
    if (side.network, side.fingerprint) != net:
        nets = f"{side.network} ({side.fingerprint}), those of {other} with {net[0]} ({net[1]})"
        raise DataError(f"the statistics of {side.source} were made with {nets}: make both with one feature net")


def _notes(real: SetInformation, generated: SetInformation, chance: float) -> list[str]:
    notes = []
    if (fewest := min(real.count, generated.count)) < ENOUGH:
        notes.append(
            f"{fewest:,} images are fewer than {ENOUGH:,}: the distance is biased upwards, here by about {chance:.3g} "
            "(two samples of one distribution are that far apart by chance); compare only with numbers from as "
            "many images. The kernel distance has no such bias"
        )
    for side in (real, generated):
        if side.jpegs:
            notes.append(f"{side.source}: {side.jpegs} JPEG images, whose artefacts change the distance; use PNG")
        if side.resolution is None:
            notes.append(f"{side.source}: images of mixed sizes, each resized separately")
    if real.resolution and generated.resolution and real.resolution != generated.resolution:
        (width, height), (other_width, other_height) = real.resolution, generated.resolution
        sizes = f"real images are {width} x {height} but generated ones {other_width} x {other_height}"
        notes.append(f"{sizes}: crop and resize the real ones alike first")
    return notes
