"""The Runs view: training runs in a folder, updated while they train."""

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from slotlab.errors import ConfigError
from slotlab.figures.curves import figure_image, loss_curves
from slotlab.figures.grid import data_uri
from slotlab.reporting.report import REPORT_FILE, write_report
from slotlab.reporting.run_list import RunFolder, run_folders
from slotlab.studio import components
from slotlab.studio.components import WORK, View, note, table, with_messages

EVERY = 3.0  # seconds between two looks at the folder
REPORT = "The report is one page with curves, images and settings. Make it again to include what was trained since."
NO_FOLDER = "No folder of runs is open. Start the studio with --runs DIR to watch the runs in it."
COLUMNS = {"validation_loss": "loss", "ari": "ARI (masks)", "fg_ari": "FG-ARI (masks)"}


def runs_view(folder: Path | None) -> View:
    """Builds the view, which reads the folder again every few seconds while it is shown."""
    pulse, seen = components.pulse(EVERY), gr.State("")
    gr.HTML(note(NO_FOLDER), visible=folder is None, elem_id="sl-runs-none")
    with gr.Column(visible=folder is not None):
        listed = gr.HTML(elem_id="sl-runs-table")
        run = gr.Dropdown([], label="Run", info="The newest is first.", elem_id="sl-run")
        curves = gr.HTML(elem_id="sl-curves")
        info = "Validation images as the model saw them, from first to last."
        step = gr.Slider(1, 2, value=1, step=1, label="Preview", info=info, visible=False)
        preview = gr.HTML(elem_id="sl-preview")
        with gr.Row(elem_classes="sl-tools"):
            show = components.button("Show the report", "sl-show-report", min_width=130)
            make = components.button("Make the report again", "sl-make-report", min_width=130)
        gr.HTML(note(REPORT))
        report = gr.HTML(elem_id="sl-report")
    outputs = [seen, listed, run, curves, step, preview]

    def shown(chosen: str | None, before: str = "") -> Sequence[Any]:
        runs = run_folders(folder) if folder is not None and folder.is_dir() else []
        names = [one.name for one in runs]
        chosen = chosen if chosen in names else next(iter(names), None)
        now = repr([(one.name, one.written, len(one.previews())) for one in runs]) + str(chosen)
        if folder is None or now == before:
            return [gr.skip()] * len(outputs)
        if chosen is None:
            empty = note(f"There is no run in {folder} yet.")
            return now, empty, gr.Dropdown(choices=[], value=None), "", gr.skip(), ""
        one = runs[names.index(chosen)]
        last = max(len(one.previews()), 1)
        return (
            now,
            _run_table(runs),
            gr.Dropdown(choices=names, value=chosen),
            _captioned(figure_image(loss_curves(one.rows, one.preset, one.masks)), f"Losses and scores of {one.name}"),
            gr.Slider(maximum=max(last, 2), value=last, visible=last > 1),
            _preview(one, last),
        )

    def report_of(chosen: str | None, make_it: bool) -> str:
        run = _run(folder, chosen).folder
        path = write_report(run) if make_it else run / REPORT_FILE
        if not path.is_file():
            raise ConfigError("This run has no report yet: make it with the other button.")
        page = escape(path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe sandbox="" title="Report" class="sl-report" srcdoc="{page}"></iframe>'

    run.input(with_messages(shown), run, outputs, **WORK)
    pulse.pulse(with_messages(shown), [run, seen], outputs, **WORK)
    at_step = with_messages(lambda chosen, place: _preview(_run(folder, chosen), int(place)))
    step.input(at_step, [run, step], preview, **WORK)
    for clicked, progress in ((show, "hidden"), (make, "minimal")):
        act = with_messages(partial(report_of, make_it=clicked is make))
        clicked.click(act, run, report, **{**WORK, "show_progress": progress})
    return View("Runs", outputs, lambda model, image: shown(None), of=())


def _run(folder: Path | None, name: str | None) -> RunFolder:
    """The run of that name in the folder; a name from the page is never used as a path."""
    for run in [] if folder is None else run_folders(folder):
        if run.name == name:
            return run
    raise ConfigError("Choose a run first.")


def _run_table(runs: Sequence[RunFolder]) -> str:
    rows = []
    for run in runs:
        last = run.rows[-1] if run.rows else {}
        scores = [f"{last[column]:.3f}" if column in last else "–" for column in COLUMNS]
        rows.append([run.name, run.preset, run.state(), *scores])
    caption = "The latest scores of each run, on its validation images."
    return table(["", "preset", "state", *COLUMNS.values()], rows, caption, words=3)


def _preview(run: RunFolder, place: int) -> str:
    previews = list(run.previews().items())
    if not previews:
        return note("This run has no preview yet.")
    step, path = previews[min(max(place, 1), len(previews)) - 1]
    try:
        with Image.open(path) as image:
            return _captioned(image.convert("RGB"), f"Validation images of {run.name} at step {step:,}")
    except (OSError, SyntaxError):  # training may be replacing it
        return note(f"The preview of step {step:,} cannot be read at the moment.")


def _captioned(image: Image.Image, caption: str) -> str:
    text, source = escape(caption, quote=True), data_uri(image)
    return f'<figure class="sl-sheet"><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
