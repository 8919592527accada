"""Runs: the training runs in a folder, live while one trains."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from slotlab.errors import ConfigError
from slotlab.figures.curves import figure_image, loss_curves
from slotlab.reporting.report import REPORT_FILE, write_report
from slotlab.reporting.run_list import RunFolder, run_folders
from slotlab.studio import components
from slotlab.studio.components import WORK, View, note, politely, table, uri

EVERY = 3.0  # seconds between looks at the folder
REPORT = "The report is one page with curves, pictures and settings; made anew, it has what the run holds by now."
NO_FOLDER = "No folder of runs was given. Start the studio with --runs DIR to watch the runs in it."


def runs_view(folder: Path | None) -> View:
    """Builds the view, which looks at the folder again and again while it is shown."""
    pulse = components.pulse(EVERY)
    seen = gr.State("")
    gr.HTML(note(NO_FOLDER), visible=folder is None, elem_id="sl-runs-none")
    with gr.Column(visible=folder is not None):
        listed = gr.HTML(elem_id="sl-runs-table")
        run = gr.Dropdown([], label="Run", info="Which one to show; the newest is first.", elem_id="sl-run")
        curves = gr.HTML(elem_id="sl-curves")
        step = gr.Slider(
            1, 2, value=1, step=1, label="Preview", info="Validation images as the model saw them, from first to last.",
            elem_id="sl-preview-step", visible=False,
        )  # fmt: skip
        preview = gr.HTML(elem_id="sl-preview")
        with gr.Row(elem_classes="sl-tools"):
            show = gr.Button("Show its report", size="sm", min_width=130, elem_id="sl-show-report")
            make = gr.Button("Make its report anew", size="sm", min_width=130, elem_id="sl-make-report")
        gr.HTML(note(REPORT))
        report = gr.HTML(elem_id="sl-report")
    outputs = [seen, listed, run, curves, step, preview]

    def shown(chosen: str | None, before: str = "") -> Sequence[Any]:
        if folder is None:
            return [gr.skip()] * len(outputs)
        runs = run_folders(folder) if folder.is_dir() else []  # the first training makes it
        names = [one.name for one in runs]
        chosen = chosen if chosen in names else (names[0] if names else None)
        now = repr([(one.name, one.written, len(one.previews())) for one in runs]) + str(chosen)
        if now == before:
            return [gr.skip()] * len(outputs)
        if chosen is None:
            return (
                now,
                note(f"There is no run in {folder} yet."),
                gr.Dropdown(choices=[], value=None),
                "",
                gr.skip(),
                "",
            )
        one = runs[names.index(chosen)]
        previews = one.previews()
        last = max(len(previews), 1)
        slider = gr.Slider(maximum=max(last, 2), value=last, visible=len(previews) > 1)
        return (
            now,
            _listed(runs),
            gr.Dropdown(choices=names, value=chosen),
            _picture(figure_image(loss_curves(one.rows, one.preset, one.masks)), f"Losses and scores of {one.name}"),
            slider,
            _preview(one, last),
        )

    def at_step(chosen: str | None, place: float) -> str:
        return _preview(_found(folder, chosen), int(place))

    def report_of(chosen: str | None) -> str:
        path = _found(folder, chosen).folder / REPORT_FILE
        if not path.is_file():
            raise ConfigError("This run has no report yet: make it with the button beside.")
        page = escape(path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe sandbox="" title="Report" class="sl-report" srcdoc="{page}"></iframe>'

    def report_anew(chosen: str | None) -> str:
        write_report(_found(folder, chosen).folder)
        return report_of(chosen)

    run.input(politely(shown), run, outputs, **WORK)
    pulse.pulse(politely(shown), [run, seen], outputs, **WORK)
    step.input(politely(at_step), [run, step], preview, **WORK)
    show.click(politely(report_of), run, report, **WORK)
    make.click(politely(report_anew), run, report, **{**WORK, "show_progress": "minimal"})
    return View("Runs", outputs, lambda loaded, source: shown(None), of=())


def _found(folder: Path | None, name: str | None) -> RunFolder:
    """The run of that name among those in the folder: a name from the page is never used as a path."""
    for run in [] if folder is None else run_folders(folder):
        if run.name == name:
            return run
    raise ConfigError("Choose a run first.")


def _listed(runs: Sequence[RunFolder]) -> str:
    names = {"validation_loss": "loss", "ari": "ARI (masks)", "fg_ari": "FG-ARI (masks)"}
    rows = []
    for run in runs:
        last = run.rows[-1] if run.rows else {}
        rows.append([run.name, run.preset, run.state(), *(f"{last[n]:.3f}" if n in last else "–" for n in names)])
    caption = "The last row of each run's history, on its validation images."
    return table(["", "preset", "state", *names.values()], rows, caption, words=3)


def _preview(run: RunFolder, place: int) -> str:
    previews = run.previews()
    if not previews:
        return note("This run has no preview yet.")
    step = list(previews)[min(max(place, 1), len(previews)) - 1]
    try:
        with Image.open(previews[step]) as picture:
            return _picture(picture.convert("RGB"), f"Validation images of {run.name} at step {step:,}")
    except (OSError, SyntaxError):  # it may just be being replaced
        return note(f"The preview of step {step:,} cannot be read now.")


def _picture(picture: Image.Image, alt: str) -> str:
    said = escape(alt, quote=True)
    return f'<figure class="sl-sheet"><img src="{uri(picture)}" alt="{said}"><figcaption>{said}</figcaption></figure>'
