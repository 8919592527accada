"""What every view of the page is: components, and what they show of a picture and a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from gradio.blocks import BlockContext
from gradio.components import Component

from slotlab.studio.shelf import Loaded
from slotlab.studio.sources import Source

# Work with models: at most two at a time, whoever asks; the rest waits in a queue of bounded length.
WORK: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 2, "show_progress": "hidden", "api_name": False}
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_name": False}


@dataclass(frozen=True, eq=False)
class View:
    """A view of the page.

    Attributes:
        name: of its tab.
        outputs: what changes with picture and model.
        refresh: the values of `outputs` for a model and a picture.
        of: which of "model" and "picture" it shows; while they stay as they are it is not refreshed, and what was done
            in it stays.
    """

    name: str
    outputs: Sequence[Component | BlockContext]
    refresh: Callable[[Loaded, Source], Sequence[Any]]
    of: tuple[str, ...] = ("model", "picture")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", *, words: int = 1) -> str:
    """A table as HTML, whose first `words` columns hold words, the others numbers; all text is escaped."""
    head = "".join(_cell(cell, "th", place < words) for place, cell in enumerate(headings))
    lines = [[_cell(cell, "td" if place else "th", place < words) for place, cell in enumerate(row)] for row in rows]
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    whole = f'<div class="sl-scores"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return whole + (note(caption) if caption else "")


def note(text: str) -> str:
    """A line of plain text as HTML."""
    return f'<p class="sl-note">{escape(text)}</p>'


def _cell(text: str, tag: str, words: bool) -> str:
    left = ' class="sl-words"' if words else ""
    return f"<{tag}{left}>{escape(text)}</{tag}>"
