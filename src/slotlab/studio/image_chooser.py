"""Choosing an image: an example, a new scene from the renderer with its true objects, or an upload."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from slotlab.data.images import UPLOAD_LIMITS, prepared, read_image
from slotlab.errors import DataError
from slotlab.scenes import VARIANTS, render
from slotlab.studio import components
from slotlab.studio.components import AT_ONCE, WORK, with_messages
from slotlab.studio.slot_figure import photograph

SCENES = 10_000  # no preset trains on scenes 0 to 9,999
MOST_OBJECTS = 10
LARGEST = 1024  # side of the images that sessions keep in memory
PRIVATE = (
    "The model sees the centred square. Your image stays on this computer and in memory only: the uploaded file is "
    "removed as soon as it is read."
)


@dataclass(frozen=True)
class RenderedScene:
    """A scene of the renderer."""

    variant: str = "plain"
    objects: int = 5
    seed: int = 3

    @property
    def title(self) -> str:
        """What the page calls it."""
        return f"{self.variant} scene {self.seed}, {self.objects} objects"

    def at(self, resolution: int) -> tuple[Tensor, Tensor | None]:
        """The image [3, R, R] in [0, 1] and its true mask, int64 [R, R].

        Example:
            >>> image, mask = RenderedScene("plain", objects=4, seed=3).at(32)
            >>> image.shape, int(mask.max())
            (torch.Size([3, 32, 32]), 4)
        """
        scene = render(
            [self.seed],
            variant=self.variant,
            resolution=resolution,
            min_objects=self.objects,
            max_objects=self.objects,
            supersample=1 if self.variant == "plain" else 2,  # textures are finer than a pixel
        )
        return scene.image[0], scene.mask[0]


@dataclass(frozen=True, eq=False)
class UploadedImage:
    """A user's own image, uint8 [S, S, 3]: its centred square."""

    pixels: np.ndarray
    title: str = "your image"

    def at(self, resolution: int) -> tuple[Tensor, Tensor | None]:
        """The image [3, R, R] in [0, 1]; there is no true mask."""
        return prepared(self.pixels, resolution=resolution)


ChosenImage = RenderedScene | UploadedImage
EXAMPLES = {
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


def image_choosers(upload_id: str, chosen: gr.State) -> list[Any]:
    """Builds the examples, the settings of a new scene and the upload field; returns the events that set `chosen`."""
    components.heading("Image", "Take an example, render a new scene, or upload your own.")
    thumbnails = [
        {"id": name, "image": photograph(scene.at(96)[0], 72), "title": f"{scene.variant}, {scene.objects}"}
        for name, scene in EXAMPLES.items()
    ]
    examples = components.cards({"cards": thumbnails}, elem_id=f"{upload_id}-examples")
    with gr.Accordion("New scene", open=False):
        variant = gr.Dropdown(list(VARIANTS), value="plain", label="Variant", info="Shapes and surfaces.")
        objects = gr.Slider(1, MOST_OBJECTS, value=5, step=1, label="Objects", info="Number of objects in the scene.")
        info = "Another number, another scene."
        seed = gr.Number(7, precision=0, minimum=0, maximum=SCENES - 1, label="Seed", info=info)
        render_it = gr.Button("Render this scene", elem_id=f"{upload_id}-render")
    with gr.Accordion("Your image", open=False, elem_id=f"{upload_id}-section"):
        upload = gr.File(
            label=f"Upload, drop or paste: PNG, JPEG or WEBP, at most {UPLOAD_LIMITS.size // 2**20} MiB",
            file_types=["image"],
            height=130,
            elem_id=upload_id,
        )
        # Gradio's own version makes a copy that nothing removes. Gradio has checked that the path is an upload's.
        upload.preprocess = lambda payload: None if payload is None else payload.path  # pyright: ignore
        read = upload.upload(with_messages(take_upload), upload, chosen, **WORK)
        for ended in (read.success, read.failure):
            ended(lambda: None, None, upload, **AT_ONCE)  # empties the field for the next upload
        gr.HTML(components.note(PRIVATE))
    return [
        examples.choose(with_messages(_example), None, chosen, **WORK),
        render_it.click(with_messages(_scene), [variant, objects, seed], chosen, **WORK),
        read,
    ]


def _example(event: gr.EventData) -> ChosenImage:
    return EXAMPLES[str(event.id)]


def _scene(variant: str, objects: int, seed: float | None) -> ChosenImage:
    if seed is None or not 0 <= int(seed) < SCENES:
        raise DataError(f"The seed must be a whole number from 0 to {SCENES - 1:,}.")
    return RenderedScene(variant, int(objects), int(seed))


def take_upload(path: str | Path) -> UploadedImage:
    """The centred square of an uploaded image file; the file is removed, read or not."""
    try:
        pixels = read_image(path, name="This image", limits=UPLOAD_LIMITS)
    finally:
        Path(path).unlink(missing_ok=True)
    side = min(*pixels.shape[:2], LARGEST)
    fitted = ImageOps.fit(Image.fromarray(pixels), (side, side), Image.Resampling.BILINEAR)
    return UploadedImage(np.asarray(fitted))
