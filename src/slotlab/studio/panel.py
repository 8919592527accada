"""The panel beside the views: which model, and which picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from slotlab.data.images import FORMATS, MOST_BYTES, take_upload
from slotlab.errors import DataError
from slotlab.scenes import VARIANTS
from slotlab.studio import components
from slotlab.studio.components import AT_ONCE, WORK, politely
from slotlab.studio.state import SCENES, GivenPicture, Loaded, RenderedScene, Source, thumbnail

MOST_OBJECTS = 10
EXAMPLES: dict[str, RenderedScene] = {
    f"example-{variant}-{seed}": RenderedScene(variant, objects, seed)
    for variant, seed, objects in (
        ("plain", 3, 5),
        ("plain", 11, 4),
        ("plain", 26, 6),
        ("plain", 40, 3),
        ("textured", 3, 4),
        ("textured", 8, 5),
    )
}


@dataclass(frozen=True, eq=False)
class Chooser:
    """A way to choose a picture: an event of the page, what it gets, and the picture that it makes of it."""

    event: Callable[..., Any]
    inputs: Sequence[Any]
    make: Callable[..., Source]


@dataclass(frozen=True, eq=False)
class PicturePanel:
    """The panel's components that others need."""

    model: gr.Dropdown
    pictures: gr.Column
    choosers: Sequence[Chooser]


def picture_panel(shelf: Sequence[Loaded]) -> PicturePanel:
    """Builds the panel into the page that is being made."""
    names = [loaded.name for loaded in shelf]
    model = gr.Dropdown(
        names,
        value=names[0],
        label="Model",
        info="Which of the loaded models looks at the picture.",
        visible=len(names) > 1,
        elem_id="sl-model",
    )
    with gr.Column() as pictures_of_it:
        choosers = picture_choosers("sl-upload")
    return PicturePanel(model, pictures_of_it, choosers)


def picture_choosers(upload_id: str) -> list[Chooser]:
    """Examples, a new scene, and an upload, built into the page that is being made."""
    gr.HTML('<h3 class="sl-group-title">Picture</h3><p class="sl-note">Take an example, or one of the two below.</p>')
    examples = components.cards({"cards": _example_cards()}, elem_id=f"{upload_id}-examples")
    with gr.Accordion("New scene", open=False):
        variant = gr.Dropdown(list(VARIANTS), value="plain", label="Variant", info="Which shapes and surfaces.")
        objects = gr.Slider(1, MOST_OBJECTS, value=5, step=1, label="Objects", info="How many stand in the scene.")
        seed = gr.Number(
            7, precision=0, minimum=0, maximum=SCENES - 1, label="Seed", info="Another number, another scene."
        )
        render = gr.Button("Render this scene", elem_id=f"{upload_id}-render")
    with gr.Accordion("Your picture", open=False, elem_id=f"{upload_id}-section"):
        upload = gr.File(
            label=f"Upload, drop or paste: {', '.join(FORMATS[:3])}, at most {MOST_BYTES // 2**20} MiB",
            file_types=["image"],
            height=130,
            elem_id=upload_id,
        )
        # Gradio's own would leave an empty file behind; that the path is one of an upload it has made sure of before.
        upload.preprocess = lambda payload: None if payload is None else payload.path  # pyright: ignore
        given = gr.State(None)
        read = upload.upload(politely(lambda path: GivenPicture(take_upload(path)).shrunk()), upload, given, **WORK)
        for ended in (read.success, read.failure):
            ended(lambda: None, None, upload, **AT_ONCE)  # the field is free for the next one
        gr.HTML(
            '<p class="sl-note">The centred square is looked at. It stays on this computer, and in memory only: '
            "the uploaded file is removed as soon as it is read.</p>"
        )
    return [
        Chooser(examples.choose, [], _example),
        Chooser(render.click, [variant, objects, seed], _scene),
        Chooser(read.success, [given], lambda picture: picture),
    ]


def _example(event: gr.EventData) -> Source:
    return EXAMPLES[str(event.id)]


def _scene(variant: str, objects: int, seed: float | None) -> Source:
    if seed is None or not 0 <= int(seed) < SCENES:
        raise DataError(f"The seed is a whole number from 0 to {SCENES - 1:,}.")
    return RenderedScene(variant, int(objects), int(seed))


def _example_cards() -> list[components.Payload]:
    return [
        {"id": name, "image": components.photograph(thumbnail(scene), 72), "title": f"{scene.variant}, {scene.objects}"}
        for name, scene in EXAMPLES.items()
    ]
