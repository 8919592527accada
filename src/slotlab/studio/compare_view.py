"""Compare: the same picture through several models."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from torch.nn import functional as F

from slotlab.reporting.look import Look
from slotlab.studio import pictures, widgets
from slotlab.studio.look_view import seen_by
from slotlab.studio.shelf import Loaded
from slotlab.studio.sources import Source
from slotlab.studio.views import View, note, table

HINT = "Point at a place to see which slot each model has there; click to keep it, Escape to let go."
ONE_MODEL = (
    "Only one model is loaded. Start the studio with several to compare them: "
    "slotlab studio --model runs/first --model runs/second"
)


def compare_view(shelf: Sequence[Loaded]) -> View:
    """Builds the view."""
    gr.HTML(note(ONE_MODEL), visible=len(shelf) < 2, elem_id="sl-compare-one")
    scores = gr.HTML(elem_id="sl-compare-scores")
    figure = widgets.figure({"groups": []}, elem_id="sl-compare", elem_classes="sl-slim")

    def refresh(loaded: Loaded, source: Source) -> tuple[Any, ...]:
        seen = {each.name: seen_by(each, source) for each in shelf}
        return _scores(seen), _figure(seen, {each.name: each.describe() for each in shelf})

    return View("Compare", [scores, figure], refresh)


def _figure(seen: dict[str, Look], described: dict[str, str]) -> pictures.Payload:
    groups = []
    first = next(iter(seen.values()))
    for name, one in seen.items():
        side = one.image.shape[-1]
        reference = F.interpolate(first.owners()[None, None].float(), (side, side), mode="nearest")[0, 0].long()
        groups.append(pictures.look_group(one, title=name, text=described[name], reference=reference))
    frames = max(one.output.attention.shape[1] for one in seen.values())
    return {"opacity": 0.45, "frames": frames, "hint": HINT, "groups": groups}


def _scores(seen: dict[str, Look]) -> str:
    rows, headings = [], ["ARI", "FG-ARI", "mIoU", "mBO"]
    for name, one in seen.items():
        scores, errors = one.scores(), one.errors()
        for place, title in enumerate(one.segmentations()):
            values = [f"{scores[title][heading]:z.3f}" for heading in headings] if scores else ["–"] * 4
            painted = [f"{errors['MSE (mean)']:.4f}", f"{errors['PSNR (dB)']:.1f}"] if place == 0 else ["", ""]
            rows.append([f"{name}, {title}", *values, *painted])
    caption = (
        "Of this one picture, at each model's own resolution; ARI counts the background, FG-ARI leaves it out. A dash: "
        "nobody knows the true objects of this picture."
    )
    return table(["", *headings, "MSE (mean)", "PSNR (dB)"], rows, caption)
