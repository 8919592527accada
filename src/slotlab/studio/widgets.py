"""The studio's own page elements: figures of slots, cards to choose from, and a courier that hands over files."""

import base64
from pathlib import Path
from typing import Any

import gradio as gr

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("figure.js", "cards.js", "courier.js")


def head() -> str:
    """What the page's head needs: the scripts of these elements; nothing is fetched from elsewhere."""
    scripts = "".join(f"<script>{(ASSETS / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS)
    return f'<meta name="viewport" content="width=device-width, initial-scale=1">{scripts}'


def style() -> str:
    """The page's style sheet."""
    return (ASSETS / "studio.css").read_text(encoding="utf-8")


def figure(value: Any = None, **options: Any) -> gr.HTML:
    """Pictures with slots to point at; its event `choose` carries slot, pane, group, and x, y in pixels.

    While its value says `placing`, a click in a pane is the event `place` instead, with x and y.
    """
    return gr.HTML(
        value,
        html_template='<div class="sl-figure"></div>',
        js_on_load=(
            "slotlab.figure(element, props, (spot) => trigger('choose', spot), (spot) => trigger('place', spot), watch)"
        ),
        **options,
    )


def cards(value: Any = None, **options: Any) -> gr.HTML:
    """Pictures to choose from; its events `choose` and `drop` carry the card's id."""
    return gr.HTML(
        value,
        html_template='<div class="sl-cards"></div>',
        js_on_load=(
            "slotlab.cards(element, props, (card) => trigger('choose', card), (card) => trigger('drop', card), watch)"
        ),
        **options,
    )


def courier() -> gr.HTML:
    """What hands a file to the browser when it gets a `parcel`."""
    return gr.HTML(None, html_template="", js_on_load="slotlab.courier(element, props, watch)", elem_classes="sl-none")


def pulse(seconds: float) -> gr.HTML:
    """Something unseen with an event `pulse`, every so many seconds while the view it is in is shown."""
    return gr.HTML(
        "",
        js_on_load=(
            "setInterval(() => element.getClientRects().length && !document.hidden && trigger('pulse'), "
            f"{round(1000 * seconds)})"
        ),
        elem_classes="sl-unseen",
    )


def parcel(name: str, content: bytes, kind: str = "application/octet-stream") -> dict[str, str]:
    """A file for the courier."""
    return {"name": name, "type": kind, "content": base64.b64encode(content).decode("ascii")}
