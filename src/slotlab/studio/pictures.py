"""From tensors to what the page draws: pictures as data URIs, label maps and heat maps as bytes in base64."""

import base64
import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from slotlab.reporting import cells
from slotlab.reporting.colours import Colour, Colours, matched_colours, palette_colour, true_colours
from slotlab.reporting.figures import EMPTY_SHARE, ERROR_TOP
from slotlab.reporting.look import Look

THUMBNAIL = 96
Payload = dict[str, Any]


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return buffer.getvalue()


def uri(picture: Image.Image) -> str:
    """A picture as the `src` of an `img`."""
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode('ascii')}"


def photograph(image: Tensor, side: int | None = None) -> str:
    """An image [3, R, R] in [0, 1], by default in its own size."""
    return uri(cells.photograph(image, (side, side) if side else (image.shape[2], image.shape[1])))


def levels(values: Tensor) -> str:
    """Integers 0..255 of any shape, row by row, as base64."""
    return base64.b64encode(values.to(torch.uint8).contiguous().numpy().tobytes()).decode("ascii")


def hexadecimal(colour: Colour) -> str:
    """A colour as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def pane(title: str, image: str, labels: Tensor | None = None, *, note: str = "", tint: bool = False) -> Payload:
    """A picture of a figure, whose pixels belong to the slots in `labels` [R, R]; `tint` lays colours over it."""
    return {
        "title": title,
        "note": note,
        "image": image,
        "tint": tint,
        "frames": [{"labels": None if labels is None else levels(labels)}],
    }


def look_group(seen: Look, *, title: str = "", text: str = "", reference: Tensor | None = None) -> Payload:
    """All there is to see of a picture: its panes and its slots, in colours that match the truth where it is known.

    Args:
        seen: what the model made of it.
        title: above the group.
        text: below the title.
        reference: a segmentation [R, R] to match colours with where there is no true mask.
    """
    output, size = seen.output, seen.image.shape[-1]
    painters, owners = output.segmentation("masks")[0], seen.owners()
    names = range(output.masks.shape[1])
    truth = seen.mask if seen.mask is not None else reference
    colours = matched_colours(owners, truth, names) if truth is not None else {k: palette_colour(k) for k in names}
    error = (output.reconstruction[0].clamp(0, 1) - seen.image).abs().mean(dim=0)
    heat = uri(cells.heat_map(error, (size, size), ERROR_TOP))
    image = photograph(seen.image)
    panes = [pane("Picture", image, owners, note=f"coloured by {output.titles[seen.finer]}", tint=True)]
    if seen.mask is not None:
        panes.append(_truth_pane(seen.mask))
    panes += [
        pane(
            output.titles["reconstruction"].capitalize(),
            photograph(output.reconstruction[0]),
            painters,
            note=f"outlined by {output.titles['masks']}",
        ),
        pane("Error", heat, owners, note=f"black: none, yellow: {ERROR_TOP:g} or more of the range"),
        _attention_pane(seen, image),
    ]
    return {
        "title": title,
        "text": text,
        "size": size,
        "colours": {str(slot): hexadecimal(colours[slot]) for slot in names},
        "panes": panes,
        "slots": [_slot(seen, slot, owners) for slot in names],
    }


def _truth_pane(mask: Tensor) -> Payload:
    """The true objects, drawn in their colours; it belongs to no slot."""
    size = mask.shape[-1]
    picture = cells.label_map(mask, true_colours(mask), (size, size))
    return pane("True objects", uri(picture), note="used for scores and colours, never for learning")


def _attention_pane(seen: Look, image: str) -> Payload:
    output, frames = seen.output, []
    height, width = output.attention_grid
    for iteration in range(output.attention.shape[1]):
        maps = output.attention[0, iteration].unflatten(1, (height, width))
        labels = output.attention_masks(iteration)[0].argmax(dim=0)
        heat = {str(slot): levels((255 * values.clamp(0, 1)).round()) for slot, values in enumerate(maps)}
        frames.append({"labels": levels(labels), "heat": {"side": width, "maps": heat}})
    note = "which slot looks where most; choose a slot to see its attention alone"
    return {**pane("Slot attention", image, note=note, tint=True), "frames": frames}


def _slot(seen: Look, slot: int, owners: Tensor) -> Payload:
    output = seen.output
    own = None if output.slot_images is None else output.slot_images[0, slot]
    picture = seen.image if own is None else own
    size = (THUMBNAIL, THUMBNAIL)
    soft = output.soft_masks(seen.finer)
    share = float((owners == slot).float().mean())
    return {
        "number": slot,
        "share": share_in_words(share),
        "empty": share < EMPTY_SHARE,
        "picture": uri(cells.cut_out(picture, soft[0, slot], size)),
        "raw": None if own is None else photograph(own),
    }


def share_in_words(share: float) -> str:
    """The part of a picture that a slot owns."""
    return "owns nothing" if share < EMPTY_SHARE else f"{share:.{0 if share >= 0.01 else 1}%} of the picture"


def colours_of(colours: Colours) -> dict[str, str]:
    """Colours by slot number, as the page wants them."""
    return {str(slot): hexadecimal(colour) for slot, colour in colours.items()}
