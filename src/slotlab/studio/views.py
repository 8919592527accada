"""What every view of the page is: components, and what they show of a picture and a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

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
    """

    name: str
    outputs: Sequence[Component]
    refresh: Callable[[Loaded, Source], Sequence[Any]]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table as HTML; all text is escaped."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headings)
    body = "".join(f"<tr>{''.join(_cell(place, cell) for place, cell in enumerate(row))}</tr>" for row in rows)
    below = f'<caption class="sl-help">{escape(caption)}</caption>' if caption else ""
    return f'<div class="sl-scores"><table>{below}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def note(text: str) -> str:
    """A line of plain text as HTML."""
    return f'<p class="sl-note">{escape(text)}</p>'


def _cell(place: int, text: str) -> str:
    return f"<td>{escape(text)}</td>" if place else f"<th>{escape(text)}</th>"
