"""The studio: one page on the local address, made of views that call the public API."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

# Before Gradio is imported: no analytics, no check for newer versions, no run history.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from gradio.themes import Default

from slotlab.data.images import MOST_BYTES
from slotlab.errors import ConfigError
from slotlab.studio import components
from slotlab.studio.components import AT_ONCE, WORK, politely, upload_folder
from slotlab.studio.compose import compose_view
from slotlab.studio.edit import edit_view
from slotlab.studio.look import compare_view, look_view
from slotlab.studio.panel import EXAMPLES, picture_panel
from slotlab.studio.runs import runs_view
from slotlab.studio.state import Loaded, Source

LOCAL = "127.0.0.1"
WAITING = 32  # most requests that wait; the next one is told to come back
SESSIONS = 64  # most pages whose state is kept
WORDS = "See the objects that a model finds, take them in hand, put them elsewhere."


def build(shelf: Sequence[Loaded], runs: Path | None = None) -> gr.Blocks:
    """The page for some models.

    Args:
        shelf: from `open_models`; the first is shown first.
        runs: a folder of training runs to show, if any.
    """
    find = {loaded.name: loaded for loaded in shelf}.__getitem__
    first = (shelf[0], next(iter(EXAMPLES.values())))
    with gr.Blocks(title="slotlab studio", analytics_enabled=False, delete_cache=(600, 600)) as page:
        gr.HTML(f'<div class="sl-title"><h1>slotlab studio</h1><p>{WORDS}</p></div>')
        source, active = gr.State(first[1]), gr.State("Look")
        refreshed = gr.State({})  # for what each view was last
        with gr.Row():
            with gr.Column(scale=1, min_width=270, elem_classes="sl-side") as side:
                panel = picture_panel(shelf)
            with gr.Column(scale=4, min_width=320), gr.Tabs():
                with gr.Tab("Look") as look_tab:
                    look = look_view(first, source, panel.model, find)
                with gr.Tab("Edit") as edit_tab:
                    edit = edit_view(panel.model, find)
                with gr.Tab("Compose") as compose_tab:
                    compose = compose_view(panel.model, find, shelf)
                with gr.Tab("Compare") as compare_tab:
                    compare = compare_view(shelf)
                with gr.Tab("Runs") as runs_tab:
                    watch = runs_view(runs)
        views = {look_tab: look, edit_tab: edit, compose_tab: compose, compare_tab: compare, runs_tab: watch}

        def shown(name: str, chosen: Source, now: str, before: dict[str, list[Any]]) -> list[Any]:
            given = {"model": name, "picture": chosen}
            after, values = dict(before), []
            for view in views.values():
                wanted = [given[what] for what in view.of]
                if view.name == now and before.get(now) != wanted:
                    values += view.refresh(find(name), chosen)
                    after[now] = wanted
                else:
                    values += [gr.skip()] * len(view.outputs)
            return [after, *values]

        def opened(name: str) -> tuple[Any, ...]:
            pictures, models = name in (look.name, edit.name, compare.name), name != watch.name and len(shelf) > 1
            return name, gr.Column(visible=pictures or models), gr.Column(visible=pictures)

        inputs = [panel.model, source, active, refreshed]
        outputs = [refreshed, *(output for view in views.values() for output in view.outputs)]
        for chooser in panel.choosers:
            made = chooser.event(politely(chooser.make), chooser.inputs, source, **WORK)
            made.success(politely(shown), inputs, outputs, **WORK)
        panel.model.input(politely(shown), inputs, outputs, **WORK)
        for tab, view in views.items():
            told = tab.select(partial(opened, view.name), None, [active, side, panel.pictures], **AT_ONCE)
            told.success(politely(shown), inputs, outputs, **WORK)
    return page


@contextmanager
def running(shelf: Sequence[Loaded], runs: Path | None = None, port: int | None = None) -> Iterator[str]:
    """Serves the page on the local address while the block runs, and yields where.

    What browsers upload lies in a temporary folder of its own, see `upload_folder`.

    Args:
        shelf: from `open_models`.
        runs: a folder of training runs to show, if any.
        port: by default the first free one from 7860.

    Raises:
        ConfigError: the port is taken.
    """
    with upload_folder() as folder, _environment("GRADIO_TEMP_DIR", str(folder)):
        page = build(shelf, runs)
        try:
            yield _launched(page, port)
        finally:
            page.close(verbose=False)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _launched(page: gr.Blocks, port: int | None) -> str:
    """Starts serving in threads of their own, and returns the address."""
    page.queue(max_size=WAITING, api_open=False)
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
            max_file_size=MOST_BYTES,
            max_threads=8,
            state_session_capacity=SESSIONS,
            theme=Default(
                primary_hue="indigo",
                neutral_hue="slate",
                font=["system-ui", "sans-serif"],
                font_mono=["ui-monospace", "monospace"],
            ),
            css=components.style(),
            head=components.head(),
        )
    except OSError as error:
        raise ConfigError(f"port {port}: cannot be used ({error}); name another with --port") from None
    return str(address)
