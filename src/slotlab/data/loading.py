"""Batches for training and evaluation, in an order that depends on seed and step only."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from slotlab.data.dataset import BrokenFile
from slotlab.data.sample import Batch, SlotDataset
from slotlab.errors import ConfigError, DataError

LARGEST_PERMUTATION = 2**24
MIRRORED = 2**48  # added to the index of a mirrored image, for what keeps results by index
DEVICE_IMAGES = 512  # made at a time on a device, which starts as many kernels for one image as for hundreds


@lru_cache(maxsize=4)
def shuffled_positions(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..count-1, the same for the same arguments; read-only."""
    if seed < 0:
        raise ConfigError(f"seed={seed}: expected 0 or more")
    positions = np.random.default_rng((seed, epoch)).permutation(count)
    positions.setflags(write=False)
    return positions


def batch_positions(step: int, *, count: int, batch_size: int, seed: int) -> np.ndarray:
    """The positions of the global batch of `step`, from the permutations of all epochs in a row.

    A batch may end one permutation and begin the next, so no sample is left out. Data sets too
    large for a permutation (endless scenes) are walked in strides, once an epoch too.

    Example:
        >>> batch_positions(1, count=5, batch_size=4, seed=0).shape
        (4,)
    """
    first, wanted, pieces = step * batch_size, batch_size, []
    while wanted:
        epoch, offset = divmod(first, count)
        if count <= LARGEST_PERMUTATION:
            piece = shuffled_positions(count, seed, epoch)[offset : offset + wanted]
        else:
            piece = _strided(np.arange(offset, min(offset + wanted, count)), count, seed, epoch)
        pieces.append(piece)
        first, wanted = first + len(piece), wanted - len(piece)
    return np.concatenate(pieces)


def _strided(places: np.ndarray, count: int, seed: int, epoch: int) -> np.ndarray:
    """The samples at these places of the walk `start + place * stride` modulo `count`."""
    start, stride = (int(value) for value in np.random.default_rng((seed, epoch)).integers(1, count, 2))
    while math.gcd(stride, count) != 1:
        stride = stride % (count - 1) + 1
    return np.array([(start + int(place) * stride) % count for place in places], dtype=np.int64)


def training_batches(
    dataset: SlotDataset,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    mirror: bool = False,
) -> Iterator[Batch]:
    """Endless shuffled batches, from `start_step` on.

    The batch of a step depends on the data set, `batch_size`, `seed`, `mirror` and the step only.
    Rank r gets the r-th contiguous part of the global batch, which has `batch_size` samples. With
    `mirror` each image, with its masks, is mirrored from left to right with a chance of one half;
    packed latents and features, which are of the image as it was, are left out.

    Raises:
        ConfigError: `batch_size` is not a multiple of `world_size`, or an argument is out of range.
        DataError: an image is broken, without `skip_broken`.
    """
    if batch_size % world_size:
        raise ConfigError(f"batch_size={batch_size}: take a multiple of {world_size}, the number of processes")
    share, count = batch_size // world_size, len(dataset)

    def pieces() -> Iterator[list[int]]:
        step = start_step
        while True:
            whole = batch_positions(step, count=count, batch_size=batch_size, seed=seed)
            yield whole[rank * share : (rank + 1) * share].tolist()
            step += 1

    def mirroring() -> Iterator[Batch]:
        for step, batch in enumerate(_loaded(dataset, pieces(), batch_size, workers), start_step):
            chance = np.random.default_rng((seed, step, MIRRORED)).random(batch_size)
            yield mirrored(batch, torch.from_numpy(chance[rank * share : (rank + 1) * share] < 0.5))

    return mirroring() if mirror else _loaded(dataset, pieces(), batch_size, workers)


def mirrored(batch: Batch, chosen: Tensor) -> Batch:
    """A batch whose `chosen` images (bool [B]) and masks are mirrored, and have another index."""
    rows = chosen.nonzero().squeeze(1).to(batch["index"].device)
    result = Batch(image=batch["image"], index=batch["index"].clone())
    result["index"][rows] += MIRRORED
    for name in batch.keys() & {"image", "mask", "classes", "annotators"}:
        values: Tensor = batch[name].clone()
        values[rows] = values[rows].flip(-1)
        result[name] = values
    return result


def evaluation_batches(
    dataset: SlotDataset, *, batch_size: int, rank: int = 0, world_size: int = 1, workers: int = 0
) -> Iterator[Batch]:
    """All samples once, in order; the last batch may be smaller.

    Each rank gets a contiguous part, and no sample is dropped or repeated.
    """
    first, last = (len(dataset) * part // world_size for part in (rank, rank + 1))

    def pieces() -> Iterator[list[int]]:
        for start in range(first, last, batch_size):
            yield list(range(start, min(start + batch_size, last)))

    return _loaded(dataset, pieces(), batch_size, workers)


class _Batches(Dataset[Any]):
    """Reads whole batches; returns errors and broken files from the worker as values."""

    def __init__(self, dataset: SlotDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, positions: Sequence[int]) -> tuple[Batch | None, list[BrokenFile], str]:
        broken: list[BrokenFile] = getattr(self._dataset, "broken", [])
        known = len(broken)
        try:
            return self._dataset.batch(positions), broken[known:], ""
        except DataError as error:
            return None, broken[known:], str(error)


def _loaded(dataset: SlotDataset, pieces: Iterator[list[int]], batch_size: int, workers: int) -> Iterator[Batch]:
    device = torch.device(getattr(dataset, "device", "cpu"))
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise ConfigError(f"{name}={value}: expected {least} or more")
    if workers and device.type != "cpu":
        raise ConfigError(f"workers={workers}: this data set makes its batches on {device}; take workers=0")
    if device.type != "cpu":
        return _many_at_a_time(dataset, pieces, max(1, DEVICE_IMAGES // batch_size))
    loader = DataLoader(
        _Batches(dataset),
        batch_size=None,
        sampler=pieces,
        num_workers=workers,
        collate_fn=tuple,  # which changes nothing
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # so that a loader draws nothing from the global generator
    )
    return _unwrapped(dataset, loader, workers)


def _many_at_a_time(dataset: SlotDataset, pieces: Iterator[list[int]], batches: int) -> Iterator[Batch]:
    """The batches of these positions, made several at a time."""
    while some := list(islice(pieces, batches)):
        whole, first = dataset.batch([position for piece in some for position in piece]), 0
        for piece in some:
            part = slice(first, first + len(piece))
            yield Batch(**{name: values[part] for name, values in whole.items()})  # pyright: ignore
            first += len(piece)


def _unwrapped(dataset: SlotDataset, loader: DataLoader[Any], workers: int) -> Iterator[Batch]:
    results = iter(loader)
    del loader
    try:
        for batch, broken, error in results:
            if workers:
                known = getattr(dataset, "broken", [])
                known += [file for file in broken if all(file[0] != other.file for other in known)]
            if batch is None:
                raise DataError(error)
            yield batch
    finally:
        del results  # ends the workers now, even if a traceback keeps this frame alive


T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> Iterator[R]:
    """Yields `function(item)` for each item in order, working at most a few items ahead."""
    threads = threads or min(8, os.cpu_count() or 1)
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
