"""Choosing an image: an upload, an example, or a new scene with its true objects."""

from dataclasses import dataclass
from functools import lru_cache
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
from slotlab.studio.components import at_once, at_work, photograph

SCENES = 10_000  # no preset trains on scenes 0 to 9,999
MOST_OBJECTS = 10
LARGEST = 1024  # side of the centred squares that sessions keep in memory
FINEST = 256  # side to which scenes are rendered; larger ones are enlarged from it
CHOOSE = "Upload, drop or paste your own, or take an example. No model gets every image right: see the hard one."
PRIVATE = (
    f"Your image: PNG, JPEG, WebP, BMP or a still GIF, at most {UPLOAD_LIMITS.size // 2**20} MiB. "
    "Photo shows all of it, other views its centred square. It stays on this computer, in memory: the uploaded file is "
    "removed as soon as it is read."
)


@dataclass(frozen=True)
class RenderedScene:
    """A scene of the renderer."""

    variant: str
    objects: int
    seed: int

    @property
    def title(self) -> str:
        """What the page calls it."""
        return f"{self.variant} scene {self.seed}, {self.objects} objects"

    @lru_cache(maxsize=32)  # noqa: B019 (they are few and small)
    def at(self, resolution: int) -> tuple[Tensor, Tensor | None]:
        """The image [3, R, R] in [0, 1] and its true mask, int64 [R, R].

        Example:
            >>> image, mask = RenderedScene("plain", objects=4, seed=3).at(32)
            >>> image.shape, int(mask.max())
            (torch.Size([3, 32, 32]), 4)
        """
        if resolution > FINEST:
            image, mask = self.at(FINEST)
            return prepared(read_image(image), mask, resolution=resolution)
        finer = 1 if self.variant == "plain" else 2  # textures are finer than a pixel
        scene = render(
            [self.seed],
            variant=self.variant,
            resolution=resolution,
            min_objects=self.objects,
            max_objects=self.objects,
            supersample=finer,
        )
        return scene.image[0], scene.mask[0]

    def whole(self) -> np.ndarray:
        """Its pixels, uint8 [H, W, 3]."""
        return read_image(self.at(FINEST)[0])

    def file(self) -> tuple[bytes, str]:
        """The content of an image file, and a name for it."""
        return components.png(Image.fromarray(self.whole())), f"{self.variant}-{self.seed}.png"


@dataclass(frozen=True, eq=False)
class UploadedImage:
    """A user's own image: its file, and the pixels of its centred square, uint8 [S, S, 3]."""

    pixels: np.ndarray
    content: bytes
    name: str
    title: str = "your image"

    def at(self, resolution: int) -> tuple[Tensor, Tensor | None]:
        """The centred square [3, R, R] in [0, 1]; there is no true mask."""
        return prepared(self.pixels, resolution=resolution)

    def whole(self) -> np.ndarray:
        """Its upright pixels, uint8 [H, W, 3]."""
        return read_image(self.content, limits=UPLOAD_LIMITS)

    def file(self) -> tuple[bytes, str]:
        """The content of an image file, and a name for it."""
        return self.content, self.name


ChosenImage = RenderedScene | UploadedImage
EXAMPLES = {
    f"{variant}-{seed}": RenderedScene(variant, objects, seed)
    for variant, objects, seed in (  # the page's first model fails in the last only
        *(("textured", 5, 22), ("textured", 4, 9), ("textured", 6, 3)),
        *(("plain", 5, 14), ("plain", 3, 16), ("textured", 4, 37)),
    )
}
FIRST_EXAMPLE, *_, HARD_EXAMPLE = EXAMPLES.values()


def image_choosers(upload_id: str, chosen: gr.State) -> list[Any]:
    """Builds upload, examples and settings of a new scene; returns the events that set `chosen`."""
    components.heading("Image", CHOOSE)
    upload = gr.File(label="Your image", file_types=["image"], height=96, elem_id=upload_id, elem_classes="sl-upload")
    # Gradio's own version makes a copy that stays. It has checked that the path is an upload's.
    upload.preprocess = lambda payload: None if payload is None else payload.path  # pyright: ignore
    read = at_work(upload.upload, take_upload, upload, chosen)
    for ended in (read.success, read.failure):
        at_once(ended, lambda: None, None, upload)  # empties the field for the next upload
    thumbnails = [
        {
            "id": name,
            "image": photograph(scene.at(96)[0], 72),
            "title": scene.variant,
            "note": "a hard one" if scene is HARD_EXAMPLE else f"{scene.objects} objects",
        }
        for name, scene in EXAMPLES.items()
    ]
    examples = components.cards({"cards": thumbnails}, elem_id=f"{upload_id}-examples", elem_classes="sl-examples")
    with gr.Accordion("New scene", open=False):
        variant = gr.Dropdown(list(VARIANTS), value="textured", label="Variant", info="Shapes and surfaces.")
        objects = gr.Slider(1, MOST_OBJECTS, value=5, step=1, label="Objects", info="Number of objects in the scene.")
        info = "Another number, another scene."
        seed = gr.Number(7, precision=0, minimum=0, maximum=SCENES - 1, label="Seed", info=info)
        render_it = gr.Button("Render this scene", elem_id=f"{upload_id}-render")
    gr.HTML(components.note(PRIVATE))
    return [
        at_work(examples.choose, _example, None, chosen),
        at_work(render_it.click, _scene, [variant, objects, seed], chosen),
        read,
    ]


def _example(event: gr.EventData) -> ChosenImage:
    return EXAMPLES[str(event.id)]


def _scene(variant: str, objects: int, seed: float | None) -> ChosenImage:
    if seed is None or not 0 <= int(seed) < SCENES:
        raise DataError(f"The seed must be a whole number from 0 to {SCENES - 1:,}.")
    return RenderedScene(variant, int(objects), int(seed))


def take_upload(path: str | Path) -> UploadedImage:
    """An uploaded image file, in memory; the file is removed, read or not."""
    try:
        pixels, content = read_image(path, name="This image", limits=UPLOAD_LIMITS), Path(path).read_bytes()
    finally:
        Path(path).unlink(missing_ok=True)
    side = min(*pixels.shape[:2], LARGEST)
    fitted = ImageOps.fit(Image.fromarray(pixels), (side, side), Image.Resampling.BILINEAR)
    return UploadedImage(np.asarray(fitted), content, Path(path).name)
