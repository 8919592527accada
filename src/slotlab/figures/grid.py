"""A grid of labelled cells on white: column headings, row labels, captions, and a colour scale at the foot."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from slotlab.metrics.functional import contingency, intersection_over_union_of

Colour = tuple[int, int, int]
Colours = Mapping[int, Colour]

BACKGROUND: Colour = (158, 158, 158)
# The first seven are Okabe and Ito's. Each of the others was taken from a grid of RGB values so that its smallest
# distance in OKLab to all before it, to the background, to black and to white is largest, where the distance is the
# least of those seen with normal, protanope and deuteranope eyes (Machado et al. 2009).
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
    """The colour of object or slot `number` (0 or more); the 32 colours repeat after the last."""
    return PALETTE[number % len(PALETTE)]


def true_colours(mask: Tensor) -> dict[int, Colour]:
    """Colours of a true mask: the background (0) neutral, the objects in the order of their ids.

    Args:
        mask: [H, W], any integer dtype; 0 = background. Gaps between ids use up no colours.
    """
    objects = [label for label in mask.unique().tolist() if label != 0]
    return {0: BACKGROUND} | {label: palette_colour(place) for place, label in enumerate(objects)}


def slot_colours(labels: Iterable[int]) -> dict[int, Colour]:
    """Colours of segments where there is no truth to match: each label has its own, the same in every image."""
    return {label: palette_colour(label) for label in labels}


def matched_colours(segmentation: Tensor, reference: Tensor, labels: Iterable[int] = ()) -> dict[int, Colour]:
    """Colours of a predicted segmentation that agree with `true_colours(reference)`.

    Predicted and true segments, background included, are matched one to one so that the sum of their intersections
    over union is largest (Hungarian matching); a matched segment gets the colour of its true one. Those left over get
    colours that the truth does not use, the largest first. How the predicted labels are numbered makes no difference.

    Args:
        segmentation: [H, W], integers >= 0.
        reference: [H, W], integers; 0 = background.
        labels: further labels that get a colour although they own no pixel.

    Raises:
        ValueError: the two do not have the same shape.
    """
    names, predicted = _by_size(segmentation)
    true_names, true = reference.cpu().unique(return_inverse=True)
    overlap = intersection_over_union_of(contingency(predicted[None], true[None]))[0].numpy()
    known = true_colours(reference)
    colours: dict[int, Colour] = {}
    for row, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
        if overlap[row, column] > 0:
            colours[names[row]] = known[int(true_names[column])]
    fresh = len(known) - 1
    for label in [*names, *labels]:
        if label not in colours:
            colours[label] = palette_colour(fresh)
            fresh += 1
    return colours


def _by_size(segmentation: Tensor) -> tuple[list[int], Tensor]:
    """Labels from the largest segment to the smallest (ties: the first met comes first), and the map renumbered so."""
    labels, places, sizes = segmentation.cpu().unique(return_inverse=True, return_counts=True)
    flat = places.flatten()
    first = torch.full((len(labels),), flat.numel()).scatter_reduce(0, flat, torch.arange(flat.numel()), "amin")
    order = sorted(range(len(labels)), key=lambda place: (-int(sizes[place]), int(first[place])))
    rank = torch.empty(len(labels), dtype=torch.int64)
    rank[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(labels))
    return [int(labels[place]) for place in order], rank[places]


CELL = 128
CHECKER = (250, 226)
OUTLINE = (255, 255, 255)
DIMMING = 0.45


def cell_size(picture: Tensor, cell: int = CELL) -> tuple[int, int]:
    """(width, height) in pixels at which an image or label map [..., H, W] has a longer side of `cell`."""
    height, width = picture.shape[-2:]
    scale = cell / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def photograph(image: Tensor, size: tuple[int, int]) -> Image.Image:
    """An image [3, H, W] in [0, 1] (clamped; NaN is black) as RGB, smoothly resized to `size` (width, height)."""
    return _resized(_levels(image), size, Image.Resampling.BICUBIC)


def label_map(segmentation: Tensor, colours: Colours, size: tuple[int, int]) -> Image.Image:
    """A segmentation [H, W] in flat colours with hard edges; every pixel shows, so no lines are drawn between them."""
    return Image.fromarray(_painted(_enlarged(segmentation, size), colours))


def overlay(
    image: Tensor, segmentation: Tensor, colours: Colours, size: tuple[int, int], opacity: float = 0.5
) -> Image.Image:
    """A segmentation [H, W] blended over its image [3, H, W], with thin outlines; `opacity` in [0, 1] of the colour."""
    labels = _enlarged(segmentation, size)
    return laid_over(photograph(image, size), labels, Image.fromarray(_painted(labels, colours)), opacity)


def laid_over(photo: Image.Image, labels: np.ndarray, painted: Image.Image, opacity: float = 0.5) -> Image.Image:
    """The painted `labels` [h, w] blended over a photograph of the same size, with thin outlines."""
    blended = np.array(Image.blend(photo, painted, opacity))
    blended[_edges(labels)] = OUTLINE
    return Image.fromarray(blended)


def palette_map(labels: np.ndarray, colours: Colours | None = None) -> Image.Image:
    """Labels uint8 [h, w] as a palette image: its values are the labels, its colours those of `palette_colour`.

    `colours` gives some labels another colour.
    """
    picture = Image.fromarray(labels)
    levels = [level for label in range(256) for level in (colours or {}).get(label, palette_colour(label))]
    picture.putpalette(levels)
    return picture


def cut_out(image: Tensor, mask: Tensor, size: tuple[int, int], *, soft: bool = True) -> Image.Image:
    """An image [3, H, W] seen through a mask [H, W] in [0, 1], over a light checker that stands for "nothing here".

    Args:
        image: the picture.
        mask: how much of it to show at each pixel.
        size: (width, height) of the result.
        soft: resize the mask smoothly; otherwise keep the edges of its pixels.
    """
    method = Image.Resampling.BILINEAR if soft else Image.Resampling.NEAREST
    return Image.composite(photograph(image, size), _checker(size), _resized(_levels(mask), size, method))


def heat_map(values: Tensor, size: tuple[int, int], top: float = 1.0) -> Image.Image:
    """Values [H, W] from 0 (black) to `top` and above (bright yellow) on the "inferno" colour scale."""
    return Image.fromarray(inferno()[np.asarray(_resized(_levels(values, top), size, Image.Resampling.NEAREST))])


def glow(image: Tensor, values: Tensor, size: tuple[int, int], top: float = 1.0) -> Image.Image:
    """Values [H, W] from 0 to `top` as heat over the dimmed, grey image [3, H, W], covering it where high."""
    levels = np.asarray(_resized(_levels(values, top), size, Image.Resampling.BICUBIC))
    dimmed = DIMMING * np.asarray(photograph(image, size).convert("L"), dtype=np.float32)[..., None]
    strength = np.minimum(1.0, 1.6 * levels[..., None] / 255)
    return Image.fromarray(((1 - strength) * dimmed + strength * inferno()[levels]).astype(np.uint8))


@lru_cache(maxsize=1)
def inferno() -> np.ndarray:
    """The colour scale of heat maps: uint8 [256, 3], dark to bright."""
    from matplotlib import colormaps

    return (255 * np.asarray(colormaps["inferno"](np.arange(256)))[:, :3]).round().astype(np.uint8)


def _levels(values: Tensor, top: float = 1.0) -> Image.Image:
    """Values [H, W] or [3, H, W] as a grey or RGB picture: 0 to `top` becomes 0 to 255; NaN is 0."""
    numbers = np.nan_to_num(values.detach().float().cpu().numpy(), nan=0.0)
    levels = np.rint(255 * (numbers / top).clip(0, 1)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)) if levels.ndim == 3 else levels)


def _resized(image: Image.Image, size: tuple[int, int], method: Image.Resampling) -> Image.Image:
    if image.size == size:
        return image
    shrinking = size[0] < image.width
    return image.resize(size, Image.Resampling.LANCZOS if shrinking and method != Image.Resampling.NEAREST else method)


def _enlarged(segmentation: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Labels int64 [h, w] at (w, h) = `size`: each pixel takes its nearest label."""
    height, width = segmentation.shape
    rows = (torch.arange(size[1]) * 2 + 1) * height // (2 * size[1])
    columns = (torch.arange(size[0]) * 2 + 1) * width // (2 * size[0])
    return segmentation.detach().cpu()[rows][:, columns].numpy()


def _painted(labels: np.ndarray, colours: Colours) -> np.ndarray:
    present, places = np.unique(labels, return_inverse=True)
    return np.array([colours[int(label)] for label in present], dtype=np.uint8)[places.reshape(labels.shape)]


def _edges(labels: np.ndarray) -> np.ndarray:
    """Where a label differs from the one to its right or below: one pixel wide, bool [h, w]."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def _checker(size: tuple[int, int], square: int = 8) -> Image.Image:
    rows, columns = np.indices((size[1], size[0])) // square
    levels = np.where((rows + columns) % 2 == 0, *CHECKER).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


INK: Colour = (30, 30, 30)
FAINT: Colour = (115, 115, 115)
MARGIN, GAP, LINE = 12, 6, 17
TEXT, SMALL = 13, 11
BAR = 128


@dataclass(frozen=True)
class Heading:
    """What stands above a column: a title, a fainter second line, and a chip of the colour used elsewhere."""

    title: str
    note: str = ""
    chip: Colour | None = None
    faint: bool = False


@dataclass(frozen=True)
class Cell:
    """A picture in a grid and, if any, the lines below it."""

    image: Image.Image
    caption: str = ""


@dataclass(frozen=True)
class Scale:
    """The colour scale at the foot of a grid: what the "inferno" colours stand for, from 0 to `top`."""

    title: str
    top: float


def grid(
    rows: Sequence[Sequence[Cell | None]],
    headings: Sequence[Heading],
    labels: Sequence[str] = (),
    scale: Scale | None = None,
) -> Image.Image:
    """Puts equally large cells into a labelled grid.

    Args:
        rows: the cells of each row, as many as `headings`; None leaves a place empty.
        headings: of the columns.
        labels: of the rows, drawn to their left; none leaves no room for them.
        scale: drawn below the grid.

    Returns:
        An RGB picture on white.
    """
    cells = [cell for row in rows for cell in row if cell is not None]
    width, height = cells[0].image.size
    caption = LINE * max(cell.caption.count("\n") + 1 if cell.caption else 0 for cell in cells)
    wanted = [text_width(heading.title, TEXT) + (16 if heading.chip else 0) for heading in headings]
    wanted += [text_width(heading.note, SMALL) for heading in headings]
    wanted += [text_width(line, SMALL) for cell in cells for line in cell.caption.split("\n")]
    column = max([width, *wanted]) + GAP
    left = MARGIN + (max(text_width(label, TEXT) for label in labels) + 2 * GAP if labels else 0)
    top = MARGIN + LINE * (2 if any(heading.note for heading in headings) else 1) + GAP
    line = height + caption + GAP
    right = left + len(headings) * column - GAP + MARGIN
    if scale:
        right = max(right, left + _scale_width(scale) + MARGIN)
    bottom = top + len(rows) * line - GAP + MARGIN
    page = Image.new("RGB", (right, bottom + (2 * LINE if scale else 0)), "white")
    draw = ImageDraw.Draw(page)
    for number, heading in enumerate(headings):
        _draw_heading(draw, left + number * column, MARGIN, heading)
    for number, row in enumerate(rows):
        above = top + number * line
        if labels:
            label = labels[number]
            draw.text((MARGIN, above + height // 2), label, INK, font(TEXT), anchor="lm")
        for place, cell in enumerate(row):
            if cell is not None:
                x = left + place * column
                page.paste(cell.image, (x, above))
                for offset, text in enumerate(cell.caption.split("\n")):
                    draw.text((x, above + height + 3 + offset * (LINE - 3)), text, FAINT, font(SMALL))
    if scale:
        _draw_scale(page, draw, left, bottom - GAP, scale)
    return page


def text_width(text: str, size: int) -> int:
    """Width of a line of text in pixels."""
    return round(font(size).getlength(text)) if text else 0


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans as it comes with matplotlib (it has ±, × and Greek), else the one that comes with Pillow."""
    import matplotlib

    try:
        return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
    except OSError:
        return ImageFont.load_default(size)


def _draw_heading(draw: ImageDraw.ImageDraw, x: int, y: int, heading: Heading) -> None:
    ink = FAINT if heading.faint else INK
    if heading.note:
        draw.text((x, y + LINE), heading.note, FAINT, font(SMALL))
    if heading.chip:
        draw.rectangle((x, y + 2, x + 10, y + 12), fill=heading.chip)
        x += 16
    draw.text((x, y), heading.title, ink, font(TEXT))


def _scale_width(scale: Scale) -> int:
    return text_width(f"{scale.title}   0", SMALL) + GAP + BAR + GAP + text_width(f"{scale.top:g}", SMALL)


def _draw_scale(page: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, scale: Scale) -> None:
    title = f"{scale.title}   0"
    draw.text((x, y + 6), title, FAINT, font(SMALL), anchor="lm")
    x += text_width(title, SMALL) + GAP
    page.paste(Image.fromarray(inferno()[None]).resize((BAR, 10)), (x, y + 1))
    draw.text((x + BAR + GAP, y + 6), f"{scale.top:g}", FAINT, font(SMALL), anchor="lm")
