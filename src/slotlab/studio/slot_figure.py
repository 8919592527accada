"""What the page's figures show: panes of one image and a card per slot, as the JSON that `assets/figure.js` draws."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from slotlab.figures import grid
from slotlab.figures.grid import Colours, data_uri, matched_colours, palette_colour, true_colours
from slotlab.figures.slots import EMPTY_SHARE, ERROR_TOP, Look

THUMBNAIL = (96, 96)


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
    """An image whose pixels belong to the slots in `labels` [R, R]; `tint` draws the slots' colours over it."""
    frames = [{"labels": None if labels is None else levels(labels)}]
    return {"title": title, "note": note, "image": image, "tint": tint, "frames": frames}


def slot_card(number: int, image: Tensor, mask: Tensor, owners: Tensor, raw: Tensor | None = None) -> dict[str, Any]:
    """A slot cut out of `image` [3, R, R] by its `mask` [R, R]; `owners` [R, R] holds the numbers of all slots."""
    share = float((owners == number).float().mean())
    empty = share < EMPTY_SHARE
    return {
        "number": number,
        "share": "owns nothing" if empty else f"{share:.{0 if share >= 0.01 else 1}%} of the image",
        "empty": empty,
        "picture": data_uri(grid.cut_out(image, mask, THUMBNAIL)),
        "raw": None if raw is None else photograph(raw),
    }


def group(
    size: int, colours: Colours, panes: Sequence[Any], slots: Iterable[Any], title: str = "", text: str = ""
) -> dict[str, Any]:
    """Panes and slots with one selection; `size` is the side of the labels in pixels."""
    codes = {str(slot): "#{:02x}{:02x}{:02x}".format(*colour) for slot, colour in colours.items()}
    return {"title": title, "text": text, "size": size, "colours": codes, "panes": [*panes], "slots": [*slots]}


def look_group(seen: Look, *, title: str, text: str, reference: Tensor | None = None) -> dict[str, Any]:
    """An image as a model sees it, in colours that match the true objects or else the segmentation `reference`."""
    output, size = seen.output, seen.image.shape[-1]
    owners, titles, names = seen.segmentation(), output.titles, range(output.masks.shape[1])
    truth = seen.mask if seen.mask is not None else reference
    colours = matched_colours(owners, truth, names) if truth is not None else {k: palette_colour(k) for k in names}
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
    if seen.mask is not None:
        objects = data_uri(grid.label_map(seen.mask, true_colours(seen.mask), (size, size)))
        panes.insert(1, pane("True objects", objects, note="used for scores and colours, never for learning"))
    soft, own = seen.masks, output.slot_images
    slots = [
        slot_card(k, seen.image if own is None else own[0, k], soft[k], owners, None if own is None else own[0, k])
        for k in names
    ]
    return group(size, colours, panes, slots, title, text)


def _attention_pane(seen: Look, image: str) -> dict[str, Any]:
    output, frames = seen.output, []
    for iteration in range(output.attention.shape[1]):
        maps = output.attention[0, iteration].unflatten(1, output.attention_grid)
        heat = {str(slot): levels((255 * values.clamp(0, 1)).round()) for slot, values in enumerate(maps)}
        labels = levels(output.attention_masks(iteration)[0].argmax(dim=0))
        frames.append({"labels": labels, "heat": {"side": maps.shape[-1], "maps": heat}})
    note = "the slot with the most attention; select a slot to see its attention alone"
    return {**pane("Slot attention", image, note=note, tint=True), "frames": frames}
