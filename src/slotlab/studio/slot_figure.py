"""Figures of the page: panes of one image and a card per slot, as JSON for `assets/figure.js`."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from slotlab.composition.edits import Scene
from slotlab.figures import grid
from slotlab.figures.grid import PALETTE, Colours, data_uri, matched_colours, slot_colours, true_colours
from slotlab.figures.slots import EMPTY_SHARE, ERROR_TOP, Look
from slotlab.models import FeatureOutput

THUMBNAIL = 96


def photograph(image: Tensor, side: int | None = None) -> str:
    """An image [3, R, R] in [0, 1] as the `src` of an `img` element, by default in its own size."""
    return data_uri(grid.photograph(image, (side, side) if side else (image.shape[2], image.shape[1])))


def levels(values: Tensor) -> str:
    """Integers 0..255 of any shape, row by row, as base64.

    Example:
        >>> levels(torch.tensor([[0, 255], [1, 2]]))
        'AP8BAg=='
    """
    return base64.b64encode(values.to(torch.uint8).contiguous().numpy().tobytes()).decode("ascii")


def pane(title: str, image: str, labels: Tensor | None = None, *, note: str = "", tint: bool = False) -> dict[str, Any]:
    """An image whose pixels belong to the slots in `labels` [H, W]; `tint` colours it by them."""
    frames = [{"labels": None if labels is None else levels(labels)}]
    return {"title": title, "note": note, "image": image, "tint": tint, "frames": frames}


def slot_card(
    number: int,
    image: Tensor,
    mask: Tensor,
    owners: Tensor,
    raw: Tensor | None = None,
    size: tuple[int, int] = (THUMBNAIL, THUMBNAIL),
) -> dict[str, Any]:
    """A slot cut out of `image` [3, h, w] by its `mask` [h, w]; `owners` [H, W] are slot numbers."""
    share = float((owners == number).float().mean())
    empty = share < EMPTY_SHARE
    return {
        "number": number,
        "share": "owns nothing" if empty else f"{share:.{0 if share >= 0.01 else 1}%} of the image",
        "empty": empty,
        "picture": data_uri(grid.cut_out(image, mask, size)),
        "raw": None if raw is None else photograph(raw),
    }


def group(
    shape: Sequence[int], colours: Colours, panes: Sequence[Any], slots: Iterable[Any], title: str = "", text: str = ""
) -> dict[str, Any]:
    """Panes and slots with one selection; `shape` is (height, width) of the labels in pixels."""
    codes = {str(slot): "#{:02x}{:02x}{:02x}".format(*colour) for slot, colour in colours.items()}
    found: dict[str, Any] = {"title": title, "text": text, "height": shape[0], "width": shape[1], "colours": codes}
    return found | {"panes": [*panes], "slots": [*slots]}


def around(mask: Tensor) -> tuple[slice, slice]:
    """Rows and columns of a square close around a mask [R, R]; all if the mask is empty.

    Example:
        >>> mask = torch.zeros(16, 16)
        >>> mask[3:6, 8:10] = 1
        >>> around(mask)
        (slice(2, 7, None), slice(6, 11, None))
    """
    used = [mask.any(dim=axis).nonzero().flatten().tolist() or [0, len(mask) - 1] for axis in (1, 0)]
    longest = max(places[-1] - places[0] + 1 for places in used)
    side = min(longest + 2 * max(1, longest // 16), len(mask))
    starts = [min(max((places[0] + places[-1] + 1 - side) // 2, 0), len(mask) - side) for places in used]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def look_colours(scene: Scene, reference: Tensor | None) -> Colours:
    """Colours of slots that agree with a segmentation `reference` [R, R], if given."""
    names = range(len(scene.slots))
    return slot_colours(names) if reference is None else matched_colours(scene.segmentation(), reference, names)


def more_colours(colours: Colours, count: int) -> Colours:
    """`colours` with some that none of them has, for the slots up to `count`."""
    free = [colour for colour in PALETTE if colour not in colours.values()] or PALETTE
    return {slot: colours.get(slot, free[slot % len(free)]) for slot in range(count)}


def look_group(seen: Look, colours: Colours, title: str, text: str) -> dict[str, Any]:
    """An image as a model sees it."""
    output, size, owners = seen.output, seen.image.shape[-1], seen.segmentation()
    titles = output.titles
    error = (output.reconstruction[0].clamp(0, 1) - seen.image).abs().mean(dim=0)
    image, painted = photograph(seen.image), photograph(output.reconstruction[0])
    heat = data_uri(grid.heat_map(error, (size, size), ERROR_TOP))
    by_masks, outlined = output.segmentation("masks")[0], f"outlined by {titles['masks']}"
    panes = [
        pane("Image", image, owners, note=f"coloured by {titles[seen.source]}", tint=True),
        pane(titles["reconstruction"].capitalize(), painted, by_masks, note=outlined),
        pane("Error", heat, owners, note=f"black: none, yellow: {ERROR_TOP:g} or more of the range"),
        _attention_pane(seen, image),
    ]
    if isinstance(output, FeatureOutput):
        del panes[2]  # it shows features, not the image
    if seen.mask is not None:
        objects = data_uri(grid.label_map(seen.mask, true_colours(seen.mask), (size, size)))
        panes.insert(1, pane("True objects", objects, note="used for scores and colours, never for learning"))
    own = [None] * len(seen.masks) if output.slot_images is None else output.slot_images[0]
    slots = [
        slot_card(number, seen.image if raw is None else raw, mask, owners, raw)
        for number, (mask, raw) in enumerate(zip(seen.masks, own, strict=True))
    ]
    return group((size, size), colours, panes, slots, title, text)


def _attention_pane(seen: Look, image: str) -> dict[str, Any]:
    output, frames = seen.output, []
    for iteration in range(output.attention.shape[1]):
        maps = output.attention[0, iteration].unflatten(1, output.attention_grid)
        heat = {str(slot): levels((255 * values.clamp(0, 1)).round()) for slot, values in enumerate(maps)}
        labels = levels(output.attention_masks(iteration)[0].argmax(dim=0))
        frames.append({"labels": labels, "heat": {"side": maps.shape[-1], "maps": heat}})
    note = "the slot with the most attention; select a slot to see its attention alone"
    title = "Feature masks" if output.titles["attention"] == "feature masks" else "Slot attention"
    return {**pane(title, image, note=note, tint=True), "frames": frames}
