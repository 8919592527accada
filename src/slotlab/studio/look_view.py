"""Look: how a model takes a picture apart."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from slotlab.reporting.look import Look, look
from slotlab.studio import pictures, widgets
from slotlab.studio.shelf import Loaded
from slotlab.studio.sources import Source
from slotlab.studio.speech import politely
from slotlab.studio.views import WORK, View, note, table

HINT = "Point at an object to see its slot everywhere; click to keep it, Escape to let go."


def look_view(
    first: tuple[Loaded, Source], source: gr.State, model: gr.Dropdown, find: Callable[[str], Loaded]
) -> View:
    """Builds the view, which shows something before the first click."""
    payload, scores = _shown(*first)
    figure = widgets.figure(payload, elem_id="sl-look")
    table_below = gr.HTML(scores, elem_id="sl-look-scores")
    save = gr.Button("Save as a figure (PNG)", size="sm", elem_id="sl-look-save", elem_classes="sl-alone")
    gr.HTML(note("The figure has all of this, every slot, and attention by iteration."))
    courier = widgets.courier()

    def saved(name: str, chosen: Source) -> dict[str, str]:
        loaded = find(name)
        picture = seen_by(loaded, chosen).figure()
        return widgets.parcel(f"{loaded.name}.png", pictures.png(picture), "image/png")

    save.click(politely(saved), [model, source], courier, **WORK)
    return View("Look", [figure, table_below], _shown)


def seen_by(loaded: Loaded, source: Source) -> Look:
    """A picture as a model sees it."""
    image, mask = source.at(loaded.model.resolution)
    return look(loaded.model, image, mask)


def scores_of(seen: Look) -> str:
    """Scores and errors of one picture, as HTML."""
    errors = seen.errors()
    said = ", ".join(f"{name} {value:.{1 if value >= 10 else 4}f}" for name, value in errors.items())
    scores = seen.scores()
    if not scores:
        return note(f"Nobody knows the true objects of this picture, so there is no ARI. Reconstruction: {said}.")
    names = list(next(iter(scores.values())))
    rows = [[title, *(f"{value:z.3f}" for value in values.values())] for title, values in scores.items()]
    caption = (
        f"Of this one picture, {seen.image.shape[-1]} pixels wide; 1 is best. ARI counts the background, "
        f"FG-ARI leaves it out; read them together. Reconstruction: {said}."
    )
    return table(["", *names], rows, caption)


def _shown(loaded: Loaded, source: Source) -> tuple[dict[str, Any], str]:
    seen = seen_by(loaded, source)
    frames = seen.output.attention.shape[1]
    group = pictures.look_group(seen, title=source.title.capitalize(), text=f"{loaded.name}: {loaded.describe()}")
    return {"opacity": 0.45, "frames": frames, "hint": HINT, "groups": [group]}, scores_of(seen)
