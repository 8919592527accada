"""What a report is made of. Any room can add a section: it needs no HTML, only words, tables and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Picture:
    """A picture, what it shows in words for those who cannot see it, and the line below it."""

    image: Image.Image
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """A table: its caption, the column headings, and rows whose first cell names the row.

    What follows a line break in a cell is a note to it.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Listing:
    """Text to be shown as it is, such as a command or a file; `folded` hides a long one until it is opened."""

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a report: warnings, text (a blank line starts a new paragraph), listings, tables, pictures."""

    title: str
    text: str = ""
    warnings: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    listings: Sequence[Listing] = ()
