"""Frechet and kernel distance of two sets of pictures, with the protocol that the numbers stand for."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slotlab.errors import ConfigError, DataError
from slotlab.fidelity.networks import INCEPTION, open_network
from slotlab.fidelity.statistics import SetInformation, SetStatistics, folder_statistics, list_images
from slotlab.metrics.distances import chance_distance, frechet_distance, kernel_distance

ENOUGH = 2048  # images on each side below which a warning is given: the number of Inception's features


class FidelityWarning(UserWarning):
    """Something that makes a distance between sets of pictures less than it seems."""


@dataclass(frozen=True)
class FrechetResult:
    """A distance between real and generated pictures, never without what it was measured on.

    Attributes:
        name: "FID", or "FD-" and the name of the feature net.
        distance: squared Frechet distance of the two Gaussians.
        chance: about the distance that two samples of one distribution would have at these numbers of images: what
            `distance` is biased by.
        kernel_name: "KID", or "KD-" and the name of the feature net.
        kernel: kernel distance: mean over subsets.
        kernel_deviation: its standard deviation over subsets.
        real: where the real pictures come from.
        generated: where the generated pictures come from.
        notes: what a reader must know besides: few images, JPEGs, different resolutions.
    """

    name: str
    distance: float
    chance: float
    kernel_name: str
    kernel: float
    kernel_deviation: float
    real: SetInformation
    generated: SetInformation
    notes: tuple[str, ...]

    def protocol(self) -> str:
        """One line that says what the numbers were measured on."""
        return (
            f"features {self.real.network} ({self.real.fingerprint}), clean resize; "
            f"real: {_describe(self.real)}; generated: {_describe(self.generated)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**asdict(self), "notes": list(self.notes), "protocol": self.protocol()}

    def __str__(self) -> str:
        numbers = (
            f"{self.name} {self.distance:.4g}   {self.kernel_name} {self.kernel:.4g} ± {self.kernel_deviation:.2g}"
        )
        return "\n".join([numbers, self.protocol(), *(f"note: {note}" for note in self.notes)])


def compare_folders(
    real: str | Path,
    generated: str | Path,
    features: str | Path = "inception",
    inception: str | Path | None = None,
    split: str | None = None,
    mixed_sizes: bool = False,
    device: str = "cpu",
    batch_size: int = 16,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> FrechetResult:
    """Compares two folders of pictures: clean-FID with the default features, and KID beside it.

    Args:
        real: folder of the reference pictures, or an .npz file of saved statistics.
        generated: folder of generated pictures, or an .npz file.
        features: the feature net, see `open_network`; any but "inception" gives a distance named FD-<net>. Not used
            for two .npz files, which know their net.
        inception: where the Inception file is, if it is neither in the cache nor in $SLOTLAB_INCEPTION.
        split: the split of the real pictures, for the protocol line.
        mixed_sizes: allow pictures of several sizes within a folder.
        device: where the feature net runs.
        batch_size: pictures per call of the net.
        workers: threads that read and resize.
        progress: called with pictures done and in total after each batch, for one folder and then the other.

    Raises:
        DataError: if a folder is missing or empty, an image is broken or the only one, sizes are mixed, features are
            NaN, or saved statistics are of another net.
        CheckpointError: if the weights of the net cannot be had.
        ConfigError: if there is no such net, or a number is below 1.

    Warns:
        FidelityWarning: for each of the result's notes.
    """
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise ConfigError(f"{name}={value}: expected 1 or more")
    sides = Path(real), Path(generated)
    saved = {side: SetStatistics.load(side) for side in sides if _is_saved(side)}
    folders = [side for side in sides if side not in saved]
    for folder in folders:
        list_images(folder)  # a wrong name is told now, not after a net was fetched and the other folder measured
    if not folders:
        return compare(*(saved[side] for side in sides))
    network = open_network(features, inception, device)
    for known in saved.values():
        seen_by = known.information.network, known.information.fingerprint
        _check_same_net(known.information.source, seen_by, str(folders[0]), (network.name, network.fingerprint))
    opened = [
        saved[side]
        if side in saved
        else folder_statistics(side, network, name, mixed_sizes, batch_size, workers, progress)
        for side, name in zip(sides, (split, None), strict=True)
    ]
    return compare(*opened)


def compare(real: SetStatistics, generated: SetStatistics) -> FrechetResult:
    """Compares two sets of pictures whose statistics are at hand; see `compare_folders`."""
    first, second = real.information, generated.information
    seen_by = [(side.network, side.fingerprint) for side in (first, second)]
    _check_same_net(first.source, seen_by[0], second.source, seen_by[1])
    for side in (first, second):
        if side.count < 2:
            raise DataError(
                f"{side.source}: {side.count} image; a distance needs at least 2 (and thousands to mean much)"
            )
    means = real.statistics.mean, generated.statistics.mean
    covariances = real.statistics.covariance, generated.statistics.covariance
    distance = frechet_distance(means[0], covariances[0], means[1], covariances[1])
    chance = chance_distance((covariances[0] + covariances[1]) / 2, first.count, second.count)
    kernel, deviation = kernel_distance(real.sample, generated.sample)
    is_inception = first.network == INCEPTION
    notes = tuple(_notes(first, second, chance))
    for note in notes:
        warnings.warn(note, FidelityWarning, stacklevel=3)
    return FrechetResult(
        name="FID" if is_inception else f"FD-{first.network}",
        distance=distance,
        chance=chance,
        kernel_name="KID" if is_inception else f"KD-{first.network}",
        kernel=kernel,
        kernel_deviation=deviation,
        real=first,
        generated=second,
        notes=notes,
    )


def _check_same_net(source: str, net: tuple[str, str], other: str, net_of_other: tuple[str, str]) -> None:
    """Raises DataError unless two sets of pictures are seen by one net, of this name and fingerprint."""
    if net != net_of_other:
        raise DataError(
            f"{source} is seen by {net[0]} ({net[1]}), but {other} by {net_of_other[0]} ({net_of_other[1]}): "
            "make the statistics of both with one feature net"
        )


def _is_saved(side: Path) -> bool:
    return side.suffix == ".npz"


def _notes(real: SetInformation, generated: SetInformation, chance: float) -> list[str]:
    notes = []
    fewest = min(real.count, generated.count)
    if fewest < ENOUGH:
        notes.append(
            f"{fewest:,} images are fewer than {ENOUGH:,}: the distance is biased upwards, here by about {chance:.3g} "
            "(two samples of one distribution would be that far apart by chance); compare only with numbers from as "
            "many images. The kernel distance has no such bias"
        )
    for side in (real, generated):
        if side.jpegs:
            notes.append(f"{side.source}: {side.jpegs} JPEG images, whose artefacts change the distance; use PNG")
        if side.resolution is None:
            notes.append(f"{side.source}: images of mixed sizes, each resized by itself")
    sizes = {real.resolution, generated.resolution}
    if len(sizes) == 2 and None not in sizes:
        first, second = _resolution(real), _resolution(generated)
        notes.append(f"real images are {first} but generated ones {second}: crop and resize the real ones alike first")
    return notes


def _describe(side: SetInformation) -> str:
    split = f", split {side.split}" if side.split else ""
    return f"{side.count:,} images of {_resolution(side)}{split}, {side.source}"


def _resolution(side: SetInformation) -> str:
    return f"{side.resolution[0]} x {side.resolution[1]}" if side.resolution else "mixed sizes"
