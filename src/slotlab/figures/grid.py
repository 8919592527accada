"""The grid of labelled cells that all figures use, its colours, and what a cell can show."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from slotlab.files import replacing
from slotlab.metrics.functional import contingency, intersection_over_union_of

Colour = tuple[int, int, int]
Colours = Mapping[int, Colour]

BACKGROUND: Colour = (158, 158, 158)
IGNORED: Colour = (255, 255, 255)  # true pixels below 0
# The first seven are Okabe and Ito's. Each of the others maximises its smallest OKLab distance to
# all before it, the background, black and white, as seen by normal, protanope and deuteranope eyes
# (Machado et al. 2009).
PALETTE: tuple[Colour, ...] = tuple(
    (code >> 16, code >> 8 & 255, code & 255)
    for code in (
        *(0x0072B2, 0xE69F00, 0x009E73, 0xCC79A7, 0x56B4E9, 0xD55E00, 0xF0E442, 0x692D2D),
        *(0x0000FF, 0x4B1E96, 0x69E1B4, 0x8778FF, 0xA52D69, 0x964B00, 0xA5D2FF, 0x0F4BC3),
        *(0xA5FFA5, 0x4BC378, 0x780069, 0xC31E96, 0xB4D269, 0xA5F0E1, 0x695AE1, 0x5A87D2),
        *(0x87C3C3, 0xB44B4B, 0xD2873C, 0x00A5C3, 0x873C3C, 0xF04B69, 0x006978, 0x7896FF),
    )
)


def palette_colour(number: int) -> Colour:
    """The colour of object or slot `number`; the 32 colours repeat."""
    return PALETTE[number % len(PALETTE)]


def slot_colours(slots: Iterable[int]) -> dict[int, Colour]:
    """A colour for each slot, the same in every image; for images without a true mask."""
    return {slot: palette_colour(slot) for slot in slots}


def true_colours(mask: Tensor) -> dict[int, Colour]:
    """Colours of a true mask [H, W]: grey for 0, the background, then a colour per object by id.

    Pixels below 0, which are ignored, are white.

    Example:
        >>> import torch
        >>> true_colours(torch.tensor([[0, 7], [-1, 9]]))
        {0: (158, 158, 158), 7: (0, 114, 178), 9: (230, 159, 0), -1: (255, 255, 255)}
    """
    labels = mask.unique().tolist()
    objects = enumerate(label for label in labels if label > 0)
    ignored = {label: IGNORED for label in labels if label < 0}
    return {0: BACKGROUND} | {label: palette_colour(place) for place, label in objects} | ignored


def matched_colours(segmentation: Tensor, reference: Tensor, labels: Iterable[int] = ()) -> dict[int, Colour]:
    """Colours of a predicted segmentation that agree with `true_colours(reference)`.

    Predicted and true segments, background included, are matched one to one by the largest sum of
    intersections over union (Hungarian matching). The segments left over get colours that the truth
    does not use, the largest segment first. The numbering of the predicted labels does not matter.

    Args:
        segmentation: [H, W], integers >= 0.
        reference: true mask [H, W], integers; 0 = background, below 0 = ignored.
        labels: further labels that need a colour although they own no pixel.

    Example:
        >>> import torch
        >>> true = torch.tensor([[0, 0, 1, 1]])
        >>> matched_colours(5 * (1 - true), true) == {5: BACKGROUND, 0: palette_colour(0)}
        True
    """
    labelled = segmentation.cpu().numpy()
    found, first, places, sizes = np.unique(labelled, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -sizes))  # the largest first, of equals the first in the image
    names = found[order].tolist()
    true_names, true = reference.cpu().flatten().unique(return_inverse=True)
    ignored = int((true_names < 0).sum())
    table = contingency(torch.from_numpy(places.reshape(1, -1)), true[None] - ignored)
    overlap = intersection_over_union_of(table)[0].numpy()[order]
    known, colours = true_colours(reference.clamp(min=0)), {}
    for row, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
        if overlap[row, column] > 0:
            colours[names[row]] = known[int(true_names[ignored + column])]
    left = dict.fromkeys(label for label in [*names, *labels] if label not in colours)
    return colours | {label: palette_colour(place) for place, label in enumerate(left, start=len(known) - 1)}


CELL = 128


def cell_size(image: Tensor, cell: int = CELL) -> tuple[int, int]:
    """(width, height) at which an image or label map [..., H, W] has a longer side of `cell`.

    Example:
        >>> import torch
        >>> cell_size(torch.zeros(3, 32, 64))
        (128, 64)
    """
    height, width = image.shape[-2:]
    scale = cell / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def photograph(image: Tensor, size: tuple[int, int]) -> Image.Image:
    """An image [3, H, W] in [0, 1] (clamped; NaN is black), resized to `size` (width, height)."""
    return _resized(_levels(image), size, Image.Resampling.BICUBIC)


def label_map(segmentation: Tensor, colours: Colours, size: tuple[int, int]) -> Image.Image:
    """A segmentation [H, W] in flat colours with hard edges, at `size` (width, height)."""
    return Image.fromarray(_painted(_enlarged(segmentation, size), colours))


def overlay(
    image: Tensor, segmentation: Tensor, colours: Colours, size: tuple[int, int], opacity: float = 0.5
) -> Image.Image:
    """A segmentation [H, W] over its image [3, H, W], with thin outlines; `opacity` in [0, 1]."""
    labels = _enlarged(segmentation, size)
    return laid_over(photograph(image, size), labels, Image.fromarray(_painted(labels, colours)), opacity)


def laid_over(photo: Image.Image, labels: np.ndarray, painted: Image.Image, opacity: float = 0.5) -> Image.Image:
    """The painted `labels` [h, w] over a photograph of the same size, with thin outlines."""
    blended = np.array(Image.blend(photo, painted, opacity))
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    blended[edges] = 255
    return Image.fromarray(blended)


def palette_map(labels: np.ndarray, colours: Colours | None = None) -> Image.Image:
    """Labels uint8 [h, w] as a palette image of these values; `colours` differ from the palette."""
    image = Image.fromarray(labels)
    image.putpalette([level for label in range(256) for level in (colours or {}).get(label, palette_colour(label))])
    return image


def cut_out(image: Tensor, mask: Tensor, size: tuple[int, int], *, soft: bool = True) -> Image.Image:
    """An image [3, H, W] seen through a mask [H, W], both in [0, 1], over a light checker.

    `soft` resizes the mask smoothly; otherwise the edges of its pixels stay.
    """
    method = Image.Resampling.BILINEAR if soft else Image.Resampling.NEAREST
    rows, columns = np.indices((size[1], size[0])) // 8
    checker = Image.fromarray(np.where((rows + columns) % 2 == 0, 250, 226).astype(np.uint8)).convert("RGB")
    return Image.composite(photograph(image, size), checker, _resized(_levels(mask), size, method))


def heat_map(values: Tensor, size: tuple[int, int], top: float = 1.0) -> Image.Image:
    """Values [H, W] from 0 (black) to `top` and above (yellow) on the "inferno" colour scale."""
    return Image.fromarray(inferno()[np.asarray(_resized(_levels(values, top), size, Image.Resampling.NEAREST))])


def glow(image: Tensor, values: Tensor, size: tuple[int, int]) -> Image.Image:
    """Values [H, W] from 0 to 1 as heat over the dimmed, grey image [3, H, W]."""
    levels = np.asarray(_resized(_levels(values), size, Image.Resampling.BICUBIC))
    dimmed = 0.45 * np.asarray(photograph(image, size).convert("L"), dtype=np.float32)[..., None]
    strength = np.minimum(1.0, 1.6 * levels[..., None] / 255)
    return Image.fromarray(((1 - strength) * dimmed + strength * inferno()[levels]).astype(np.uint8))


@lru_cache(maxsize=1)
def inferno() -> np.ndarray:
    """The colour scale of heat maps: uint8 [256, 3], dark to bright."""
    from matplotlib import colormaps

    return (255 * np.asarray(colormaps["inferno"](np.arange(256)))[:, :3]).round().astype(np.uint8)


def _levels(values: Tensor, top: float = 1.0) -> Image.Image:
    """Values [H, W] or [3, H, W] as a grey or RGB image: 0 to `top` becomes 0 to 255; NaN is 0."""
    numbers = np.nan_to_num(values.detach().float().cpu().numpy(), nan=0.0)
    levels = np.rint(255 * (numbers / top).clip(0, 1)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)) if levels.ndim == 3 else levels)


def _resized(image: Image.Image, size: tuple[int, int], method: Image.Resampling) -> Image.Image:
    if size[0] < image.width and method != Image.Resampling.NEAREST:
        method = Image.Resampling.LANCZOS
    return image.resize(size, method)  # a copy if it has this size


def _enlarged(segmentation: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Labels int64 [h, w] at (w, h) = `size`: each pixel takes its nearest label."""
    rows, columns = (
        (torch.arange(new) * 2 + 1) * old // (2 * new) for old, new in zip(segmentation.shape, size[::-1], strict=True)
    )
    return segmentation.detach().cpu()[rows][:, columns].numpy()


def _painted(labels: np.ndarray, colours: Colours) -> np.ndarray:
    present, places = np.unique(labels, return_inverse=True)
    return np.array([colours[int(label)] for label in present], dtype=np.uint8)[places.reshape(labels.shape)]


INK: Colour = (30, 30, 30)
FAINT: Colour = (115, 115, 115)
MARGIN, GAP, LINE = 12, 6, 17
TEXT, SMALL = 13, 11
BAR = 128


class Heading(NamedTuple):
    """What is above a column: a title, a fainter second line, and a chip of a colour."""

    title: str
    note: str = ""
    chip: Colour | None = None
    faint: bool = False


class Cell(NamedTuple):
    """An image in a grid and, if any, the lines below it."""

    image: Image.Image
    caption: str = ""


class Scale(NamedTuple):
    """The colour scale below a grid: what the "inferno" colours stand for, from 0 to `top`."""

    title: str
    top: float


def grid(
    rows: Sequence[Sequence[Cell]], headings: Sequence[Heading], labels: Sequence[str] = (), scale: Scale | None = None
) -> Image.Image:
    """Puts equally large cells into a labelled grid on white.

    Args:
        rows: the cells of each row, at most as many as `headings`.
        headings: of the columns.
        labels: of the rows, drawn to their left.
        scale: drawn below the grid.

    Example:
        >>> square = Cell(Image.new("RGB", (64, 64)), "a caption")
        >>> grid([[square, square], [square]], [Heading("left"), Heading("right")]).size
        (158, 215)
    """
    cells = [cell for row in rows for cell in row]
    width, height = cells[0].image.size
    caption = LINE * max(cell.caption.count("\n") + 1 if cell.caption else 0 for cell in cells)
    wanted = [text_width(heading.title, TEXT) + (16 if heading.chip else 0) for heading in headings]
    wanted += [text_width(heading.note, SMALL) for heading in headings]
    wanted += [text_width(line, SMALL) for cell in cells for line in cell.caption.split("\n")]
    column = max(width, max(wanted) + GAP) + GAP
    left = MARGIN + (max(text_width(label, TEXT) for label in labels) + 2 * GAP if labels else 0)
    top = MARGIN + LINE * (2 if any(heading.note for heading in headings) else 1) + GAP
    line = height + caption + GAP
    right, bottom = left + len(headings) * column - GAP + MARGIN, top + len(rows) * line - GAP + MARGIN
    words, end = (f"{scale.title}   0", f"{scale.top:g}") if scale else ("", "")
    bar = left + text_width(words, SMALL) + GAP
    if scale:
        right = max(right, bar + BAR + GAP + text_width(end, SMALL) + MARGIN)
    page = Image.new("RGB", (right, bottom + (2 * LINE if scale else 0)), "white")
    draw = ImageDraw.Draw(page)
    for number, (title, note, chip, faint) in enumerate(headings):
        x = left + number * column
        draw.text((x, MARGIN + LINE), note, FAINT, font(SMALL))
        if chip:
            draw.rectangle((x, MARGIN + 2, x + 10, MARGIN + 12), fill=chip)
            x += 16
        draw.text((x, MARGIN), title, FAINT if faint else INK, font(TEXT))
    for number, row in enumerate(rows):
        above = top + number * line
        if labels:
            draw.text((MARGIN, above + height // 2), labels[number], INK, font(TEXT), anchor="lm")
        for place, cell in enumerate(row):
            x = left + place * column
            page.paste(cell.image, (x, above))
            for offset, text in enumerate(cell.caption.split("\n")):
                draw.text((x, above + height + 3 + offset * (LINE - 3)), text, FAINT, font(SMALL))
    if scale:
        y = bottom - GAP
        draw.text((left, y + 6), words, FAINT, font(SMALL), anchor="lm")
        page.paste(Image.fromarray(inferno()[None]).resize((BAR, 10)), (bar, y + 1))
        draw.text((bar + BAR + GAP, y + 6), end, FAINT, font(SMALL), anchor="lm")
    return page


def text_width(text: str, size: int) -> int:
    """Width of a line of text in pixels."""
    return round(font(size).getlength(text))


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans (has ±, × and Greek), which comes with matplotlib."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def write_png(image: Image.Image, path: Path) -> None:
    """Writes an image as PNG, whole or not at all."""
    with replacing(path) as temporary:
        image.save(temporary, format="png")


def data_uri(image: Image.Image) -> str:
    """An image as the `src` of an `img` in HTML.

    Example:
        >>> data_uri(Image.new("RGB", (1, 1)))[:32]
        'data:image/png;base64,iVBORw0KGg'
    """
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
