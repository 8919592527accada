"""The Look and Compare views: one image as one model sees it, and as all loaded models do."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from torch.nn import functional as F

from slotlab.figures.slots import Look, look
from slotlab.studio import components
from slotlab.studio.components import View, at_work, note, table
from slotlab.studio.image_chooser import ChosenImage
from slotlab.studio.loaded_models import LoadedModel
from slotlab.studio.slot_figure import look_colours, look_group

SCORES = ["ARI", "FG-ARI", "mIoU", "mBO"]
LOOK_HINT = "Point at an object to see its slot in every pane; click to keep it selected, press Escape to clear."
COMPARE_HINT = "Point at a place to see which slot each model has there; click to keep it, press Escape to clear."
ONE_MODEL = "Only one model is loaded. To compare several: slotlab studio --model runs/first --model runs/second"
NO_TRUTH = "The true objects of this image are unknown, so there are no scores."


def look_view(
    first: tuple[LoadedModel, ChosenImage], image: gr.State, model: gr.Dropdown, find: Callable[[str], LoadedModel]
) -> View:
    """Builds the Look view, filled before the first click."""
    content, table_below = _look(*first)
    figure = components.figure(content, elem_id="sl-look")
    scores = gr.HTML(table_below, elem_id="sl-look-scores")
    save = components.button("Save as a figure (PNG)", "sl-look-save", elem_classes="sl-alone")
    gr.HTML(note("The figure contains all of this, every slot, and the attention of every iteration."))
    download = components.download()

    def saved(name: str, chosen: ChosenImage) -> dict[str, str]:
        return components.file(f"{name}.png", components.png(_seen(find(name), chosen).figure()))

    at_work(save.click, saved, [model, image], download)

    def refresh(model: LoadedModel, image: ChosenImage, _: None) -> dict[Any, Any]:
        return dict(zip((figure, scores), _look(model, image), strict=True))

    return View("Look", [figure, scores], refresh)


def compare_view(models: Sequence[LoadedModel]) -> View:
    """Builds the Compare view."""
    gr.HTML(note(ONE_MODEL), visible=len(models) < 2, elem_id="sl-compare-one")
    scores = gr.HTML(elem_id="sl-compare-scores")
    figure = components.figure(elem_id="sl-compare", elem_classes="sl-slim")

    def refresh(_: LoadedModel, image: ChosenImage, __: None) -> dict[Any, Any]:
        seen = [(model, _seen(model, image)) for model in models]
        rows, groups = [], []
        reference = seen[0][1].segmentation()[None, None].float()
        for model, one in seen:
            rows += [[f"{model.name}, {title}", *values] for title, values in _score_rows(one)]
            nearest = F.interpolate(reference, one.image.shape[1:], mode="nearest")[0, 0].long()
            colours = look_colours(one, nearest if one.mask is None else one.mask)
            groups.append(look_group(one, colours, title=model.name, text=model.describe()))
        caption = (
            "Scores of this one image, at each model's resolution; 1 is best. ARI counts the background, FG-ARI does "
            "not. A dash: the true objects are unknown."
        )
        content = _content(groups, max(one.output.attention.shape[1] for _, one in seen), COMPARE_HINT)
        return {scores: table(["", *SCORES, "MSE (mean)", "PSNR (dB)"], rows, caption), figure: content}

    return View("Compare", [scores, figure], refresh)


def _content(groups: list[Any], iterations: int, hint: str) -> dict[str, Any]:
    return {"opacity": 0.45, "frames": iterations, "hint": hint, "groups": groups}


def _seen(model: LoadedModel, image: ChosenImage) -> Look:
    return look(model.model, *image.at(model.model.resolution))


def _look(model: LoadedModel, image: ChosenImage) -> tuple[dict[str, Any], str]:
    seen = _seen(model, image)
    title, text = image.title.capitalize(), f"{model.name}: {model.describe()}"
    group = look_group(seen, look_colours(seen, seen.mask), title=title, text=text)
    content = _content([group], seen.output.attention.shape[1], LOOK_HINT)
    errors = seen.errors().items()
    error = ", ".join(f"{name} {value:.{1 if value >= 10 else 4}f}" for name, value in errors)
    if seen.mask is None:
        return content, note(f"{NO_TRUTH} Reconstruction: {error}.")
    caption = (
        f"Scores of this one image, {seen.image.shape[-1]} pixels wide; 1 is best. ARI counts the background, FG-ARI "
        f"does not: read them together. Reconstruction: {error}."
    )
    return content, table(["", *SCORES], [[title, *values[:4]] for title, values in _score_rows(seen)], caption)


def _score_rows(seen: Look) -> list[tuple[str, list[str]]]:
    """For each source of masks its title, four scores, and first the reconstruction's errors."""
    scores, errors = seen.scores(), seen.errors()
    painted = [f"{errors['MSE (mean)']:.4f}", f"{errors['PSNR (dB)']:.1f}"]
    rows = []
    for title in seen.output.segmentations():
        values = [f"{scores[title][score]:z.3f}" for score in SCORES] if scores else ["–"] * len(SCORES)
        rows.append((title, [*values, *(["", ""] if rows else painted)]))
    return rows
