"""The studio's own page elements: figures of slots, cards to choose from, and a courier that hands over files."""

import base64
import functools
import inspect
import io
import logging
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Generic, TypeVar

import gradio as gr
import torch
from filelock import FileLock, Timeout
from gradio.blocks import BlockContext
from gradio.components import Component
from PIL import Image
from torch import Tensor

from slotlab.errors import SlotlabError
from slotlab.figures import grid
from slotlab.figures.grid import Colour, Colours, matched_colours, palette_colour, true_colours
from slotlab.figures.slots import EMPTY_SHARE, ERROR_TOP, Look
from slotlab.studio.state import Loaded, Source

Said = TypeVar("Said")
Result = TypeVar("Result")


class Stopped(Exception):
    """Raised inside the work when it is to end early."""


@dataclass(frozen=True)
class Done(Generic[Result]):
    """What the work returned."""

    result: Result


def listen(work: Callable[[Callable[[Said], None]], Result], stop: threading.Event) -> Iterator[Said | Done[Result]]:
    """Runs `work(say)` in a thread, yields what it says, and last its result; an error in it is raised here.

    Once `stop` is set, or nobody listens any more, the next `say` in the work raises `Stopped`.
    """
    told: queue.SimpleQueue[Said | Done[Result] | BaseException] = queue.SimpleQueue()

    def say(something: Said) -> None:
        if stop.is_set():
            raise Stopped
        told.put(something)

    def run() -> None:
        try:
            told.put(Done(work(say)))
        except BaseException as error:
            told.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            something = told.get()
            if isinstance(something, BaseException):
                raise something
            yield something
            if isinstance(something, Done):
                return
    finally:
        stop.set()


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
    return uri(grid.photograph(image, (side, side) if side else (image.shape[2], image.shape[1])))


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
    heat = uri(grid.heat_map(error, (size, size), ERROR_TOP))
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
    picture = grid.label_map(mask, true_colours(mask), (size, size))
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
        "picture": uri(grid.cut_out(picture, soft[0, slot], size)),
        "raw": None if own is None else photograph(own),
    }


def share_in_words(share: float) -> str:
    """The part of a picture that a slot owns."""
    return "owns nothing" if share < EMPTY_SHARE else f"{share:.{0 if share >= 0.01 else 1}%} of the picture"


def colours_of(colours: Colours) -> dict[str, str]:
    """Colours by slot number, as the page wants them."""
    return {str(slot): hexadecimal(colour) for slot, colour in colours.items()}


_log = logging.getLogger(__name__)


def politely(act: Callable[..., Any]) -> Callable[..., Any]:
    """An event's function (or generator) whose errors reach the page as a sentence.

    What the library says of bad input is shown as it is; anything else is logged, and the page is told so.
    """
    if inspect.isgeneratorfunction(act):

        @functools.wraps(act)
        def walk(*arguments: Any) -> Iterator[Any]:
            with _spoken(act):
                yield from act(*arguments)

        return walk

    @functools.wraps(act)
    def run(*arguments: Any) -> Any:
        with _spoken(act):
            return act(*arguments)

    return run


@contextmanager
def _spoken(act: Callable[..., Any]) -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except SlotlabError as error:
        raise _sentence(sentence(error)) from None
    except Exception:
        _log.exception("%s failed", getattr(act, "__qualname__", act))
        raise _sentence("This did not work, for a reason the studio did not expect. Its log has the details.") from None


def sentence(error: SlotlabError) -> str:
    """An error's message as a sentence."""
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def _sentence(text: str) -> gr.Error:
    return gr.Error(text, duration=None, title="That did not work", print_exception=False)


PREFIX = "slotlab-studio-"
IN_USE = "in-use"  # a file in the folder, locked while its studio runs
YOUNG = 60.0  # seconds in which a new folder may not be locked yet


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A temporary folder for the time of the block; folders that killed studios of this user left are removed."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, FileLock(Path(name) / IN_USE):
        _remove_left(Path(name).stat().st_uid)
        uploads = Path(name) / "uploads"
        uploads.mkdir()
        yield uploads


def _remove_left(user: int) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            known = folder.lstat()
            if known.st_uid == user and time.time() - known.st_mtime > YOUNG and not folder.is_symlink():
                with FileLock(folder / IN_USE, blocking=False):
                    pass
                shutil.rmtree(folder)


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
