"""A grid of labelled cells on white: column headings, row labels, captions, and a colour scale at the foot."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from slotlab.reporting.cells import inferno
from slotlab.reporting.colours import Colour

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
