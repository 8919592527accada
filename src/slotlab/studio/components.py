"""Elements and events of the page: figures of slots, cards, tables, downloads, error messages."""

import base64
import functools
import inspect
import io
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import torch
from gradio.blocks import BlockContext
from gradio.components import Component
from PIL import Image
from torch import Tensor

from slotlab.composition.edits import Scene
from slotlab.errors import ConfigError, SlotlabError
from slotlab.figures import grid
from slotlab.figures.grid import PALETTE, Colours, data_uri, matched_colours, slot_colours, true_colours
from slotlab.figures.slots import EMPTY_SHARE, ERROR_TOP, Look
from slotlab.models import FeatureOutput

T = TypeVar("T")
ASSETS = Path(__file__).parent / "assets"
NO_CARDS: dict[str, Any] = {"cards": []}
NO_GROUPS: dict[str, Any] = {"groups": []}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class View:
    """One tab of the page."""

    name: str
    outputs: Sequence[Component | BlockContext]
    refresh: Callable[..., dict[Any, Any]]  # new values for a model, an image, and an earlier state
    of: tuple[str, ...] = ("model", "image")  # it is refreshed only when one of these changes
    state: gr.State = field(default_factory=lambda: gr.State(None))  # kept for each of them


@contextmanager
def _messages() -> Iterator[None]:
    try:
        yield
    except SlotlabError as error:
        text = str(error)[:1].upper() + str(error)[1:]
        text += "" if text.endswith((".", "?", "!")) else "."
    except Exception:
        _log.exception("an event of the page failed")
        text = "The studio did not expect this error. Its log has the details."
    else:
        return
    raise gr.Error(text, duration=None, title="That did not work", print_exception=False)


def with_messages(act: Callable[..., Any]) -> Callable[..., Any]:
    """An event's function or generator whose errors reach the page; unexpected ones are logged."""
    if not inspect.isgeneratorfunction(act):
        return _messages()(act)

    @functools.wraps(act)
    def stream(*arguments: Any) -> Iterator[Any]:
        with _messages():
            yield from act(*arguments)

    return stream


def at_work(
    event: Any, act: Callable[..., Any], inputs: Any, outputs: Any, progress: str = "hidden", **more: Any
) -> Any:
    """Has an event work with models: at most two at a time, for all users; the rest waits."""
    options = {"concurrency_id": "model", "concurrency_limit": 2, "show_progress": progress, "api_name": False}
    return event(with_messages(act), inputs, outputs, **options, **more)


def at_once(event: Any, act: Callable[..., Any], inputs: Any, outputs: Any) -> Any:
    """Has an event do what needs no model, without waiting."""
    return event(with_messages(act), inputs, outputs, queue=False, show_progress="hidden", api_name=False)


def begun(now: T | None) -> T:
    """The state of a view; ConfigError before an image was chosen."""
    if now is None:
        raise ConfigError("Choose an image first.")
    return now


def png(image: Image.Image) -> bytes:
    """An image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def note(text: str) -> str:
    """A line of plain text as HTML.

    Example:
        >>> note("a < b")
        '<p class="sl-note">a &lt; b</p>'
    """
    return f'<p class="sl-note">{escape(text)}</p>'


def heading(text: str, below: str = "") -> gr.HTML:
    """A heading in a view, with a note below it."""
    return gr.HTML(f'<h3 class="sl-group-title">{escape(text)}</h3>{note(below) if below else ""}')


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str, *, words: int = 1) -> str:
    """A table as escaped HTML, whose first `words` columns hold words, the others numbers."""

    def line(cells: Sequence[str], first: str, others: str) -> str:
        tags = [f'{first} class="sl-words"', *[f'{others} class="sl-words"'] * (words - 1)]
        tags += [others] * (len(cells) - words)
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}' for tag, cell in zip(tags, cells, strict=True))}</tr>"

    body = "".join(line(row, "th", "td") for row in rows)
    whole = f"<table><thead>{line(headings, 'th', 'th')}</thead><tbody>{body}</tbody></table>"
    return f'<div class="sl-scores">{whole}</div>{note(caption)}'


def button(text: str, name: str, min_width: int = 90, **options: Any) -> gr.Button:
    """A small button with an id."""
    return gr.Button(text, size="sm", elem_id=name, min_width=min_width, **options)


def _drawn(kind: str, other: str, value: dict[str, Any], **options: Any) -> gr.HTML:
    """An element that `assets/KIND.js` draws; a click is the event `choose` or the `other` one."""
    send = f"(what) => trigger('choose', what), (what) => trigger('{other}', what)"
    script = f"slotlab.{kind}(element, props, {send}, watch)"
    return gr.HTML(value, html_template=f'<div class="sl-{kind}"></div>', js_on_load=script, **options)


def figure(value: dict[str, Any] = NO_GROUPS, **options: Any) -> gr.HTML:
    """Images whose slots can be selected; its event `choose` carries slot, pane, group, and x, y.

    While its value says `placing`, a click in a pane is the event `place` instead, with x and y.
    """
    return _drawn("figure", "place", value, **options)


def cards(value: dict[str, Any] = NO_CARDS, **options: Any) -> gr.HTML:
    """Images to choose from: the event `choose` carries an image's id, the event `act` a card's."""
    return _drawn("cards", "act", value, **options)


def download() -> gr.HTML:
    """An unseen element that gives the browser a file when its value becomes a `file`."""
    return gr.HTML(None, html_template="", js_on_load="slotlab.download(element, props, watch)", elem_classes="sl-none")


def file(name: str, content: bytes) -> dict[str, str]:
    """A file for `download`."""
    return {"name": name, "content": base64.b64encode(content).decode("ascii")}


def written(write: Callable[[Path], None]) -> dict[str, bytes]:
    """The files, by name, that `write` puts into a folder, which is gone afterwards."""
    uploads = os.environ.get("GRADIO_TEMP_DIR")  # which the next studio removes after a kill
    with tempfile.TemporaryDirectory(dir=uploads) as temporary:
        write(folder := Path(temporary) / "out")
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def zipped(files: Mapping[str, bytes | str]) -> bytes:
    """Files as a zip archive.

    Example:
        >>> zipfile.ZipFile(io.BytesIO(zipped({"a.txt": "hello"}))).read("a.txt")
        b'hello'
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pulse(seconds: float) -> gr.HTML:
    """An unseen element whose event `pulse` fires at this interval while its view is shown."""
    fire = "element.getClientRects().length && !document.hidden && trigger('pulse')"
    return gr.HTML("", js_on_load=f"setInterval(() => {fire}, {1000 * seconds})", elem_classes="sl-unseen")


def page_head() -> str:
    """The scripts of these elements; the page loads nothing from elsewhere."""
    scripts = "".join(f"<script>{path.read_text(encoding='utf-8')}</script>" for path in sorted(ASSETS.glob("*.js")))
    return f'<meta name="viewport" content="width=device-width, initial-scale=1">{scripts}'


THUMBNAIL = 96


def photograph(image: Tensor, side: int | None = None) -> str:
    """An image [3, R, R] in [0, 1] as the `src` of an `img` element, by default in its own size."""
    return data_uri(grid.photograph(image, (side, side) if side else (image.shape[2], image.shape[1])))


def jpeg(image: Image.Image) -> str:
    """An image as the `src` of an `img` element, in a tenth of the bytes of a PNG."""
    with io.BytesIO() as file:
        image.save(file, format="jpeg", quality=92)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def levels(values: Tensor) -> str:
    """Integers 0..255 of any shape, row by row, as base64.

    Example:
        >>> levels(torch.tensor([[0, 255], [1, 2]]))
        'AP8BAg=='
    """
    return base64.b64encode(values.to(torch.uint8).contiguous().numpy().tobytes()).decode("ascii")


def pane(title: str, image: str, labels: Tensor | None = None, *, note: str = "", tint: bool = False) -> dict[str, Any]:
    """An image whose pixels belong to the slots in `labels` [H, W]; `tint` colours it by them."""
    frames = [{"labels": None if labels is None else levels(labels)}]
    return {"title": title, "note": note, "image": image, "tint": tint, "frames": frames}


def slot_card(
    number: int,
    image: Tensor,
    mask: Tensor,
    owners: Tensor,
    raw: Tensor | None = None,
    size: tuple[int, int] = (THUMBNAIL, THUMBNAIL),
    whole: str = "the image",
) -> dict[str, Any]:
    """A slot, cut out of `image` [3, h, w] by its `mask` [h, w]; `owners` [H, W]: slot numbers."""
    share = float((owners == number).float().mean())
    empty = share < EMPTY_SHARE
    return {
        "number": number,
        "share": "owns nothing" if empty else f"{share:.{0 if share >= 0.01 else 1}%} of {whole}",
        "empty": empty,
        "picture": data_uri(grid.cut_out(image, mask, size)),
        "raw": None if raw is None else photograph(raw),
    }


def group(
    shape: Sequence[int], colours: Colours, panes: Sequence[Any], slots: Iterable[Any], title: str = "", text: str = ""
) -> dict[str, Any]:
    """Panes and slots with one selection; `shape` is (height, width) of the labels in pixels."""
    codes = {str(slot): "#{:02x}{:02x}{:02x}".format(*colour) for slot, colour in colours.items()}
    found: dict[str, Any] = {"title": title, "text": text, "height": shape[0], "width": shape[1], "colours": codes}
    return found | {"panes": [*panes], "slots": [*slots]}


def around(mask: Tensor) -> tuple[slice, slice]:
    """Rows and columns of a square close around a mask [R, R]; all if the mask is empty.

    Example:
        >>> mask = torch.zeros(16, 16)
        >>> mask[3:6, 8:10] = 1
        >>> around(mask)
        (slice(2, 7, None), slice(6, 11, None))
    """
    used = [mask.any(dim=axis).nonzero().flatten().tolist() or [0, len(mask) - 1] for axis in (1, 0)]
    longest = max(places[-1] - places[0] + 1 for places in used)
    side = min(longest + 2 * max(1, longest // 16), len(mask))
    starts = [min(max((places[0] + places[-1] + 1 - side) // 2, 0), len(mask) - side) for places in used]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def look_colours(scene: Scene, reference: Tensor | None) -> Colours:
    """Colours of slots that agree with a segmentation `reference` [R, R], if given."""
    names = range(len(scene.slots))
    return slot_colours(names) if reference is None else matched_colours(scene.segmentation(), reference, names)


def more_colours(colours: Colours, count: int) -> Colours:
    """`colours` with some that none of them has, for the slots up to `count`."""
    free = [colour for colour in PALETTE if colour not in colours.values()] or PALETTE
    return {slot: colours.get(slot, free[slot % len(free)]) for slot in range(count)}


def look_group(seen: Look, colours: Colours, title: str, text: str) -> dict[str, Any]:
    """An image as a model sees it."""
    output, size, owners = seen.output, seen.image.shape[-1], seen.segmentation()
    titles = output.titles
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
    if isinstance(output, FeatureOutput):
        del panes[2]  # it shows features, not the image
    if seen.mask is not None:
        objects = data_uri(grid.label_map(seen.mask, true_colours(seen.mask), (size, size)))
        panes.insert(1, pane("True objects", objects, note="used for scores and colours, never for learning"))
    own = [None] * len(seen.masks) if output.slot_images is None else output.slot_images[0]
    slots = [
        slot_card(number, seen.image if raw is None else raw, mask, owners, raw)
        for number, (mask, raw) in enumerate(zip(seen.masks, own, strict=True))
    ]
    return group((size, size), colours, panes, slots, title, text)


def _attention_pane(seen: Look, image: str) -> dict[str, Any]:
    output, frames = seen.output, []
    for iteration in range(output.attention.shape[1]):
        maps = output.attention[0, iteration].unflatten(1, output.attention_grid)
        heat = {str(slot): levels((255 * values.clamp(0, 1)).round()) for slot, values in enumerate(maps)}
        labels = levels(output.attention_masks(iteration)[0].argmax(dim=0))
        frames.append({"labels": labels, "heat": {"side": maps.shape[-1], "maps": heat}})
    note = "the slot with the most attention; select a slot to see its attention alone"
    title = "Feature masks" if output.titles["attention"] == "feature masks" else "Slot attention"
    return {**pane(title, image, note=note, tint=True), "frames": frames}
