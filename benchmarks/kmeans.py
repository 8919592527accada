"""Time to group slots into concepts: slotlab's choice against scikit-learn's Lloyd.

    python benchmarks/kmeans.py [--slots 500000] [--clusters 64] [--rounds 3] [--threads 2]

Protocol. Slots are drawn: 40 Gaussian clusters of unequal size in 64 dimensions, float32, with as
many points again between two of them, so that the answer is not obvious. All contenders begin with
k-means++ and take turns with the same seed; inertia is the mean squared distance of all slots to
their centroid. Lloyd takes long and is run `--lloyd-rounds` times, always after slotlab.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from contest import Timing, rows_of, write
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from slotlab.composition.slots import cluster


def drawn_slots(count: int, dim: int = 64, groups: int = 40) -> np.ndarray:
    random = np.random.default_rng(0)
    centres = random.normal(0, 2, (groups, dim))
    first, second = (random.choice(groups, count, p=random.dirichlet(np.ones(groups))) for _ in range(2))
    share = np.where(np.arange(count) % 2, random.random(count), 1.0)[:, None]
    return (share * centres[first] + (1 - share) * centres[second] + random.normal(0, 1, (count, dim))).astype(
        np.float32
    )


def mean_inertia(slots: np.ndarray, centroids: np.ndarray) -> float:
    pieces = np.array_split(slots, max(1, len(slots) // 20_000))
    nearest = [torch.cdist(torch.from_numpy(one), torch.from_numpy(centroids)).min(dim=1).values for one in pieces]
    return float(torch.cat(nearest).square().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=500_000)
    parser.add_argument("--clusters", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lloyd-rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    slots = drawn_slots(options.slots)
    contenders = {
        "slotlab, mini-batches, 3 starts": (lambda: cluster(slots, options.clusters, 0).centroids, options.rounds),
        "scikit-learn, Lloyd, 1 start": (
            lambda: KMeans(options.clusters, n_init="auto", random_state=0).fit(slots).cluster_centers_,
            options.lloyd_rounds,
        ),
    }
    timings = {name: Timing() for name in contenders}
    with threadpool_limits(options.threads):
        for turn in range(options.rounds):
            for name, (find, rounds) in contenders.items():
                if turn < rounds:
                    timings[name].measure(find)
    work = f"K-means of {options.slots:,} x 64, k = {options.clusters}, {options.threads} threads"
    inertia = {name: mean_inertia(slots, np.asarray(one.results[0], dtype=np.float32)) for name, one in timings.items()}
    shown = {name: f"{name}; inertia {inertia[name]:.2f}" for name in timings}
    named = {shown[name]: timing for name, timing in timings.items()}
    rows = rows_of(work, named, against=shown["scikit-learn, Lloyd, 1 start"])
    write(rows, options.csv)


if __name__ == "__main__":
    main()
