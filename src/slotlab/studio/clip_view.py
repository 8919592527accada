"""The Clip view: a film or rendered clip taken apart, objects removed from all of its frames."""

import io
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor
from torch.nn import functional as F

from slotlab.composition.edits import Scene, paint_edit, remove, soft_edge
from slotlab.data.folders import by_numbers
from slotlab.data.images import UPLOAD_LIMITS, opened, read_image, to_batch, to_pixels
from slotlab.data.video import FILM_SUFFIXES, RATE, film_frames, film_rate
from slotlab.errors import ConfigError, DataError
from slotlab.figures.grid import cell_size, data_uri, palette_map, slot_colours
from slotlab.models import ClipModel, SlotOutput
from slotlab.progress import in_steps
from slotlab.scenes import VARIANTS, render_video
from slotlab.segmenting.clips import model_of_clips, seen_frames
from slotlab.segmenting.image import NO_SLOT, Fitting, fitting_of, owners_of
from slotlab.studio import components
from slotlab.studio.components import (
    THUMBNAIL,
    View,
    at_once,
    at_work,
    begun,
    button,
    group,
    jpeg,
    levels,
    note,
    pane,
    png,
    slot_card,
    zipped,
)
from slotlab.studio.edit_session import CANNOT_PAINT
from slotlab.studio.image_chooser import FINEST, SCENES
from slotlab.studio.loaded_models import LoadedModel

MOST_FRAMES = 48
LARGEST = 384  # longer side of the frames that a session keeps
COARSE = 160  # longer side of the labels on the page
SMALL = 128  # longer side up to which frames are sent without loss
MOST_OBJECTS = 6  # of rendered clips, as in the training of `moving-64`
FIRST_CLIP = ("plain", 5, 12)  # variant, seed, frames
MOST_STEPS = 5  # of sampling, for each frame
CHOOSE = f"A film, a GIF, or the frames of a clip (select them all). The view takes the first {MOST_FRAMES} frames."
CUT = f"Only the first {MOST_FRAMES} frames are shown; slotlab segment takes films of any length."
HINT = "Point at an object to see its slot in all frames; click to select it. Delete removes it from the clip."
FILES = "GIF: the clip as edited. All: its frames, the masks of the slots in them, and those before the edit."
KEYS = {"Delete": "sl-clip-remove", "Backspace": "sl-clip-remove", "z": "sl-clip-undo"}


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip to take apart."""

    at: Callable[[int], np.ndarray]  # the frames, uint8 [T, H, W, 3], for a model of a resolution
    count: int
    rate: float  # frames per second
    cut: bool = False  # whether there were more frames


def rendered_clip(variant: str, seed: float | None, count: float) -> Clip:
    """A clip of the renderer; DataError for a seed out of range."""
    if seed is None or not 0 <= int(seed) < SCENES:
        raise DataError(f"The seed must be a whole number from 0 to {SCENES - 1:,}.")
    options = {"variant": variant, "max_objects": MOST_OBJECTS, "supersample": 1 if variant == "plain" else 2}
    number, count = int(seed), min(max(int(count), 2), MOST_FRAMES)

    def at(resolution: int) -> np.ndarray:
        frames, _ = render_video(number, count, resolution=min(resolution, FINEST), **options)
        return to_pixels({"image": frames, "index": torch.arange(count)})[0]

    return Clip(at, count, RATE / 2)


def take_clip(paths: Sequence[str | Path]) -> Clip:
    """An uploaded film or GIF, or frames in the order of the numbers in their names.

    The frames are made small enough to keep; the files are removed, read or not.

    Raises:
        ConfigError: a film, and PyAV is missing.
        DataError: a file cannot be read, or there is one frame, or frames differ in size.
    """
    files = sorted(map(Path, paths), key=lambda path: by_numbers(path.name))
    frames, sizes, rates = [], [], []
    try:
        for name, pixels, rate in islice(_frames(files), MOST_FRAMES + 1):
            rates.append(rate)
            sizes.append(f"{pixels.shape[1]}x{pixels.shape[0]} pixels")
            if sizes[-1] != sizes[0]:
                raise DataError(f"{name}: has {sizes[-1]}, the first frame {sizes[0]}; give frames of one size")
            small = Image.fromarray(pixels)
            small.thumbnail((LARGEST, LARGEST), Image.Resampling.BILINEAR)
            frames.append(np.asarray(small))
    except DataError as error:
        raise DataError(str(error).replace(f"{files[0].parent}/", "")) from None
    finally:
        for path in files:
            path.unlink(missing_ok=True)
    if len(frames) < 2:
        raise DataError("a clip needs two frames or more; Photo takes a single image apart")
    kept = np.stack(frames[:MOST_FRAMES])
    return Clip(lambda _: kept, len(kept), rates[0], len(frames) > MOST_FRAMES)


def _frames(files: Sequence[Path]) -> Iterator[tuple[str, np.ndarray, float]]:
    """Name and pixels of each frame, and how many there are in a second."""
    path, suffix = files[0], files[0].suffix.lower()
    if len(files) > 1 or suffix not in FILM_SUFFIXES:
        yield from ((one.name, read_image(one, name=one.name, limits=UPLOAD_LIMITS), RATE) for one in files)
    elif suffix == ".gif":  # needs no PyAV
        limits = UPLOAD_LIMITS._replace(formats=("GIF",), animations=True)
        with opened(path, path.name, limits, "give another file") as film:
            for frame in ImageSequence.Iterator(film):
                pixels = np.asarray(frame.convert("RGB"))
                yield path.name, pixels, 1000 / (frame.info.get("duration") or 1000 / RATE)
    else:
        rate = film_rate(path)[0]
        yield from ((path.name, pixels, rate) for pixels in film_frames(path))


@dataclass(frozen=True, eq=False)
class SeenClip:
    """A clip and its slots, and the same without some of them."""

    model: str
    rate: float
    cut: bool
    frames: np.ndarray  # uint8 [T, H, W, 3]
    owners: np.ndarray  # uint8 [T, H, W], the slot that owns each pixel
    slots: Tensor  # [T, K, D]
    seen: Tensor  # uint8 [T, h, w], the slot that owns each pixel of what the model saw
    fitted: Fitting  # which says where that is in a frame
    removed: tuple[int, ...] = ()
    edited: tuple[np.ndarray, np.ndarray] | None = None  # frames and owners without these
    selected: int | None = None

    def clip(self) -> tuple[np.ndarray, np.ndarray]:
        """Frames and owners as edited."""
        return self.edited or (self.frames, self.owners)

    def gif(self) -> bytes:
        """The clip as edited."""
        first, *others = map(Image.fromarray, self.clip()[0])
        with io.BytesIO() as file:
            each = round(1000 / self.rate)
            first.save(file, "gif", save_all=True, append_images=others, duration=each, loop=0)
            return file.getvalue()

    def files(self) -> bytes:
        """Frames and masks as edited, and masks before, in a zip archive."""
        frames, masks = self.clip()
        kinds = {"frames": map(Image.fromarray, frames)}
        kinds |= {"masks": map(palette_map, masks), "masks-before": map(palette_map, self.owners)}
        drawn = {f"{kind}/{at:04d}.png": image for kind, images in kinds.items() for at, image in enumerate(images)}
        return zipped({name: png(image) for name, image in drawn.items()})


@in_steps
def taken_apart(loaded: LoadedModel, clip: Clip) -> Generator[int, None, SeenClip]:
    """Takes a clip apart; an image model is tracked. The steps yield the number of frames done."""
    model, frames = loaded.model, clip.at(loaded.model.resolution)
    source, owners, slots, seen = model.finer_masks, [], [], []
    for frame in seen_frames(model_of_clips(model), frames, None, source):
        owners.append(frame.owners)
        slots.append(frame.output.slots[0].cpu())
        seen.append(frame.output.segmentation(source)[0].to("cpu", torch.uint8))
        yield len(owners)
    fitted = fitting_of(model, None, (frames.shape[2], frames.shape[1]))
    parts = np.stack(owners), torch.stack(slots), torch.stack(seen), fitted
    return SeenClip(loaded.name, clip.rate, clip.cut, frames, *parts)


@in_steps
def without(now: SeenClip, loaded: LoadedModel, slots: Sequence[int]) -> Generator[int, None, SeenClip]:
    """The clip without some slots: as the model paints it where they were, unchanged elsewhere."""
    if not slots:
        return replace(now, removed=(), edited=None, selected=None)
    if loaded.painting is None:
        raise ConfigError(CANNOT_PAINT)
    sampling = loaded.sampling and replace(loaded.sampling, steps=min(loaded.sampling.steps, MOST_STEPS))
    frames, owners = [], []
    for pixels, before, vectors, seen in zip(now.frames, now.owners, now.slots, now.seen, strict=True):
        image = to_batch(now.fitted.shown(pixels)[None], None, [0])["image"]
        masks = F.one_hot(seen.long(), len(vectors)).permute(2, 0, 1)[None].float()
        scene = Scene(image[0], SlotOutput(vectors[None], masks.flatten(2)[:, None], (0, 0), masks, image))
        painted = paint_edit(loaded.painting, scene, remove(scene, slots), sampling=sampling)
        numbers = np.full(256, NO_SLOT, np.uint8)
        numbers[: len(painted.plan.numbers)] = painted.plan.numbers
        region = painted.region | torch.isin(seen, torch.tensor(slots))
        weight = now.fitted.onto_image(soft_edge(region)).numpy()
        filled = np.stack([now.fitted.onto_image(plane).numpy() for plane in painted.image], axis=2)
        frames.append(np.rint(pixels + weight[..., None] * (255 * filled - pixels)).astype(np.uint8))
        after = numbers[owners_of(now.fitted.onto_image(mask) for mask in painted.masks)]
        owners.append(np.where(weight > 0.5, after, before))
        yield len(frames)
    return replace(now, removed=tuple(slots), edited=(np.stack(frames), np.stack(owners)), selected=None)


def clip_figure(now: SeenClip) -> dict[str, Any]:
    """The clip and, if slots were removed, the edited one beside it; a card for each slot."""
    small = Image.fromarray(now.owners[0])
    small.thumbnail((COARSE, COARSE))

    def film(title: str, frames: np.ndarray, owners: np.ndarray) -> dict[str, Any]:
        uri = data_uri if max(frames.shape[1:3]) <= SMALL else jpeg
        images = [uri(Image.fromarray(frame)) for frame in frames]
        labels = [np.array(Image.fromarray(one).resize(small.size, Image.Resampling.NEAREST)) for one in owners]
        coded = [
            {"labels": levels(torch.from_numpy(one)), "image": image} for one, image in zip(labels, images, strict=True)
        ]
        return {**pane(title, images[0], tint=True), "frames": coded}

    panes, cards = [film("Clip", now.frames, now.owners)], []
    if now.edited:
        panes.append(film(f"Without slot {', '.join(map(str, now.removed))}", *now.edited))
    for number in np.unique(now.owners[now.owners != NO_SLOT]).tolist():
        inside = torch.from_numpy(now.owners == number)
        best = int(inside.sum(dim=(1, 2)).argmax())  # the frame that shows most of it
        image, owners = torch.from_numpy(now.frames[best]).permute(2, 0, 1) / 255, torch.from_numpy(now.owners[best])
        size = cell_size(image, THUMBNAIL)
        card = slot_card(number, image, inside[best].float(), owners, size=size, whole=f"frame {best + 1}")
        cards.append(card | ({"share": "removed"} if number in now.removed else {}))
    content = group(small.size[::-1], slot_colours(range(now.slots.shape[1])), panes, cards)
    shown = {"opacity": 0.3, "frames": len(now.frames), "rate": now.rate, "keep": True, "selected": now.selected}
    return {**shown, "hint": HINT, "keys": KEYS, "groups": [content]}


def clip_view(models: Sequence[LoadedModel], find: Callable[[str], LoadedModel]) -> View:
    """Builds the view, which has its own models and clips."""
    first = next((one for one in models if isinstance(one.model, ClipModel)), models[0])
    state, chosen = gr.State(None), gr.State(clip := rendered_clip(*FIRST_CLIP))
    with gr.Row():
        with gr.Column(scale=1, min_width=250):
            info = "Slots of a model of clips start from the frame before; those of an image model are matched."
            model = gr.Dropdown([one.name for one in models], value=first.name, label="Model", info=info)
            components.heading("Clip", CHOOSE)
            types = ["image", *FILM_SUFFIXES]
            looks = {"height": 96, "elem_id": "sl-clip-upload", "elem_classes": "sl-upload"}
            upload = gr.File(label="Your clip", file_count="multiple", file_types=types, **looks)
            # As for images: no copy that stays. Gradio has checked that the paths are an upload's.
            upload.preprocess = lambda payload: [one.path for one in payload or ()]  # pyright: ignore
            variant = gr.Dropdown(list(VARIANTS), value=FIRST_CLIP[0], label="Variant", info="Of a rendered clip.")
            count = gr.Slider(2, MOST_FRAMES, value=FIRST_CLIP[2], step=1, label="Frames", info="In the rendered clip.")
            info = "Another number, another clip."
            seed = gr.Number(FIRST_CLIP[1], precision=0, minimum=0, maximum=SCENES - 1, label="Seed", info=info)
            render = gr.Button("Render this clip", elem_id="sl-clip-render")
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(elem_id="sl-clip-status")
            figure = components.figure(elem_id="sl-clip", elem_classes="sl-clip")
            with gr.Row(elem_classes="sl-tools"):
                gone = button("Remove from the clip", "sl-clip-remove", min_width=150)
                undo = button("Undo", "sl-clip-undo")
                gif = button("Download GIF", "sl-clip-gif", min_width=110)
                everything = button("Download all (.zip)", "sl-clip-all", min_width=140)
            gr.HTML(note(FILES))
    download = components.download()
    outputs = [state, figure, status]

    def shown(now: SeenClip) -> dict[Any, Any]:
        count, height, width = now.owners.shape
        said = f"{count} frames of {width} × {height} pixels, taken apart by {now.model}. {CUT if now.cut else ''}"
        return {state: now, figure: clip_figure(now), status: note(said)}

    def work(what: str, total: int, steps: Generator[int, None, SeenClip]) -> Iterator[dict[Any, Any]]:
        while True:
            try:
                done = next(steps)
            except StopIteration as end:
                yield shown(end.value)
                return
            yield {status: note(f"{what}: frame {done} of {total}.")}

    def again(clip: Clip, name: str) -> Iterator[dict[Any, Any]]:
        yield from work(f"{name} takes the clip apart", clip.count, taken_apart.steps(find(name), clip))

    def edited(slots_of: Callable[[SeenClip], Sequence[int]], now: SeenClip | None) -> Iterator[dict[Any, Any]]:
        now = begun(now)
        yield from work("Painting", len(now.frames), without.steps(now, find(now.model), slots_of(now)))

    def with_selected(now: SeenClip) -> Sequence[int]:
        if now.selected is None or now.selected in now.removed:
            raise ConfigError("Select an object first: click on it in the clip, or on its slot below.")
        return (*now.removed, now.selected)

    def without_last(now: SeenClip) -> Sequence[int]:
        if not now.removed:
            raise ConfigError("There is nothing to undo.")
        return now.removed[:-1]

    def select(now: SeenClip | None, event: gr.EventData) -> SeenClip:
        return replace(begun(now), selected=event.slot)

    read = at_work(upload.upload, take_clip, upload, chosen)
    for ended in (read.success, read.failure):
        at_once(ended, lambda: None, None, upload)  # empties the field for the next upload
    for event in (
        read.success,
        at_work(render.click, rendered_clip, [variant, seed, count], chosen).success,
        model.input,
    ):
        at_work(event, again, [chosen, model], outputs)
    at_once(figure.choose, select, state, state)
    at_work(gone.click, partial(edited, with_selected), state, outputs)
    at_work(undo.click, partial(edited, without_last), state, outputs)
    at_work(gif.click, lambda now: components.file("clip.gif", begun(now).gif()), state, download)
    at_work(everything.click, lambda now: components.file("clip.zip", begun(now).files()), state, download)
    return View("Clip", outputs, lambda *_: shown(taken_apart(first, clip)), of=())
