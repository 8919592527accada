"""Compare: the same picture through several models."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from torch.nn import functional as F

from slotlab.figures.slots import Look, look
from slotlab.studio import components
from slotlab.studio.components import WORK, View, note, politely, table
from slotlab.studio.state import Loaded, Source

HINT = "Point at an object to see its slot everywhere; click to keep it, Escape to let go."


def look_view(
    first: tuple[Loaded, Source], source: gr.State, model: gr.Dropdown, find: Callable[[str], Loaded]
) -> View:
    """Builds the view, which shows something before the first click."""
    payload, scores = _shown(*first)
    figure = components.figure(payload, elem_id="sl-look")
    table_below = gr.HTML(scores, elem_id="sl-look-scores")
    save = gr.Button("Save as a figure (PNG)", size="sm", elem_id="sl-look-save", elem_classes="sl-alone")
    gr.HTML(note("The figure has all of this, every slot, and attention by iteration."))
    courier = components.courier()

    def saved(name: str, chosen: Source) -> dict[str, str]:
        loaded = find(name)
        picture = seen_by(loaded, chosen).figure()
        return components.parcel(f"{loaded.name}.png", components.png(picture), "image/png")

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
    group = components.look_group(seen, title=source.title.capitalize(), text=f"{loaded.name}: {loaded.describe()}")
    return {"opacity": 0.45, "frames": frames, "hint": HINT, "groups": [group]}, scores_of(seen)


COMPARE_HINT = "Point at a place to see which slot each model has there; click to keep it, Escape to let go."
ONE_MODEL = (
    "Only one model is loaded. Start the studio with several to compare them: "
    "slotlab studio --model runs/first --model runs/second"
)


def compare_view(shelf: Sequence[Loaded]) -> View:
    """Builds the view."""
    gr.HTML(note(ONE_MODEL), visible=len(shelf) < 2, elem_id="sl-compare-one")
    scores = gr.HTML(elem_id="sl-compare-scores")
    figure = components.figure({"groups": []}, elem_id="sl-compare", elem_classes="sl-slim")

    def refresh(loaded: Loaded, source: Source) -> tuple[Any, ...]:
        seen = {each.name: seen_by(each, source) for each in shelf}
        return _scores(seen), _figure(seen, {each.name: each.describe() for each in shelf})

    return View("Compare", [scores, figure], refresh)


def _figure(seen: dict[str, Look], described: dict[str, str]) -> components.Payload:
    groups = []
    first = next(iter(seen.values()))
    for name, one in seen.items():
        side = one.image.shape[-1]
        reference = F.interpolate(first.owners()[None, None].float(), (side, side), mode="nearest")[0, 0].long()
        groups.append(components.look_group(one, title=name, text=described[name], reference=reference))
    frames = max(one.output.attention.shape[1] for one in seen.values())
    return {"opacity": 0.45, "frames": frames, "hint": COMPARE_HINT, "groups": groups}


def _scores(seen: dict[str, Look]) -> str:
    rows, headings = [], ["ARI", "FG-ARI", "mIoU", "mBO"]
    for name, one in seen.items():
        scores, errors = one.scores(), one.errors()
        for place, title in enumerate(one.output.segmentations()):
            values = [f"{scores[title][heading]:z.3f}" for heading in headings] if scores else ["–"] * 4
            painted = [f"{errors['MSE (mean)']:.4f}", f"{errors['PSNR (dB)']:.1f}"] if place == 0 else ["", ""]
            rows.append([f"{name}, {title}", *values, *painted])
    caption = (
        "Of this one picture, at each model's own resolution; ARI counts the background, FG-ARI leaves it out. A dash: "
        "nobody knows the true objects of this picture."
    )
    return table(["", *headings, "MSE (mean)", "PSNR (dB)"], rows, caption)
