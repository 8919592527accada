"""Speed of ARI and the other mask scores, against scikit-learn in a loop and one-hot einsum.

    python benchmarks/ari.py [--images 10000] [--size 128] [--segments 11] [--threads 2]

Protocol. All take turns, so that a busy machine slows all of them; the table shows the median of
each, as a rate. The slower two are timed on 200 images. Scores are compared with those of
scikit-learn.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from contest import rows_of, take_turns, write
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn import functional as F

from slotlab.metrics.functional import (
    adjusted_rand_index,
    adjusted_rand_index_of,
    contingency,
    mean_best_overlap_of,
    mean_iou_of,
)


def label_maps(images: int, size: int, segments: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two label maps of 11 x 11 cells that agree on about 70 %, int64 [images, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, segments, (images, 11, 11), generator=generator)
    other = torch.randint(0, segments, target.shape, generator=generator)
    predicted = torch.where(torch.rand(target.shape, generator=generator) < 0.7, target, other)
    rows = torch.arange(size) * 11 // size
    first, second = (labels[:, rows][:, :, rows].contiguous() for labels in (predicted, target))
    return first, second


def scikit_learn(predicted: Tensor, target: Tensor) -> Tensor:
    """`adjusted_rand_score` for one image after the other."""
    pairs = zip(target.flatten(1).numpy(), predicted.flatten(1).numpy(), strict=True)
    return torch.tensor([adjusted_rand_score(true, one) for true, one in pairs], dtype=torch.float64)


def one_hot_einsum(predicted: Tensor, target: Tensor) -> Tensor:
    """The table as a product of one-hot masks, in float32 and in batches of 64, as is usual."""
    scores = []
    for some_predicted, some_target in zip(predicted.split(64), target.split(64), strict=True):
        one = F.one_hot(some_predicted.flatten(1)).float()
        true = F.one_hot(some_target.flatten(1)).float()
        table = torch.einsum("bnp,bnt->bpt", one, true).double()
        pairs = (table * (table - 1)).sum((1, 2))
        rows, columns = table.sum(2), table.sum(1)
        of_rows, of_columns = (rows * (rows - 1)).sum(1), (columns * (columns - 1)).sum(1)
        pixels = table.sum((1, 2))
        chance = of_rows * of_columns / (pixels * (pixels - 1))
        scores.append((pairs - chance) / ((of_rows + of_columns) / 2 - chance))
    return torch.cat(scores)


def all_four(predicted: Tensor, target: Tensor) -> Tensor:
    """ARI, FG-ARI, mIoU and mBO from one table; returns the ARI."""
    table = contingency(predicted, target)
    adjusted_rand_index_of(table, foreground_only=True)
    mean_iou_of(table)
    mean_best_overlap_of(table)
    return adjusted_rand_index_of(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--segments", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    predicted, target = label_maps(arguments.images, arguments.size, arguments.segments)
    few = min(arguments.images, 200)
    contenders: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
        "slotlab, ARI": (adjusted_rand_index, arguments.images),
        "slotlab, ARI + FG-ARI + mIoU + mBO": (all_four, arguments.images),
        "scikit-learn, loop": (scikit_learn, few),
        "one-hot einsum, float32": (one_hot_einsum, few),
    }
    steps = {
        name: lambda function=function, images=images: function(predicted[:images], target[:images])
        for name, (function, images) in contenders.items()
    }
    timings = take_turns(steps, arguments.rounds)
    reference = scikit_learn(predicted[:few], target[:few])
    for name, timing in timings.items():
        timing.count = contenders[name][1]
        scores = timing.results[0]
        assert isinstance(scores, Tensor)
        print(f"{name}: differs from scikit-learn by {(scores[:few] - reference).abs().max().item():.1e} at most")
    shape = f"{arguments.size}x{arguments.size}, {arguments.segments} segments"
    work = f"scores of {arguments.images:,} pairs of maps, {shape}, {arguments.threads} threads"
    write(rows_of(work, timings, "maps/s", against="scikit-learn, loop"), arguments.csv)


if __name__ == "__main__":
    main()
