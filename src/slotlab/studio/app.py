"""The studio's page: image and model on one side, views in tabs, served on this computer only."""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

# Before Gradio is imported: no analytics, no check for newer versions, no run history.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from filelock import FileLock, Timeout
from gradio import route_utils
from gradio.themes import Default
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from slotlab.data.images import UPLOAD_LIMITS
from slotlab.errors import ConfigError
from slotlab.studio import components
from slotlab.studio.clip_view import clip_view
from slotlab.studio.components import ASSETS, at_once, at_work
from slotlab.studio.compose_view import compose_view
from slotlab.studio.edit_view import edit_view
from slotlab.studio.image_chooser import FIRST_EXAMPLE, ChosenImage, image_choosers
from slotlab.studio.loaded_models import LoadedModel, model_of_uploads
from slotlab.studio.look_view import compare_view, look_view
from slotlab.studio.photo_view import photo_view
from slotlab.studio.runs_view import runs_view

LOCAL = "127.0.0.1"
HOSTS = (LOCAL, "localhost")  # the names under which a browser may ask for the page
WAITING = 32  # requests in the queue; further ones are refused
SESSIONS = 64  # open pages whose state is kept
SUMMARY = "See the objects that a model finds, edit them, and compose new images."
PREFIX = "slotlab-studio-"
IN_USE = "in-use"  # a file in the upload folder, locked while its studio runs
YOUNG = 60.0  # seconds in which the lock of a new folder may still be missing
MOST_KEPT = 8  # states of a view for other images and models


def build(models: Sequence[LoadedModel], runs: Path | None = None) -> gr.Blocks:
    """The page for models from `open_models`, which opens with the first, and a folder of runs."""
    find = {model.name: model for model in models}.__getitem__
    with gr.Blocks(title="slotlab studio", analytics_enabled=False, delete_cache=(600, 600)) as page:
        gr.HTML(f'<div class="sl-title"><h1>slotlab studio</h1><p>{SUMMARY}</p></div>')
        image, active = gr.State(FIRST_EXAMPLE), gr.State("Look")
        refreshed = gr.State({})  # by view: the model and image shown, and states for others
        with gr.Row():
            with gr.Column(scale=1, min_width=270, elem_classes="sl-side") as side:
                names, info = [one.name for one in models], "The model that looks at the image."
                model = gr.Dropdown(names, label="Model", info=info, visible=len(models) > 1, elem_id="sl-model")
                with gr.Column() as images:
                    choosers = image_choosers("sl-upload", image)
            with gr.Column(scale=4, min_width=320), gr.Tabs(selected="Look") as tabs:
                views = {}
                for name, make in {
                    "Look": lambda: look_view((models[0], FIRST_EXAMPLE), image, model, find),
                    "Photo": lambda: photo_view(model, find),
                    "Clip": lambda: clip_view(models, find),
                    "Edit": lambda: edit_view(model, find),
                    "Compose": lambda: compose_view(model, models),
                    "Compare": lambda: compare_view(models),
                    "Runs": lambda: runs_view(runs),
                }.items():
                    with gr.Tab(name, id=name) as tab:
                        views[tab] = make()
        with gr.Accordion("What the words mean", open=False, elem_id="sl-words"):
            gr.HTML((ASSETS / "glossary.html").read_text(encoding="utf-8"))

        def shown(name: str, chosen: ChosenImage, now: str, before: dict[str, Any], *states: Any) -> dict[Any, Any]:
            choice, values = {"model": name, "image": chosen}, {}
            for view, state in zip(views.values(), states, strict=True):
                last, kept = before.get(view.name, (None, {}))
                key = tuple(choice[what] for what in view.of)
                if view.name == now and key != last:
                    kept = {**kept, last: state}
                    values = view.refresh(find(name), chosen, kept.get(key))
                    before = {**before, now: (key, dict([*kept.items()][-MOST_KEPT:]))}
            return {refreshed: before, **values}

        def opened(name: str) -> tuple[Any, ...]:
            takes_image = name in ("Look", "Photo", "Edit", "Compare")
            takes_model = name not in ("Clip", "Runs") and len(models) > 1
            return name, gr.Column(visible=takes_image or takes_model), gr.Column(visible=takes_image)

        inputs = [model, image, active, refreshed, *(view.state for view in views.values())]
        outputs = [refreshed, *(output for view in views.values() for output in view.outputs)]
        if uploads := model_of_uploads(models):

            def for_uploads(now: str) -> Any:
                if now in ("Edit", "Compare"):
                    return gr.skip()
                # A tab that opens is refreshed by its own event, not by this one.
                return gr.Dropdown(value=uploads), gr.Tabs(selected="Photo"), now if now == "Photo" else ""

            *choosers, read = choosers
            choosers.append(at_once(read.success, for_uploads, active, [model, tabs, active]))
        for event in (*(made.success for made in choosers), model.input):
            at_work(event, shown, inputs, outputs)
        for tab, view in views.items():
            selected = at_once(tab.select, partial(opened, view.name), None, [active, side, images])
            at_work(selected.success, shown, inputs, outputs)
    return page


@contextmanager
def running(models: Sequence[LoadedModel], runs: Path | None = None, port: int | None = None) -> Iterator[str]:
    """Serves the page on this computer while the block runs, and yields its address.

    The port is by default the first free one from 7860; `models` and `runs` are those of `build`.

    Raises:
        ConfigError: the port cannot be used.
    """
    with upload_folder() as folder:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        page = build(models, runs)
        try:
            yield _launch(page, port)
        finally:
            page.close(verbose=False)
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before


def _launch(page: gr.Blocks, port: int | None) -> str:
    page.queue(max_size=WAITING, api_open=False)
    route_utils.GradioUploadFile = _Upload
    font, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    try:
        _, address, _ = page.launch(
            server_name=LOCAL,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            inline=False,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            max_file_size=UPLOAD_LIMITS.size,
            max_threads=8,
            state_session_capacity=SESSIONS,
            app_kwargs={"middleware": [Middleware(_OwnPage)]},
            theme=Default(primary_hue="indigo", neutral_hue="slate", font=font, font_mono=mono),
            css=(ASSETS / "studio.css").read_text(encoding="utf-8"),
            head=components.page_head(),
        )
    except OSError as error:
        raise ConfigError(f"port {port}: cannot be used ({error}); choose another with --port") from None
    return str(address)


class _Upload(route_utils.GradioUploadFile):
    """An upload in its own folder: Gradio names it by content, which several visitors may share."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sha.update(secrets.token_bytes(16))


class _OwnPage:
    """Refuses requests by another host name (DNS rebinding), and those of other sites' pages."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            origin = headers.get("origin", f"http://{host}")
            if host.partition(":")[0] not in HOSTS or origin.partition("://")[2] != host:
                refusal = PlainTextResponse(f"The studio answers its own page at http://{LOCAL} only.", 403)
                return await refusal(scope, receive, send)
        await self.app(scope, receive, send)


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A temporary folder while the block runs; removes those that killed studios left."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, FileLock(Path(name) / IN_USE):
        user = Path(name).stat().st_uid
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with suppress(OSError, Timeout):
                status = folder.lstat()
                if status.st_uid == user and time.time() - status.st_mtime > YOUNG and not folder.is_symlink():
                    with FileLock(folder / IN_USE, blocking=False):
                        pass
                    shutil.rmtree(folder)
        uploads = Path(name) / "uploads"
        uploads.mkdir()
        yield uploads
