"""Metrics as pure functions: one value per image, float64 [B], on the device of the input.

Label maps are integer tensors [B, H, W] (or [B, N]). In the *true* map 0 is the background, and
pixels below 0 are ignored, whatever was predicted there; predicted ids only tell segments apart.
The `..._of` functions take a `contingency` table, for several metrics from one count.
"""

from collections.abc import Collection

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from slotlab.errors import ConfigError

MEAN_IOU_DEFINITIONS = ("clevrtex", "clevrtex-foreground", "ground-truth")
REDUCTIONS = ("sum", "mean")
DIRECT_CELLS = 4096  # up to this many cells per image, ids index the table directly
MOST_CELLS = 1 << 24  # beyond this (128 MiB per image) the label maps are not segmentations
# Pixels per call. CPU: large enough to hide the cost of a call, small enough for the cache.
CHUNK_PIXELS = {"cpu": 1 << 18, "cuda": 1 << 26}
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # widened first: few kernels take them


def contingency(predicted: Tensor, target: Tensor) -> Tensor:
    """Counts, per image, the pixels that predicted segment i and true segment j share.

    Args:
        predicted: [B, H, W] or [B, N] of any integer dtype, ids >= 0: the segment of each pixel.
        target: the same shape, any integer dtype; 0 is the background, pixels below 0 are ignored.

    Returns:
        int64 [B, P, T] whose sum over P and T is the number of pixels that are not ignored. Row 0
        and column 0 are id 0; the others follow in ascending order. Rows and columns of ids that an
        image lacks are zero.

    Raises:
        ValueError: the shapes differ or are not [B, H, W] or [B, N] with pixels, a dtype is not an
            integer one, a predicted id is negative, or a table would have more than 2**24 cells.

    Example:
        >>> contingency(torch.tensor([[0, 0, 2, 2]]), torch.tensor([[1, 0, 1, -1]]))
        tensor([[[1, 1],
                 [0, 0],
                 [0, 1]]])
    """
    for name, labels in (("predicted", predicted), ("target", target)):
        if labels.dtype not in INTEGERS + UNSIGNED:
            raise ValueError(f"`{name}` must hold integer segment ids, not {labels.dtype}; use argmax of soft masks")
        if labels.dtype == torch.uint64 and bool((labels.long() < 0).any()):
            raise ValueError(
                f"`{name}` holds ids of 2**63 or more; renumber them, as np.unique(return_inverse=True) does"
            )
    if predicted.shape != target.shape:
        shapes = f"{tuple(predicted.shape)} and {tuple(target.shape)}"
        raise ValueError(f"`predicted` and `target` differ in shape: {shapes}; resize soft masks before the argmax")
    if target.ndim not in (2, 3) or 0 in target.shape[1:]:
        raise ValueError(f"label maps must be [B, H, W] or [B, N] with pixels, not {tuple(target.shape)}")
    if not len(target):
        return target.new_zeros((0, 1, 1), dtype=torch.int64)
    predicted, target = ((x.long() if x.dtype in UNSIGNED else x).flatten(1) for x in (predicted, target))
    step = max(1, CHUNK_PIXELS.get(target.device.type, CHUNK_PIXELS["cpu"]) // target.shape[1])
    tables = [_count(*pair) for pair in zip(predicted.split(step), target.split(step), strict=True)]
    rows, columns = (max(table.shape[side] for table in tables) for side in (1, 2))
    return torch.cat([F.pad(table, (0, columns - table.shape[2], 0, rows - table.shape[1])) for table in tables])


def _count(predicted: Tensor, target: Tensor) -> Tensor:
    """The table of one chunk of images, [B, P, T]; P and T are its largest ids + 1."""
    extremes = torch.stack([x.long() for labels in (predicted, target) for x in torch.aminmax(labels)]).tolist()
    if extremes[0] < 0:
        remedy = "give pixels without a segment a separate id; to ignore pixels, make `target` negative there"
        raise ValueError(f"`predicted` has a negative id, {extremes[0]}; {remedy}")
    ignored = target < 0 if extremes[2] < 0 else None
    if ignored is not None:
        target = target.long().masked_fill(ignored, 0)
    rows, columns = extremes[1] + 1, max(extremes[3], 0) + 1
    if rows * columns > DIRECT_CELLS:
        predicted, target = _ranks(predicted), _ranks(target)
        rows, columns = int(predicted.max()) + 1, int(target.max()) + 1
        if rows * columns > MOST_CELLS:
            raise ValueError(f"an image has about {rows} predicted and {columns} true ids: not a segmentation")
    if ignored is not None:  # one more column, which is cut off
        target, columns = target.masked_fill(ignored, columns), columns + 1
    cells, images = rows * columns, len(target)
    narrow = torch.int16 if images * cells < 1 << 15 else torch.int32 if images * cells < 1 << 31 else torch.int64
    index = torch.add(target.to(narrow), predicted.to(narrow), alpha=columns)
    index += torch.arange(0, images * cells, cells, device=target.device).to(narrow)[:, None]
    table = torch.bincount(index.reshape(-1), minlength=images * cells).view(images, rows, columns)
    return table if ignored is None else table[:, :, :-1]


def _ranks(labels: Tensor) -> Tensor:
    """Each image's ids [B, N] replaced by their rank in it; rank 0 is kept for id 0."""
    ordered, order = torch.sort(labels, dim=1)
    starts = torch.cat([ordered[:, :1] != 0, ordered[:, 1:] != ordered[:, :-1]], dim=1)
    return torch.empty_like(order).scatter_(1, order, starts.cumsum(dim=1))


def adjusted_rand_index(predicted: Tensor, target: Tensor, foreground_only: bool = False) -> Tensor:
    """Adjusted Rand index (ARI) of each image; with `foreground_only`, FG-ARI.

    Count ordered pairs of pixels: tp together in both segmentations, tn in neither, fp in the
    predicted one only, fn in the true one only. Then
    ARI = 2 (tp tn - fn fp) / ((tp + fn)(fn + tn) + (tp + fp)(fp + tn)).
    1 is the same partition, 0 is chance; it can be negative. FG-ARI leaves out the pixels whose
    *true* id is 0, whatever was predicted there, so it does not see how the background is split.

    Degenerate images (see `degenerate_of`) get scikit-learn's values: a single true segment kept
    whole gives 1, split gives 0; no pixel at all (FG-ARI of an image without objects) gives 1.

    Returns:
        float64 [B], in [-1, 1]. Equal to `sklearn.metrics.adjusted_rand_score`.

    Source: Hubert and Arabie, "Comparing partitions", 1985, equation 5, in the pair-counting form.

    Example:
        >>> predicted, target = torch.tensor([[0, 0, 1, 1, 2]]), torch.tensor([[0, 0, 1, 1, 1]])
        >>> adjusted_rand_index(predicted, target)
        tensor([0.5455], dtype=torch.float64)
    """
    return adjusted_rand_index_of(contingency(predicted, target), foreground_only)


def adjusted_rand_index_of(table: Tensor, foreground_only: bool = False) -> Tensor:
    """`adjusted_rand_index` from a `contingency` table, int64 [B, P, T]: float64 [B]."""
    table = table[:, :, 1:] if foreground_only else table
    pixels = table.sum((1, 2))
    together = table.square().sum((1, 2))  # pairs with themselves included; exact: at most pixels squared
    in_predicted = table.sum(2).square().sum(1)
    in_target = table.sum(1).square().sum(1)
    both = (together - pixels).double()
    only_predicted = (in_predicted - together).double()
    only_target = (in_target - together).double()
    neither = (pixels.square() - in_predicted - in_target + together).double()
    numerator = 2 * (both * neither - only_target * only_predicted)
    denominator = (both + only_target) * (only_target + neither) + (both + only_predicted) * (only_predicted + neither)
    same = (only_predicted == 0) & (only_target == 0)  # the only case in which the denominator can be 0
    return torch.where(same, 1.0, numerator / torch.where(same, 1.0, denominator))


def degenerate_of(table: Tensor, foreground_only: bool = False) -> Tensor:
    """Whether an image's ARI can only be 0 or 1: fewer than two true segments take part, bool [B].

    Example:
        >>> target = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 2]])
        >>> degenerate_of(contingency(target, target))
        tensor([False,  True])
    """
    return (table[:, :, int(foreground_only) :].sum(1) > 0).sum(1) < 2


def mean_iou(predicted: Tensor, target: Tensor, definition: str = "clevrtex", slots: int | None = None) -> Tensor:
    """Mean intersection over union of each image, after one-to-one (Hungarian) matching of masks.

    Predicted and true masks, background included, are matched so that the sum S of their
    intersections over union (IoU) is largest. The literature divides S by different numbers, so
    each definition has a name:

    - "clevrtex": by the pairs of which one mask at least is not empty, the official number (`mIoU`
      of the CLEVRTex evaluator). Every slot used beyond the true number costs: 11 used slots and 7
      true masks cannot exceed 7 / 11.
    - "clevrtex-foreground": S without the pair of true id 0, by that number less one (`mIoU_fg`).
    - "ground-truth": by the true masks. Used by SlotDiffusion and others (`mIoU_gt`); extra slots
      cost nothing.

    A mask that overlaps with nothing left may be paired with an empty one or with another like it,
    which the solver decides by their order; so the number of pairs depends on how many empty masks
    there are. Give the number of `slots` of the model to get the evaluator's number (default: the
    largest id + 1).

    Returns:
        float64 [B], in [0, 1]; NaN for an image of which nothing is left to score, as for
        "clevrtex-foreground" one with a single pair. ConfigError for another definition.

    Source: `CLEVRTEX_Evaluator` of Karazija et al., "ClevrTex", arXiv 2111.10265, which is equal in
    batches of one image: in an image with more ids than slots, it also counts the rest of a batch.

    Example:
        >>> predicted, target = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1]])
        >>> mean_iou(predicted, target), mean_iou(predicted, target, "ground-truth")
        (tensor([0.5000], dtype=torch.float64), tensor([0.7500], dtype=torch.float64))
    """
    return mean_iou_of(contingency(predicted, target), definition, slots)


def mean_iou_of(table: Tensor, definition: str = "clevrtex", slots: int | None = None) -> Tensor:
    """`mean_iou` from a `contingency` table, int64 [B, P, T]: float64 [B]."""
    check_name("mean IoU", definition, MEAN_IOU_DEFINITIONS)
    values = []
    for counts in table.cpu().numpy():
        ids = max(slots or 0, *(int(used.max(initial=-1)) + 1 for used in counts.nonzero()))
        if ids**2 > MOST_CELLS:
            raise ValueError(f"an image has about {ids} ids: not a segmentation")
        shared = np.zeros((ids, ids))
        shared[: len(counts), : counts.shape[1]] = counts[:ids, :ids]
        predicted, true = shared.sum(1), shared.sum(0)
        union = np.maximum(predicted[:, None] + true - shared, 1)
        iou = (shared / union).T.astype(np.float32)  # as precise as the evaluator's, for the same ties
        true_ids, slot_ids = linear_sum_assignment(iou, maximize=True)
        matched, pairs = iou[true_ids, slot_ids].astype(np.float64), (true[true_ids] > 0) | (predicted[slot_ids] > 0)
        parts = {"clevrtex": pairs.sum(), "clevrtex-foreground": pairs.sum() - 1, "ground-truth": (true > 0).sum()}
        total, number = matched[int(definition == "clevrtex-foreground") :].sum(), parts[definition]
        values.append(total / number if number > 0 else np.nan)
    return torch.tensor(values, dtype=torch.float64, device=table.device)


def mean_best_overlap(predicted: Tensor, target: Tensor, background: bool = False) -> Tensor:
    """Mean best overlap (mBO): the mean over true objects of the best IoU of any predicted mask.

    A predicted mask may serve several objects. With `background`, the true background (id 0) counts
    as an object too, as in VVO code bases.

    Returns:
        float64 [B], in [0, 1]; NaN for an image without a true object.

    Source: Pont-Tuset et al., "Multiscale Combinatorial Grouping", arXiv 1503.00848, section 5, as
    used by DINOSAUR, arXiv 2209.14860.

    Example:
        >>> mean_best_overlap(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1]]))
        tensor([0.5000], dtype=torch.float64)
    """
    return mean_best_overlap_of(contingency(predicted, target), background)


def mean_best_overlap_of(table: Tensor, background: bool = False) -> Tensor:
    """`mean_best_overlap` from a `contingency` table, int64 [B, P, T]: float64 [B]."""
    first = 0 if background else 1
    best = intersection_over_union_of(table).amax(1)[:, first:]
    return best.sum(1) / (table.sum(1)[:, first:] > 0).sum(1)


def intersection_over_union_of(table: Tensor) -> Tensor:
    """IoU of each predicted with each true mask: float64 [B, P, T]; 0 for empty masks."""
    union = table.sum(2, keepdim=True) + table.sum(1, keepdim=True) - table
    return table / union.clamp(min=1).double()


def without_small(target: Tensor, least: float) -> Tensor:
    """True masks in which the objects below a share of the picture are ignored (-1).

    Ignored, not background: a small object that a model finds is then no error, as in COCO's scores
    by area (`areaRng`), where objects outside the range match nothing and cost nothing.

    Args:
        target: [..., H, W] of a signed integer dtype; 0 is the background, below 0 is ignored.
        least: the smallest share of all H * W pixels that an object needs to count.

    Example:
        >>> without_small(torch.tensor([[[0, 0, 0, 2], [1, 1, 1, 1]]]), least=0.2)
        tensor([[[ 0,  0,  0, -1],
                 [ 1,  1,  1,  1]]])
    """
    flat = target.flatten(-2).flatten(0, -2)
    order = flat.sort(dim=1)
    starts = F.pad(order.values.diff(dim=1) != 0, (1, 0)).cumsum(dim=1)  # the rank of each pixel's id
    areas = torch.zeros_like(starts).scatter_add_(1, starts, torch.ones_like(starts)).gather(1, starts)
    small = torch.empty_like(areas).scatter_(1, order.indices, areas) < least * flat.shape[1]
    return flat.masked_fill(small & (flat > 0), -1).reshape(target.shape)


def slot_identity(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """How well objects keep their slots in clips: integer maps [B, T, H, W] each.

    In each frame in which a true object is seen, its slot is the one that covers most of its
    pixels. The object's main slot is that of most frames.

    Returns:
        The share of object-frames whose slot is the object's main slot, and the mean number of
        times an object's slot changes from one frame in which it is seen to the next: float64 [B]
        each; NaN for a clip without objects. A model with one slot for everything has 1 and 0, so
        read them beside FG-ARI.

    Example:
        >>> target = torch.ones(1, 3, 1, 2, dtype=torch.int64)
        >>> predicted = torch.tensor([4, 4, 5]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
        >>> slot_identity(predicted, target)
        (tensor([0.6667], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    shares, switches = [], []
    for owners, ids in zip(predicted.flatten(2).cpu().numpy(), target.flatten(2).cpu().numpy(), strict=True):
        inside, frames = ids > 0, len(ids)
        known, slot = np.unique(owners, return_inverse=True)
        numbers, thing = np.unique(ids[inside], return_inverse=True)
        cell = (inside.nonzero()[0] * len(known) + slot.reshape(ids.shape)[inside]) * len(numbers) + thing
        counts = np.bincount(cell, minlength=frames * len(known) * len(numbers))
        counts = counts.reshape(frames, len(known), len(numbers))
        kept = seen = changes = objects = 0
        for one in counts.transpose(2, 0, 1):  # [T, P] of each object
            slots = one.argmax(axis=1)[one.any(axis=1)]
            if len(slots):
                kept, seen, objects = kept + np.bincount(slots).max(), seen + len(slots), objects + 1
                changes += int((slots[1:] != slots[:-1]).sum())
        shares.append(kept / seen if seen else np.nan)
        switches.append(changes / objects if objects else np.nan)
    return tuple(torch.tensor(one, dtype=torch.float64, device=target.device) for one in (shares, switches))  # type: ignore[return-value]


def squared_error(reconstruction: Tensor, image: Tensor, reduction: str = "sum") -> Tensor:
    """Squared error of each reconstruction.

    Args:
        reconstruction: floating [B, C, H, W], nominally in [0, 1]; not clamped here.
        image: floating, the same shape, in [0, 1].
        reduction: "sum" over channels and pixels is the MSE of the CLEVRTex evaluator (about 254
            for slot attention at 128 x 128); "mean" divides it by C * H * W.

    Returns:
        float64 [B], >= 0; NaN if the reconstruction has NaN.

    Raises:
        ValueError: the shapes differ or are not [B, C, H, W], or a dtype is not floating.
        ConfigError: the reduction has another name.

    Example:
        >>> squared_error(torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, 3, 4, 4))
        tensor([12.], dtype=torch.float64)
    """
    check_name("squared error", reduction, REDUCTIONS)
    for name, values in (("reconstruction", reconstruction), ("image", image)):
        if not values.is_floating_point():
            raise ValueError(f"`{name}` must be floating in [0, 1], not {values.dtype}")
    if reconstruction.shape != image.shape or image.ndim != 4:
        shapes = f"{tuple(reconstruction.shape)} and {tuple(image.shape)}"
        raise ValueError(f"`reconstruction` and `image` must both be [B, C, H, W], not {shapes}")
    squares = (reconstruction.double() - image.double()).square().flatten(1)
    return squares.sum(1) if reduction == "sum" else squares.mean(1)


def peak_signal_to_noise_ratio(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (PSNR) for a peak of 1: -10 log10(mean squared error).

    Returns:
        float64 [B] in dB; infinite for an exact reconstruction.

    Example:
        >>> peak_signal_to_noise_ratio(torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, 3, 4, 4))
        tensor([6.0206], dtype=torch.float64)
    """
    return -10 * torch.log10(squared_error(reconstruction, image, "mean"))


def check_name(what: str, name: str, known: Collection[str]) -> None:
    """Raises a ConfigError unless `name` is a known definition of a metric."""
    if name not in known:
        raise ConfigError(f"{what} has no definition {name!r}; it has {', '.join(known)}")
