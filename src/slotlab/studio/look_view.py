"""The Look and Compare views: one image as one model sees it, and as all loaded models do."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from torch.nn import functional as F

from slotlab.figures.slots import look
from slotlab.studio import components
from slotlab.studio.components import View, at_work, look_colours, look_group, note, table
from slotlab.studio.image_chooser import ChosenImage
from slotlab.studio.loaded_models import LoadedModel

SCORES = ["ARI", "FG-ARI", "mIoU", "mBO"]
ERRORS = {"MSE (sum)": ".1f", "MSE (mean)": ".4f", "PSNR (dB)": ".1f"}
LOOK_HINT = "Point at an object to see its slot in every pane; click to keep it selected, press Escape to clear."
COMPARE_HINT = "Point at a place to see which slot each model has there; click to keep it, press Escape to clear."
ONE_MODEL = "Only one model is loaded. To compare several: slotlab studio --model runs/first --model runs/second"
UNUSUAL = "The image is unlike those that this model was trained on: its masks may be wrong."
CAPTION = (
    "Scores of this one image, at the model's resolution; 1 is best. ARI counts the background, FG-ARI does not: read "
    "them together. A dash: the true objects are unknown, or the model cannot paint."
)


def look_view(
    first: tuple[LoadedModel, ChosenImage], image: gr.State, model: gr.Dropdown, find: Callable[[str], LoadedModel]
) -> View:
    """Builds the Look view, filled before the first click."""
    content, below = _seen_by([first[0]], first[1], LOOK_HINT)
    figure, scores = components.figure(content, elem_id="sl-look"), gr.HTML(below, elem_id="sl-look-scores")
    save = components.button("Save as a figure (PNG)", "sl-look-save", elem_classes="sl-alone")
    gr.HTML(note("The figure contains all of this, every slot, and the attention of every iteration."))
    download = components.download()

    def saved(name: str, chosen: ChosenImage) -> dict[str, str]:
        model = find(name).model
        return components.file(f"{name}.png", components.png(look(model, *chosen.at(model.resolution)).figure()))

    def refresh(model: LoadedModel, image: ChosenImage, _: None) -> dict[Any, Any]:
        return dict(zip((figure, scores), _seen_by([model], image, LOOK_HINT), strict=True))

    at_work(save.click, saved, [model, image], download)
    return View("Look", [figure, scores], refresh)


def compare_view(models: Sequence[LoadedModel]) -> View:
    """Builds the Compare view."""
    gr.HTML(note(ONE_MODEL), visible=len(models) < 2, elem_id="sl-compare-one")
    scores = gr.HTML(elem_id="sl-compare-scores")
    figure = components.figure(elem_id="sl-compare", elem_classes="sl-slim")

    def refresh(_: LoadedModel, image: ChosenImage, __: None) -> dict[Any, Any]:
        return dict(zip((figure, scores), _seen_by(models, image, COMPARE_HINT), strict=True))

    return View("Compare", [scores, figure], refresh)


def _seen_by(models: Sequence[LoadedModel], image: ChosenImage, hint: str) -> tuple[dict[str, Any], str]:
    """A figure of an image as models see it, and a table of its scores."""
    seen = [look(model.model, *image.at(model.model.resolution)) for model in models]
    reference, rows, groups = seen[0].segmentation()[None, None].float(), [], []
    for model, one in zip(models, seen, strict=True):
        scores = one.scores()
        found = one.errors()  # none of these if it does not paint
        errors = [f"{found[name]:{digits}}" if name in found else "–" for name, digits in ERRORS.items()]
        for title in one.output.segmentations():
            values = [f"{scores[title][name]:z.3f}" if scores else "–" for name in SCORES]
            rows.append([title if len(models) == 1 else f"{model.name}, {title}", *values, *errors])
            errors = [""] * len(ERRORS)  # they are of the model, whatever the masks
        nearest = F.interpolate(reference, one.image.shape[1:], mode="nearest")[0, 0].long()
        truth = nearest if one.mask is None and len(models) > 1 else one.mask
        title = image.title.capitalize() if len(models) == 1 else model.name
        text = f"{model.name}: {model.describe()}"
        if model.usual is not None and not model.usual.covers(found.get("MSE (mean)", 0), one.slots):
            text += f". {UNUSUAL}"
        groups.append(look_group(one, look_colours(one, truth), title, text))
    iterations = max(one.output.attention.shape[1] for one in seen)
    content = {"opacity": 0.45, "frames": iterations, "hint": hint, "groups": groups}
    return content, table(["", *SCORES, *ERRORS], rows, CAPTION)
