"""Figures of what a model makes of images: reconstructions, segmentations, slots and attention."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from slotlab.composition.edits import Scene
from slotlab.data.images import AnyImage, prepared
from slotlab.figures.grid import (
    CELL,
    Cell,
    Colour,
    Heading,
    Scale,
    cell_size,
    cut_out,
    glow,
    grid,
    heat_map,
    label_map,
    matched_colours,
    overlay,
    photograph,
    slot_colours,
    true_colours,
)
from slotlab.metrics.functional import (
    adjusted_rand_index,
    mean_best_overlap,
    mean_iou,
    peak_signal_to_noise_ratio,
    squared_error,
)
from slotlab.models import AutoencoderOutput, FeatureGrouping, FeatureOutput, Model, SlotOutput, with_slots
from slotlab.models.building import evaluating
from slotlab.models.sampling import seeded_generator

EMPTY_SHARE = 0.002  # of the image; the smallest visible objects of data sets have 0.005
ERROR_TOP = 0.5
MOST_FRAMES = 12  # of a film strip
OPACITY = 0.55  # of segments over an image
THRESHOLD = 0.5  # above which a mask shows its slot


def reconstruction_grid(
    images: Tensor, output: SlotOutput | AutoencoderOutput, mask: Tensor | None = None, *, cell: int = CELL
) -> Image.Image:
    """A row per image: image, ceiling, reconstruction, error, true objects, segmentations.

    Frozen features, which show the colours of no image, have no error here.

    Below each segmentation are its scores on that one image: ARI, FG-ARI, mIoU ("clevrtex") and
    mBO. An output without slots has no segmentations.

    Args:
        images: [B, 3, H, W] in [0, 1]; clips [B, T, 3, H, W] give `film_strips`.
        output: the model's output for these images.
        mask: true masks, int64 [B, H, W], 0 = background, below 0 = ignored; for the colours of
            slots (`image_colours`) and scores.
        cell: longer side of a cell in pixels.
    """
    if images.ndim == 5 and isinstance(output, SlotOutput):
        return film_strips(images, output, mask, cell=cell)
    size = cell_size(images, cell)
    painted = {"image": images, output.titles["reconstruction"]: output.reconstruction}
    if isinstance(output, SlotOutput) and output.ceiling is not None:
        painted = {"image": images, output.titles["ceiling"]: output.ceiling, **painted}
    rows, segments, paints = [], _segments(output, mask), not isinstance(output, FeatureOutput)
    for number, (image, found) in enumerate(zip(images, segments, strict=True)):
        error = (output.reconstruction[number].clamp(0, 1) - image).abs().mean(dim=0)
        row = [Cell(photograph(shown[number], size)) for shown in painted.values()]
        if paints:
            row.append(Cell(heat_map(error, size, ERROR_TOP)))
        row += [Cell(label_map(labels, colours, size), caption) for labels, colours, caption in found.values()]
        rows.append(row)
    headings = [Heading(title) for title in [*painted, *(["error"] if paints else []), *segments[0]]]
    scale = Scale("error: mean absolute difference of the channels", ERROR_TOP)
    return grid(rows, headings, scale=scale if paints else None)


def film_strips(images: Tensor, output: SlotOutput, mask: Tensor | None = None, *, cell: int = CELL) -> Image.Image:
    """The frames of each clip, and below them true objects and segmentation laid over the frames.

    A slot has one colour in all frames of a clip: that of the object it covers most of, if `mask`
    is given. Of long clips, evenly spaced frames are shown.

    Args:
        images: [B, T, 3, H, W] in [0, 1].
        output: the output for all frames, clip after clip, as a `ClipModel` gives it.
        mask: true masks, int64 [B, T, H, W].
        cell: longer side of a cell in pixels.
    """
    (clips, frames), size = images.shape[:2], cell_size(images, cell)
    shown = torch.linspace(0, frames - 1, min(frames, MOST_FRAMES)).round().long().tolist()
    owners, slots = output.segmentation(output.finest).unflatten(0, (clips, frames)).cpu(), range(output.slots.shape[1])
    rows, labels = [], []
    for clip, (film, segments) in enumerate(zip(images, owners, strict=True)):
        rows.append([Cell(photograph(film[frame], size)) for frame in shown])
        colours, layers = slot_colours(slots), []
        if mask is not None:
            true = mask[clip].cpu()
            colours = matched_colours(segments.flatten(0, 1), true.flatten(0, 1), slots)
            layers.append(("true objects", true, true_colours(true)))
        layers.append((output.titles.get(output.finest, ""), segments, colours))
        for _, maps, paints in layers:
            rows.append([Cell(overlay(film[frame], maps[frame], paints, size, OPACITY)) for frame in shown])
        labels += ["", *(title for title, _, _ in layers)]
    return grid(rows, [Heading(f"frame {frame}") for frame in shown], labels)


def segmentation_grid(
    images: Tensor, output: SlotOutput, mask: Tensor | None = None, *, cell: int = CELL
) -> Image.Image:
    """A row per image: the image, then true objects (if given) and each segmentation laid over it.

    Arguments are as in `reconstruction_grid`.
    """
    size = cell_size(images, cell)
    rows, segments = [], _segments(output, mask)
    for image, found in zip(images, segments, strict=True):
        shown = [overlay(image, labels, colours, size, OPACITY) for labels, colours, _ in found.values()]
        rows.append([Cell(photograph(image, size)), *map(Cell, shown)])
    return grid(rows, [Heading(title) for title in ["image", *segments[0]]])


def _segments(
    output: SlotOutput | AutoencoderOutput, masks: Tensor | None
) -> list[dict[str, tuple[Tensor, dict[int, Colour], str]]]:
    """True objects and segmentations of each image by title: labels [H, W], colours, a caption."""
    if not isinstance(output, SlotOutput):
        return [{} for _ in output.reconstruction]
    segments = []
    for number in range(len(output)):
        one, true = output[number].cpu(), None if masks is None else masks[number].cpu()
        colours, found = image_colours(one, true), {}
        if true is not None:
            found["true objects"] = (true, true_colours(true), "")
        for title, (owners,) in one.segmentations().items():
            caption = ""
            if true is not None:
                scores = mask_scores(owners[None], true[None], len(colours))
                ari, fg, iou, best = (float(score) for score in scores.values())
                caption = f"ARI {ari:z.2f}  FG-ARI {fg:z.2f}\nmIoU {iou:z.2f}  mBO {best:z.2f}"
            found[title] = (owners, colours, caption)
        segments.append(found)
    return segments


def slot_grid(
    image: Tensor, output: SlotOutput, index: int = 0, *, mask: Tensor | None = None, cell: int = CELL
) -> Image.Image:
    """A column per slot in three rows: its image raw, times its mask, thresholded by its mask.

    A heading has the chip of the slot's colour and the share of pixels it owns; a slot that owns
    less than 0.2 % is marked as empty. If the decoder makes no slot images, the image itself is cut
    out by the mask and by the pixels that the slot owns (such masks are too soft for a threshold).

    Args:
        image: [3, H, W] in [0, 1].
        output: the model's output for the batch that `image` is in.
        index: the image's place in that batch.
        mask: its true mask [H, W], for the colours of slots (`image_colours`).
        cell: longer side of a cell in pixels.
    """
    output = output[index].cpu()
    size, masks, colours = cell_size(image, cell), output.masks[0], image_colours(output, mask)
    segmentation = output.segmentation("masks")[0]
    whole = Cell(photograph(image, size), "image")
    owners = Cell(label_map(segmentation, colours, size), output.titles["masks"])
    headings = [Heading("all slots"), *_slot_headings(segmentation, colours)]
    if output.slot_images is None:
        soft = [Cell(cut_out(image, alpha, size)) for alpha in masks]
        owned = [Cell(cut_out(image, (segmentation == slot).float(), size, soft=False)) for slot in range(len(masks))]
        return grid([[whole, *soft], [owners, *owned]], headings, ["× mask", "owned pixels"])
    painted = Cell(photograph(output.reconstruction[0], size), output.titles["reconstruction"])
    rows = [[whole], [painted], [owners]]
    for own, alpha in zip(output.slot_images[0], masks, strict=True):
        rows[0].append(Cell(photograph(own, size)))
        rows[1].append(Cell(cut_out(own, alpha, size)))
        rows[2].append(Cell(cut_out(own, (alpha > THRESHOLD).float(), size, soft=False)))
    return grid(rows, headings, ["raw", "× mask", f"mask > {THRESHOLD:g}"])


def attention_grid(
    image: Tensor, output: SlotOutput, index: int = 0, *, mask: Tensor | None = None, cell: int = CELL
) -> Image.Image:
    """Slot attention over the dimmed image: a row per iteration, a column per slot.

    Arguments are as in `slot_grid`.
    """
    output = output[index].cpu()
    size, colours = cell_size(image, cell), image_colours(output, mask)
    rows = []
    for iteration in range(output.attention.shape[1]):
        maps = output.attention_masks(iteration)[0]
        owners = label_map(maps.argmax(dim=0), colours, size)
        rows.append([Cell(owners), *(Cell(glow(image, values, size)) for values in maps)])
    headings = [Heading("strongest slot"), *_slot_headings(output.segmentation("attention")[0], colours)]
    labels = [f"iteration {number + 1}" for number in range(len(rows))]
    return grid(rows, headings, labels, Scale("attention of a slot (sums to 1 over slots)", 1.0))


def share_of_image(share: float) -> str:
    """The share of an image that a slot owns, in words.

    Example:
        >>> share_of_image(0.25), share_of_image(0.004), share_of_image(0.001)
        ('25% of image', '0.4% of image', 'empty')
    """
    return "empty" if share < EMPTY_SHARE else f"{share:.{0 if share >= 0.01 else 1}%} of image"


def image_colours(output: SlotOutput, mask: Tensor | None = None) -> dict[int, Colour]:
    """The colour of each slot in all figures of one image.

    With a true mask [H, W], the colour of the object that the slot matches best by the finest masks
    (`matched_colours`); without, the same for a slot number in every image. `output` is of one
    image.
    """
    slots = range(output.masks.shape[1])
    if mask is None:
        return slot_colours(slots)
    return matched_colours(output.segmentation(output.finest)[0], mask, slots)


def _slot_headings(segmentation: Tensor, colours: dict[int, Colour]) -> list[Heading]:
    headings = []
    for slot in range(len(colours)):
        note = share_of_image(float((segmentation == slot).float().mean()))
        empty = note == "empty"
        headings.append(Heading(f"slot {slot}", note, None if empty else colours[slot], faint=empty))
    return headings


def mask_scores(predicted: Tensor, mask: Tensor, slots: int) -> dict[str, Tensor]:
    """ARI, FG-ARI, mIoU ("clevrtex") and mBO of int64 segmentations [B, H, W]: float64 [B] each."""
    return {
        "ARI": adjusted_rand_index(predicted, mask),
        "FG-ARI": adjusted_rand_index(predicted, mask, foreground_only=True),
        "mIoU": mean_iou(predicted, mask, slots=slots),
        "mBO": mean_best_overlap(predicted, mask),
    }


@dataclass(frozen=True, eq=False)
class Look(Scene):
    """A `Scene` whose output is complete, beside what is known of the image.

    Attributes:
        mask: its true mask, int64 [R, R], 0 = background; None if unknown.
    """

    mask: Tensor | None = None

    def scores(self) -> dict[str, dict[str, float]]:
        """ARI, FG-ARI, mIoU and mBO by title of the masks; empty without a true mask."""
        if self.mask is None:
            return {}
        mask, slots = self.mask[None], self.output.masks.shape[1]
        found = {title: mask_scores(owners, mask, slots) for title, owners in self.output.segmentations().items()}
        return {title: {name: float(score) for name, score in scores.items()} for title, scores in found.items()}

    def errors(self) -> dict[str, float]:
        """MSE (sum and mean) and PSNR in dB of the reconstruction, or the feature error."""
        if isinstance(self.output, FeatureOutput):
            return {"feature error": float(self.output.feature_errors())}
        painted, image = self.output.reconstruction.clamp(0, 1), self.image[None]
        return {
            "MSE (sum)": float(squared_error(painted, image)),
            "MSE (mean)": float(squared_error(painted, image, "mean")),
            "PSNR (dB)": float(peak_signal_to_noise_ratio(painted, image)),
        }

    def figure(self, *, cell: int = CELL) -> Image.Image:
        """Reconstruction and segmentations with scores; the slots; attention by iteration."""
        mask = None if self.mask is None else self.mask[None]
        parts = (
            reconstruction_grid(self.image[None], self.output, mask, cell=cell),
            slot_grid(self.image, self.output, mask=self.mask, cell=cell),
            attention_grid(self.image, self.output, mask=self.mask, cell=cell),
        )
        tops = [0, *itertools.accumulate(part.height for part in parts)]
        page = Image.new("RGB", (max(part.width for part in parts), tops[-1]), "white")
        for part, top in zip(parts, tops, strict=False):
            page.paste(part, (0, top))
        return page


@torch.inference_mode()
def look(model: Model, image: AnyImage, mask: Any = None, *, seed: int = 0, crop: float = 1.0) -> Look:
    """Runs a model on one image; slots are numbered as in `composition.edits.read_scene`.

    Args:
        model: any model with slots; it is in evaluation mode while it runs.
        image: a file, a tensor [3, H, W] in [0, 1], an array uint8 [H, W, 3] or a Pillow image.
        mask: the true mask, integers [H, W] or a mask file, of the image's size; 0 = background.
        seed: of the initial slots, and of the noise of samples.
        crop: side of the centred square as a fraction of the shorter side, above 0, at most 1.

    Raises:
        CheckpointError: the model has no slots.
        ConfigError: `crop` is out of range.
        DataError: a file is missing or broken, or image and mask differ in size.
        ValueError: an array of another shape.

    Example:
        >>> import slotlab
        >>> scene = slotlab.render([0], variant="plain")
        >>> seen = look(slotlab.load("scenes-64"), scene.image[0], scene.mask[0])
        >>> seen.segmentation().shape, list(seen.scores()["decoder masks"])
        (torch.Size([64, 64]), ['ARI', 'FG-ARI', 'mIoU', 'mBO'])
    """
    model = with_slots(model)
    resolution = model.working_size if isinstance(model, FeatureGrouping) and crop == 1 else model.resolution
    seen, true = prepared(image, mask, resolution=resolution, crop=crop)
    with evaluating(model):
        output = model(seen[None].to(next(model.parameters()).device), seeded_generator(seed))
    return Look(seen, output.cpu(), model.finer_masks, true)


def show(
    image: AnyImage,
    model: Model | str | Path = "photos",
    mask: Any = None,
    *,
    seed: int = 0,
    crop: float = 1.0,
    cell: int = CELL,
) -> Image.Image:
    """A figure of one image as a model sees it; a notebook displays it.

    Args:
        image: as in `look`.
        model: a model with slots, or what `slotlab.load` takes; photos is for photographs.
        mask: the true mask, if known: colours are then matched to it, and the scores are shown.
        seed: of the initial slots, and of the noise of samples.
        crop: side of the centred square as a fraction of the shorter side.
        cell: longer side of a cell in pixels.

    Raises:
        CheckpointError: there is no such model.
        ConfigError, DataError, ValueError: as in `look`.

    Example:
        >>> import slotlab
        >>> slotlab.show(slotlab.render([0], variant="plain").image[0], "scenes-64", cell=32).mode
        'RGB'
    """
    if isinstance(model, (str, Path)):
        from slotlab.checkpoints import load

        model = load(model)
    return look(model, image, mask, seed=seed, crop=crop).figure(cell=cell)
