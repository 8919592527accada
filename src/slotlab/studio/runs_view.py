"""The Runs view: training runs in a folder, updated while they train."""

from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from slotlab.data.images import read_image
from slotlab.errors import ConfigError, DataError
from slotlab.figures.curves import figure_image, loss_curves
from slotlab.figures.grid import data_uri
from slotlab.reporting.report import REPORT_FILE, write_report
from slotlab.runs import RunFolder, preview_files, run_folders
from slotlab.studio import components
from slotlab.studio.components import View, at_work, note, table

EVERY = 3.0  # seconds between two looks at the folder
REPORT = "The report is one page with curves, images and settings. Make it again to include what was trained since."
NO_FOLDER = "No folder of runs is open. Start the studio with --runs DIR to watch the runs in it."
HEADINGS = ("", "preset", "state", "loss", "ARI (masks)", "FG-ARI (masks)")
CAPTION = "The latest scores of each run, on its validation images."


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

    def shown(chosen: str | None, before: str = "") -> dict[Any, Any]:
        runs = {one.name: one for one in _runs(folder)}
        one = runs.get(chosen or "") or next(iter(runs.values()), None)
        written = [(each.name, each.written, len(preview_files(each.folder))) for each in runs.values()]
        now = repr((one and one.name, written))
        if folder is None or now == before:
            return {seen: now}  # Gradio takes an empty dict for a value
        if one is None:
            empty = note(f"There is no run in {folder} yet.")
            return {seen: now, listed: empty, run: gr.Dropdown(choices=[], value=None), curves: "", preview: ""}
        last = max(len(preview_files(one.folder)), 1)
        drawn = figure_image(loss_curves(one.rows, one.name, one.masks))
        return {
            seen: now,
            listed: table(HEADINGS, [each.cells() for each in runs.values()], CAPTION, words=3),
            run: gr.Dropdown(choices=[*runs], value=one.name),
            curves: _captioned(drawn, f"Losses and scores of {one.name}"),
            step: gr.Slider(maximum=max(last, 2), value=last, visible=last > 1),
            preview: _preview(one, last),
        }

    def run_named(name: str | None) -> RunFolder:
        """The run of that name in the folder; a name from the page is never used as a path."""
        found = next((one for one in _runs(folder) if one.name == name), None)
        if found is None:
            raise ConfigError("Choose a run first.")
        return found

    def report_of(chosen: str | None, make_it: bool) -> str:
        one = run_named(chosen).folder
        path = write_report(one) if make_it else one / REPORT_FILE
        if not path.is_file():
            raise ConfigError("This run has no report yet: make it with the other button.")
        page = escape(path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe sandbox="" title="Report" class="sl-report" srcdoc="{page}"></iframe>'

    at_work(run.input, shown, run, outputs)
    at_work(pulse.pulse, shown, [run, seen], outputs)
    at_work(step.input, lambda chosen, place: _preview(run_named(chosen), int(place)), [run, step], preview)
    at_work(show.click, partial(report_of, make_it=False), run, report)
    at_work(make.click, partial(report_of, make_it=True), run, report, progress="minimal")
    return View("Runs", outputs, lambda *_: shown(None), of=())


def _runs(folder: Path | None) -> list[RunFolder]:
    return run_folders(folder) if folder is not None and folder.is_dir() else []


def _preview(run: RunFolder, place: int) -> str:
    previews = list(preview_files(run.folder).items())
    if not previews:
        return note("This run has no preview yet.")
    step, path = previews[min(max(place, 1), len(previews)) - 1]
    try:
        image = Image.fromarray(read_image(path))
    except DataError:  # training may be replacing it
        return note(f"The preview of step {step:,} cannot be read at the moment.")
    return _captioned(image, f"Validation images of {run.name} at step {step:,}")


def _captioned(image: Image.Image, caption: str) -> str:
    text, source = escape(caption, quote=True), data_uri(image)
    return f'<figure class="sl-sheet"><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
