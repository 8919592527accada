"""One picture as a model sees it: what the studio shows, a figure for notebooks, and its scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

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
from slotlab.models import AutoencoderOutput, Model, SlotOutput, with_slots
from slotlab.models.building import evaluating
from slotlab.models.randomness import seeded_generator

EMPTY_SHARE = 0.002  # below what data sets ask of a visible object: 20 pixels of 64x64 are 0.005
ERROR_TOP = 0.5


def reconstruction_grid(
    images: Tensor, output: SlotOutput | AutoencoderOutput, mask: Tensor | None = None, *, cell: int = CELL
) -> Image.Image:
    """A row per image: image, ceiling (if known), reconstruction, error, true objects (if given), masks, attention.

    Below the segmentations stand the scores of that one image (ARI, FG-ARI, mIoU by the "clevrtex" definition, mBO).
    An output without slots has no segmentations.

    Args:
        images: [B, 3, H, W] in [0, 1].
        output: what the model made of them.
        mask: true masks, int64 [B, H, W], 0 = background; predicted segments then take the colours of the objects
            they match best. Without, each slot has its own colour, the same in every row.
        cell: longer side of a picture in pixels.

    Raises:
        ValueError: `images`, `output` and `mask` are not of the same images.
    """
    _check(images, output, mask)
    size = cell_size(images, cell)
    painted = {output.titles["reconstruction"]: output.reconstruction}
    if isinstance(output, SlotOutput) and output.ceiling is not None:
        painted = {"autoencoder": output.ceiling, **painted}
    segmentations = _segmentations(output) if isinstance(output, SlotOutput) else {}
    slots = output.masks.shape[1] if isinstance(output, SlotOutput) else 0
    captions = [_scores(segmentation, mask) for segmentation in segmentations.values()]
    rows = []
    for number, image in enumerate(images):
        error = (output.reconstruction[number].clamp(0, 1) - image).abs().mean(dim=0)
        row = [Cell(photograph(picture[number], size)) for picture in (images, *painted.values())]
        row.append(Cell(heat_map(error, size, ERROR_TOP)))
        if mask is not None and segmentations:
            row.append(Cell(label_map(mask[number], true_colours(mask[number]), size)))
        for segmentation, caption in zip(segmentations.values(), captions, strict=True):
            colours = _colours(segmentation[number], None if mask is None else mask[number], slots)
            row.append(Cell(label_map(segmentation[number], colours, size), caption[number]))
        rows.append(row)
    true_heading = ["true objects"] if mask is not None and segmentations else []
    headings = [Heading(title) for title in ["image", *painted, "error", *true_heading, *segmentations]]
    return grid(rows, headings, scale=Scale("error: mean absolute difference of the channels", ERROR_TOP))


def segmentation_grid(
    images: Tensor, output: SlotOutput, mask: Tensor | None = None, *, opacity: float = 0.55, cell: int = CELL
) -> Image.Image:
    """A row per image: the image, then true objects (if given), masks and attention masks laid over it.

    Args:
        images: [B, 3, H, W] in [0, 1].
        output: what the model made of them.
        mask: true masks, int64 [B, H, W], 0 = background, to match colours with.
        opacity: of the colours over the image, in [0, 1].
        cell: longer side of a picture in pixels.

    Raises:
        ValueError: `images`, `output` and `mask` are not of the same images.
    """
    _check(images, output, mask)
    titles = _segmentations(output)
    rows = []
    for number, image in enumerate(images):
        true = None if mask is None else mask[number]
        size = cell_size(image, cell)
        row = [Cell(photograph(image, size))]
        if true is not None:
            row.append(Cell(overlay(image, true, true_colours(true), size, opacity)))
        for segmentation in titles.values():
            colours = _colours(segmentation[number], true, output.masks.shape[1])
            row.append(Cell(overlay(image, segmentation[number], colours, size, opacity)))
        rows.append(row)
    true_heading = ["true objects"] if mask is not None else []
    return grid(rows, [Heading(title) for title in ["image", *true_heading, *titles]])


def slot_grid(
    image: Tensor,
    output: SlotOutput,
    index: int = 0,
    *,
    mask: Tensor | None = None,
    threshold: float = 0.5,
    cell: int = CELL,
) -> Image.Image:
    """A column per slot, in the order of the slots, and three rows: its picture raw, times its mask, and thresholded.

    Each heading has the chip of the slot's colour in the segmentations and the share of pixels it owns; a slot that
    owns less than 0.2 % is marked as empty. Where the decoder makes no slot pictures, the image itself is cut out, by
    the mask and by the pixels that the slot owns: such masks are too soft for a threshold.

    Args:
        image: [3, H, W] in [0, 1].
        output: what the model made of the batch that `image` is in.
        index: the image's place in that batch.
        mask: its true mask [H, W], if colours are to match the true objects'.
        threshold: the last row shows a pixel where the slot's mask exceeds this.
        cell: longer side of a picture in pixels.

    Raises:
        ValueError: `image` or `mask` does not fit `output`.
    """
    _check(image[None], output, None if mask is None else mask[None], index)
    size = cell_size(image, cell)
    segmentation = output.segmentation("masks")[index].cpu()
    first = [
        Cell(photograph(image, size), "image"),
        Cell(photograph(output.reconstruction[index], size), output.titles["reconstruction"]),
        Cell(
            label_map(segmentation, _colours(segmentation, mask, output.masks.shape[1]), size),
            output.titles["masks"],
        ),
    ]
    labels = ["raw", "× mask", f"mask > {threshold:g}"]
    drawn = output.slot_images is not None
    rows: list[list[Cell | None]] = [[cell] for cell in first]
    for slot, alpha in enumerate(output.masks[index]):
        picture = image if output.slot_images is None else output.slot_images[index, slot]
        rows[0].append(Cell(photograph(picture, size)))
        rows[1].append(Cell(cut_out(picture, alpha, size)))
        shown = alpha > threshold if drawn else segmentation == slot
        rows[2].append(Cell(cut_out(picture, shown.float(), size, soft=False)))
    headings = [Heading("all slots"), *_slot_headings(segmentation, output, mask)]
    if not drawn:  # the raw row would show the image again and again
        rows, labels = [[first[0], *rows[1][1:]], [first[2], *rows[2][1:]]], [labels[1], "owned pixels"]
    return grid(rows, headings, labels)


def attention_grid(
    image: Tensor,
    output: SlotOutput,
    index: int = 0,
    *,
    mask: Tensor | None = None,
    top: float = 1.0,
    cell: int = CELL,
) -> Image.Image:
    """Slot attention over the dimmed image: a row per iteration, a column per slot, one colour scale for all.

    Args:
        image: [3, H, W] in [0, 1].
        output: what the model made of the batch that `image` is in.
        index: the image's place in that batch.
        mask: its true mask [H, W], if the colour chips are to match the true objects'.
        top: attention shown as brightest; 1 is all of a feature's attention.
        cell: longer side of a picture in pixels.

    Raises:
        ValueError: `image` or `mask` does not fit `output`.
    """
    _check(image[None], output, None if mask is None else mask[None], index)
    size = cell_size(image, cell)
    iterations = output.attention.shape[1]
    last = output.segmentation("attention")[index].cpu()
    colours = _colours(last, mask, output.masks.shape[1])
    rows: list[list[Cell | None]] = []
    for iteration in range(iterations):
        maps = output.attention_masks(iteration)[index]
        owners = label_map(maps.argmax(dim=0), colours, size)
        rows.append([Cell(owners), *(Cell(glow(image, values, size, top)) for values in maps)])
    headings = [Heading("strongest slot"), *_slot_headings(last, output, mask)]
    labels = [f"iteration {number + 1}" for number in range(iterations)]
    return grid(rows, headings, labels, Scale("attention of a slot (sums to 1 over slots)", top))


def segmentation_colours(
    segmentation: Tensor,
    reference: Tensor | None = None,
    *,
    image: Tensor | None = None,
    background: bool = False,
    opacity: float = 0.5,
    cell: int = CELL,
) -> Image.Image:
    """A segmentation in colours that can be compared with those of another.

    Args:
        segmentation: [H, W], integers >= 0.
        reference: the true mask [H, W], 0 = background; segments take the colours of the true ones they match best
            (`slotlab.figures.grid.matched_colours`), so that numbering makes no difference. Without, each label
            has its own colour.
        image: [3, H, W] in [0, 1] to blend the colours over, with thin outlines.
        background: `segmentation` is itself a true mask: its 0 is the background and gets the neutral grey.
        opacity: of the colours over the image, in [0, 1].
        cell: longer side of the picture in pixels.

    Raises:
        ValueError: the shapes do not agree.
    """
    for name, other in (("reference", reference), ("image", image)):
        if other is not None and other.shape[-2:] != segmentation.shape:
            raise ValueError(f"{name}: {list(other.shape)} does not fit a segmentation {list(segmentation.shape)}")
    size = cell_size(segmentation, cell)
    if background:
        colours = true_colours(segmentation)
    elif reference is not None:
        colours = matched_colours(segmentation, reference)
    else:
        colours = slot_colours(segmentation.unique().tolist())
    if image is None:
        return label_map(segmentation, colours, size)
    return overlay(image, segmentation, colours, size, opacity)


def _segmentations(output: SlotOutput) -> dict[str, Tensor]:
    """The segmentations of an output under their titles, on the CPU."""
    return {title: owners.cpu() for title, owners in output.segmentations().items()}


def _colours(segmentation: Tensor, mask: Tensor | None, count: int) -> dict[int, Colour]:
    slots = range(count)
    return slot_colours(slots) if mask is None else matched_colours(segmentation, mask.cpu(), slots)


def _slot_headings(segmentation: Tensor, output: SlotOutput, mask: Tensor | None) -> list[Heading]:
    colours = _colours(segmentation, mask, output.masks.shape[1])
    headings = []
    for slot in range(output.masks.shape[1]):
        share = float((segmentation == slot).float().mean())
        empty = share < EMPTY_SHARE
        note = "empty" if empty else f"{share:.{0 if share >= 0.01 else 1}%} of image"
        headings.append(Heading(f"slot {slot}", note, None if empty else colours[slot], faint=empty))
    return headings


def _scores(prediction: Tensor, mask: Tensor | None) -> Sequence[str]:
    if mask is None:
        return [""] * len(prediction)
    mask = mask.cpu()
    columns = (
        adjusted_rand_index(prediction, mask),
        adjusted_rand_index(prediction, mask, foreground_only=True),
        mean_iou(prediction, mask),
        mean_best_overlap(prediction, mask),
    )
    return [
        f"ARI {ari:z.2f}  FG-ARI {foreground:z.2f}\nmIoU {iou:z.2f}  mBO {best:z.2f}"
        for ari, foreground, iou, best in torch.stack(columns, dim=1).tolist()
    ]


def _check(
    images: Tensor, output: SlotOutput | AutoencoderOutput, mask: Tensor | None, index: int | None = None
) -> None:
    """Raises a ValueError unless images [B, 3, H, W] and masks [B, H, W] fit `output` (or its image `index`)."""
    expected = [len(images), *output.reconstruction.shape[1:]]
    count = len(output.reconstruction)
    if index is None and len(images) != count:
        raise ValueError(f"images: {len(images)} images, but the output is of {count}")
    if index is not None and not -count <= index < count:
        raise ValueError(f"index: {index} is not among the {count} images of the output")
    if list(images.shape) != expected:
        raise ValueError(f"images: {list(images.shape)} does not fit the output's {expected}")
    if mask is not None and list(mask.shape) != [expected[0], *expected[2:]]:
        raise ValueError(f"mask: {list(mask.shape)} does not fit the output's {[expected[0], *expected[2:]]}")


DEFAULT_MODEL = "scenes-64"


@dataclass(frozen=True, eq=False)
class Look:
    """What a model with slots makes of one picture; all on the CPU.

    Attributes:
        image: [3, R, R] in [0, 1], as the model sees it.
        output: of a batch with this image alone.
        mask: its true mask, int64 [R, R], 0 = background; None where nobody knows.
        finer: which source of masks fits objects best, of `slotlab.models.output.MASK_SOURCES`.
    """

    image: Tensor
    output: SlotOutput
    mask: Tensor | None = None
    finer: str = "masks"

    def owners(self) -> Tensor:
        """The slot that owns each pixel by the finest masks, int64 [R, R]."""
        return self.output.segmentation(self.finer)[0]

    def segmentations(self) -> dict[str, Tensor]:
        """The slot that owns each pixel, int64 [R, R], by the title of each source of masks."""
        return {title: owners[0] for title, owners in self.output.segmentations().items()}

    def scores(self) -> dict[str, dict[str, float]]:
        """ARI, FG-ARI, mIoU ("clevrtex") and mBO of each kind of masks; empty without a true mask."""
        if self.mask is None:
            return {}
        true, found = self.mask[None], {}
        for name, segmentation in self.segmentations().items():
            predicted = segmentation[None]
            found[name] = {
                "ARI": float(adjusted_rand_index(predicted, true)),
                "FG-ARI": float(adjusted_rand_index(predicted, true, foreground_only=True)),
                "mIoU": float(mean_iou(predicted, true)),
                "mBO": float(mean_best_overlap(predicted, true)),
            }
        return found

    def errors(self) -> dict[str, float]:
        """How far the reconstruction is from the picture: MSE as sum and as mean, and PSNR in dB."""
        painted, image = self.output.reconstruction.clamp(0, 1), self.image[None]
        return {
            "MSE (sum)": float(squared_error(painted, image)),
            "MSE (mean)": float(squared_error(painted, image, "mean")),
            "PSNR (dB)": float(peak_signal_to_noise_ratio(painted, image)),
        }

    def figure(self, *, cell: int = 128) -> Image.Image:
        """Picture, reconstruction, error and segmentations with scores; the slots; and attention by iteration.

        Args:
            cell: side of a picture in pixels.
        """
        mask = None if self.mask is None else self.mask[None]
        return _stacked(
            reconstruction_grid(self.image[None], self.output, mask, cell=cell),
            slot_grid(self.image, self.output, mask=self.mask, cell=cell),
            attention_grid(self.image, self.output, mask=self.mask, cell=cell),
        )


@torch.inference_mode()
def look(model: Model, image: AnyImage, mask: Any = None, *, seed: int = 0, crop: float = 1.0) -> Look:
    """Takes one picture apart; the slots have the numbers of `slotlab.composition.edits.read_scene`.

    Args:
        model: with slots; put into evaluation mode for the time.
        image: a file, a tensor [3, H, W] in [0, 1], pixels, or a Pillow picture; see `slotlab.data.images.prepared`.
        mask: the true mask, integers [H, W] or a mask file, of the same size; 0 = background.
        seed: of the initial slots, and of the noise of samples.
        crop: side of the square as a fraction of the shorter side, above 0, at most 1.

    Raises:
        CheckpointError: a model without slots.
        ConfigError: a crop out of range.
        DataError: a file is missing or broken, or image and mask differ in size.
        ValueError: an array of another shape.
    """
    model = with_slots(model)
    picture, true = prepared(image, mask, resolution=model.resolution, crop=crop)
    with evaluating(model):
        output = model(picture[None].to(next(model.parameters()).device), seeded_generator(seed))
    return Look(picture, output.cpu(), true, model.finer_masks)


def show(
    image: AnyImage,
    model: Model | str | Path = DEFAULT_MODEL,
    mask: Any = None,
    *,
    seed: int = 0,
    crop: float = 1.0,
    cell: int = 128,
) -> Image.Image:
    """A figure of one picture as a model sees it: the headless form of the studio's Look view.

    In a notebook the figure shows itself: `slotlab.show("photo.png", model="runs/first")`.

    Args:
        image: as for `look`.
        model: a model with slots, or what `slotlab.load` takes.
        mask: the true mask, if known: then colours are matched to it, and the scores of this one picture are shown.
        seed: of the initial slots, and of the noise of samples.
        crop: side of the centred square as a fraction of the shorter side.
        cell: side of a picture in pixels.

    Raises:
        CheckpointError: there is no such model.
        ConfigError, DataError, ValueError: as `look`.
    """
    if isinstance(model, (str, Path)):
        from slotlab.checkpoints import load

        model = load(model)
    return look(model, image, mask, seed=seed, crop=crop).figure(cell=cell)


def _stacked(*pictures: Image.Image) -> Image.Image:
    """Pictures one below the other, on white."""
    page = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), "white")
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height
    return page
