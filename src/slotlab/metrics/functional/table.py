"""The one table that every mask metric is computed from: how many pixels each pair of segments shares."""

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECT_CELLS = 4096  # up to this many cells per image, ids index the table as they are
MOST_CELLS = 1 << 24  # beyond this (128 MiB per image) the label maps are not segmentations
CHUNK_PIXELS = {
    "cpu": 1 << 18,
    "cuda": 1 << 26,
}  # cpu: large enough to hide the cost of a call, small enough to be cached
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # widened first: few kernels take them


def contingency(predicted: Tensor, target: Tensor) -> Tensor:
    """Counts, per image, the pixels that predicted segment i and true segment j share.

    Exact integer arithmetic, without a Python loop over images: the two label maps are fused into one index, counted
    by one `bincount` per chunk of images. Ids need not be contiguous: where a table over the ids as they are would be
    large, each image's ids are replaced by their rank.

    Args:
        predicted: [B, H, W] or [B, N] of any integer dtype, ids >= 0: the segment of each pixel.
        target: the same shape, any integer dtype, ids >= 0; 0 is the background.

    Returns:
        int64 [B, P, T] whose sum over P and T is the number of pixels. Row 0 and column 0 are id 0 (all zero in an
        image without it); the other ids follow in ascending order, with all-zero rows or columns in between where an
        image lacks an id. B = 0 gives [0, 1, 1].

    Raises:
        ValueError: if the shapes differ or are not [B, H, W] or [B, N], a dtype is not an integer one, an id is
            negative, the images have no pixels, the devices differ, or an image has so many ids that its table would
            have more than 2**24 cells.
    """
    predicted, target = _checked(predicted, target)
    images, pixels = target.shape
    step = max(1, CHUNK_PIXELS.get(target.device.type, CHUNK_PIXELS["cpu"]) // pixels)
    pairs = zip(predicted.split(step), target.split(step), strict=True)
    tables = [_count(some_predicted, some_target) for some_predicted, some_target in pairs] if images else []
    rows = max((table.shape[1] for table in tables), default=1)
    columns = max((table.shape[2] for table in tables), default=1)
    if not tables:
        return target.new_zeros((0, rows, columns), dtype=torch.int64)
    return torch.cat([F.pad(table, (0, columns - table.shape[2], 0, rows - table.shape[1])) for table in tables])


def _checked(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The two label maps as [B, N], or a ValueError that says what is wrong with them."""
    for name, labels in (("predicted", predicted), ("target", target)):
        if labels.dtype not in INTEGERS + UNSIGNED:
            raise ValueError(
                f"`{name}` must hold integer segment ids, not {labels.dtype}; take the argmax of soft masks"
            )
    if predicted.shape != target.shape:
        raise ValueError(
            f"`predicted` and `target` differ in shape: {tuple(predicted.shape)} and {tuple(target.shape)}; "
            "resize the soft masks (bilinear) to the true mask before the argmax"
        )
    if target.ndim not in (2, 3):
        raise ValueError(f"label maps must be [B, H, W] or [B, N], not {tuple(target.shape)}")
    if target.shape[0] and target[0].numel() == 0:
        raise ValueError(f"label maps without pixels: {tuple(target.shape)}")
    if predicted.device != target.device:
        raise ValueError(f"`predicted` is on {predicted.device} but `target` on {target.device}")
    predicted, target = (x.long() if x.dtype in UNSIGNED else x for x in (predicted, target))
    return predicted.flatten(1), target.flatten(1)


def _count(predicted: Tensor, target: Tensor) -> Tensor:
    """The table of one chunk of images, [B, P, T] with P and T one more than the chunk's largest ids."""
    extremes = torch.stack([x.long() for labels in (predicted, target) for x in torch.aminmax(labels)]).tolist()
    for name, low in (("predicted", extremes[0]), ("target", extremes[2])):
        if low < 0:
            raise ValueError(f"`{name}` has a negative id, {low}; give pixels without a segment an id of their own")
    rows, columns = extremes[1] + 1, extremes[3] + 1
    if rows * columns > DIRECT_CELLS:
        predicted, target = _ranks(predicted), _ranks(target)
        rows, columns = int(predicted.max()) + 1, int(target.max()) + 1
        if rows * columns > MOST_CELLS:
            raise ValueError(
                f"an image has about {rows} predicted and {columns} true ids: too many to be a segmentation"
            )
    cells = rows * columns
    images = target.shape[0]
    narrow = torch.int16 if images * cells < 1 << 15 else torch.int32 if images * cells < 1 << 31 else torch.int64
    index = torch.add(target.to(narrow), predicted.to(narrow), alpha=columns)
    index += torch.arange(0, images * cells, cells, device=target.device).to(narrow)[:, None]
    return torch.bincount(index.reshape(-1), minlength=images * cells).view(images, rows, columns)


def _ranks(labels: Tensor) -> Tensor:
    """Each image's ids [B, N] replaced by their rank in that image; rank 0 is kept for id 0, present or not."""
    ordered, order = torch.sort(labels, dim=1)
    starts = torch.cat([ordered[:, :1] != 0, ordered[:, 1:] != ordered[:, :-1]], dim=1)
    return torch.empty_like(order).scatter_(1, order, starts.cumsum(dim=1))
