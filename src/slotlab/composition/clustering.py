"""Grouping slots into concepts with K-means, and choosing how many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slotlab.errors import ConfigError

MOST_FOR_KMEANS = 50_000
SILHOUETTE_SAMPLE = 4_000
CANDIDATES = (2, 3, 4, 6, 8, 12, 16, 24)


@dataclass(frozen=True)
class Clusters:
    """K-means of N slots: `labels` int64 [N], `centroids` float32 [K, D], the largest cluster first, and the inertia.

    `inertia` is the sum of squared distances to the centroids, `algorithm` the estimator that found them.
    """

    labels: np.ndarray
    centroids: np.ndarray
    inertia: float
    algorithm: str


def cluster(slots: np.ndarray, count: int, seed: int) -> Clusters:
    """Groups slots into clusters; they are taken as they are, not whitened.

    Scikit-learn's `KMeans` (10 starts) up to 50,000 slots, above `MiniBatchKMeans` (3 starts, batches of 4,096, until
    50 in a row bring nothing), both with k-means++ and `seed`.

    Args:
        slots: float32 [N, D].
        count: number of clusters, at least 1.
        seed: 0 or more; with the same slots it gives the same clusters.

    Raises:
        ConfigError: fewer slots, or fewer different ones, than clusters.
    """
    import warnings

    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    if not len(slots):
        raise ConfigError("concepts: there is no object slot, only background; take a model that was trained longer")
    if len(slots) < count:
        raise ConfigError(
            f"concepts: {len(slots)} object slots are too few for {count} clusters; lower --concepts to at most "
            f"{len(slots) + 1} (background included), or take more images"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few different slots: an error of our own, below
        if len(slots) <= MOST_FOR_KMEANS:
            found = KMeans(count, n_init=10, random_state=seed).fit(slots)  # pyright: ignore[reportArgumentType]
            algorithm = "KMeans, k-means++, 10 starts"
        else:
            options: dict[str, Any] = {"n_init": 3, "batch_size": 4096, "max_no_improvement": 50}
            found = MiniBatchKMeans(count, random_state=seed, **options).fit(slots)
            algorithm = "MiniBatchKMeans, k-means++, 3 starts, batches of 4096"
    sizes = np.bincount(np.asarray(found.labels_), minlength=count)
    if not sizes.all():
        raise ConfigError(
            f"concepts: {count} clusters of {len(slots)} slots leave {np.sum(sizes == 0)} empty, as the slots are too "
            f"much alike; lower --concepts"
        )
    order = np.argsort(-sizes, kind="stable")
    rank = np.argsort(order)
    return Clusters(
        labels=rank[found.labels_].astype(np.int64),
        centroids=np.asarray(found.cluster_centers_)[order].astype(np.float32),
        inertia=float(found.inertia_ or 0),
        algorithm=algorithm,
    )


def choose_by_silhouette(
    slots: np.ndarray, seed: int, candidates: Sequence[int] = CANDIDATES
) -> tuple[int, dict[int, float]]:
    """The number of clusters with the highest mean silhouette, and the silhouette of each number tried.

    Measured on a random subsample of at most 4,000 slots, which is clustered anew for each number.

    Args:
        slots: float32 [N, D].
        seed: of the subsample and the clusters.
        candidates: the numbers to try; those that leave too few slots are not.

    Raises:
        ConfigError: fewer than three slots.
    """
    from sklearn.metrics import silhouette_score

    if len(slots) > SILHOUETTE_SAMPLE:
        rows = np.random.default_rng(seed).choice(len(slots), SILHOUETTE_SAMPLE, replace=False)
        slots = slots[np.sort(rows)]
    scores: dict[int, float] = {}
    for count in candidates:
        if count < len(slots):
            labels = cluster(slots, count, seed).labels
            scores[count] = float(silhouette_score(slots, labels))
    if not scores:
        raise ConfigError(f"concepts: {len(slots)} object slots are too few to choose by silhouette; give a number")
    return max(scores, key=lambda count: scores[count]), scores
