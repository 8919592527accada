"""Frechet and kernel distance of two sets of images, with the protocol they were measured by."""

import warnings
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slotlab.errors import DataError
from slotlab.fidelity.networks import INCEPTION, open_network
from slotlab.fidelity.statistics import SetInformation, SetStatistics, folder_statistics_steps, list_images
from slotlab.metrics.distances import chance_distance, frechet_distance, kernel_distance
from slotlab.progress import finish

ENOUGH = 2048  # images on each side below which a warning is given: the number of Inception's features


class FidelityWarning(UserWarning):
    """The distance between two sets of images may be unreliable."""


@dataclass(frozen=True)
class FrechetResult:
    """A distance between real and generated images, with what it was measured on.

    Attributes:
        name: "FID", or "FD-" and the name of the feature net.
        distance: squared Frechet distance of the two Gaussians.
        chance: about the distance that two samples of one distribution have at these numbers of
            images: the bias of `distance`.
        kernel_name: "KID", or "KD-" and the name of the feature net.
        kernel: kernel distance: mean over subsets.
        kernel_deviation: its standard deviation over subsets.
        real: where the real images come from.
        generated: where the generated images come from.
        notes: reasons to doubt the number: few images, JPEGs, different resolutions.
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
            f"real: {_described(self.real)}; generated: {_described(self.generated)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The whole result as JSON values."""
        return {**asdict(self), "notes": list(self.notes), "protocol": self.protocol()}

    def __str__(self) -> str:
        kernel = f"{self.kernel_name} {self.kernel:.4g} ± {self.kernel_deviation:.2g}"
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([f"{self.name} {self.distance:.4g}   {kernel}", self.protocol(), *notes])


def compare_folders(
    real: str | Path,
    generated: str | Path,
    features: str | Path = "inception",
    inception: str | Path | None = None,
    split: str | None = None,
    mixed_sizes: bool = False,
    device: str = "cpu",
    batch_size: int = 16,
) -> FrechetResult:
    """Compares two folders of images: clean-FID and KID with the default features.

    Args:
        real: folder of the reference images, or an .npz file of saved statistics.
        generated: folder of generated images, or an .npz file.
        features: the feature net, see `open_network`; any but "inception" gives a distance named
            FD-<net>. Not used for two .npz files.
        inception: the Inception file, if it is neither in the cache nor in $SLOTLAB_INCEPTION.
        split: the split of the real images, for the protocol.
        mixed_sizes: allow images of several sizes within a folder.
        device: where the feature net runs.
        batch_size: images per call of the net.

    Raises:
        DataError: a folder is missing or empty, an image is broken or the only one, sizes are
            mixed, features are NaN, or saved statistics are of another net.
        CheckpointError: the weights of the net are missing and cannot be downloaded.
        ConfigError: there is no such net.

    Warns:
        FidelityWarning: for each of the result's notes.
    """
    return finish(compare_folders_steps(real, generated, features, inception, split, mixed_sizes, device, batch_size))


def compare_folders_steps(
    real: str | Path,
    generated: str | Path,
    features: str | Path = "inception",
    inception: str | Path | None = None,
    split: str | None = None,
    mixed_sizes: bool = False,
    device: str = "cpu",
    batch_size: int = 16,
) -> Generator[tuple[str, int, int | None], None, FrechetResult]:
    """`compare_folders` as a generator: yields what is done, images done, and images in all."""
    sides = Path(real), Path(generated)
    opened = {side: SetStatistics.load(side) for side in sides if side.suffix == ".npz"}
    totals = {side: len(list_images(side)) for side in sides if side not in opened}  # a wrong name fails now
    if totals:
        yield "opening the feature net", 0, None
        network = open_network(features, inception, device)
        for known in opened.values():
            _check_same_net(known.information, next(iter(totals)), (network.name, network.fingerprint))
        for side, total in totals.items():
            named = split if side == sides[0] else None
            steps = folder_statistics_steps(side, network, named, mixed_sizes, batch_size)
            done = 0
            while side not in opened:
                try:
                    done += next(steps)
                    yield f"features of {side}", done, total
                except StopIteration as end:
                    opened[side] = end.value
    return compare(*(opened[side] for side in sides))


def compare(real: SetStatistics, generated: SetStatistics) -> FrechetResult:
    """Compares two sets of images by their statistics; see `compare_folders`."""
    first, second = real.information, generated.information
    _check_same_net(first, second.source, (second.network, second.fingerprint))
    for side in (first, second):
        if side.count < 2:
            raise DataError(f"{side.source}: {side.count} image; a distance needs at least 2, better thousands")
    covariances = real.statistics.covariance, generated.statistics.covariance
    distance = frechet_distance(real.statistics.mean, covariances[0], generated.statistics.mean, covariances[1])
    chance = chance_distance((covariances[0] + covariances[1]) / 2, first.count, second.count)
    kernel, deviation = kernel_distance(real.sample, generated.sample)
    notes = tuple(_notes(first, second, chance))
    for note in notes:
        warnings.warn(note, FidelityWarning, stacklevel=3)
    names = ("FID", "KID") if first.network == INCEPTION else (f"FD-{first.network}", f"KD-{first.network}")
    return FrechetResult(names[0], distance, chance, names[1], kernel, deviation, first, second, notes)


def _check_same_net(side: SetInformation, other: str | Path, net: tuple[str, str]) -> None:
    if (side.network, side.fingerprint) != net:
        raise DataError(
            f"the statistics of {side.source} were made with {side.network} ({side.fingerprint}), those of {other} "
            f"with {net[0]} ({net[1]}): make both with one feature net"
        )


def _notes(real: SetInformation, generated: SetInformation, chance: float) -> list[str]:
    notes = []
    fewest = min(real.count, generated.count)
    if fewest < ENOUGH:
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
    sizes = {real.resolution, generated.resolution}
    if len(sizes) == 2 and None not in sizes:
        first, second = _resolution(real), _resolution(generated)
        notes.append(f"real images are {first} but generated ones {second}: crop and resize the real ones alike first")
    return notes


def _described(side: SetInformation) -> str:
    split = f", split {side.split}" if side.split else ""
    return f"{side.count:,} images of {_resolution(side)}{split}, {side.source}"


def _resolution(side: SetInformation) -> str:
    return f"{side.resolution[0]} x {side.resolution[1]}" if side.resolution else "mixed sizes"
