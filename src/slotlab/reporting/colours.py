"""Colours for segmentations: one palette, and the matching that gives a slot the colour of the object it found."""

from collections.abc import Iterable, Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from slotlab.metrics.functional import contingency, intersection_over_union_of

Colour = tuple[int, int, int]
Colours = Mapping[int, Colour]

BACKGROUND: Colour = (158, 158, 158)
# The first seven are Okabe and Ito's. Each of the others was taken from a grid of RGB values so that its smallest
# distance in OKLab to all before it, to the background, to black and to white is largest, where the distance is the
# least of those seen with normal, protanope and deuteranope eyes (Machado et al. 2009).
PALETTE: tuple[Colour, ...] = tuple(
    (code >> 16, code >> 8 & 255, code & 255)
    for code in (
        *(0x0072B2, 0xE69F00, 0x009E73, 0xCC79A7, 0x56B4E9, 0xD55E00, 0xF0E442, 0x692D2D),
        *(0x0000FF, 0x4B1E96, 0x69E1B4, 0x8778FF, 0xA52D69, 0x964B00, 0xA5D2FF, 0x0F4BC3),
        *(0xA5FFA5, 0x4BC378, 0x780069, 0xC31E96, 0xB4D269, 0xA5F0E1, 0x695AE1, 0x5A87D2),
        *(0x87C3C3, 0xB44B4B, 0xD2873C, 0x00A5C3, 0x873C3C, 0xF04B69, 0x006978, 0x7896FF),
    )
)


def palette_colour(number: int) -> Colour:
    """The colour of object or slot `number` (0 or more); the 32 colours repeat after the last."""
    return PALETTE[number % len(PALETTE)]


def true_colours(mask: Tensor) -> dict[int, Colour]:
    """Colours of a true mask: the background (0) neutral, the objects in the order of their ids.

    Args:
        mask: [H, W], any integer dtype; 0 = background. Gaps between ids use up no colours.
    """
    objects = [label for label in mask.unique().tolist() if label != 0]
    return {0: BACKGROUND} | {label: palette_colour(place) for place, label in enumerate(objects)}


def slot_colours(labels: Iterable[int]) -> dict[int, Colour]:
    """Colours of segments where there is no truth to match: each label has its own, the same in every image."""
    return {label: palette_colour(label) for label in labels}


def matched_colours(segmentation: Tensor, reference: Tensor, labels: Iterable[int] = ()) -> dict[int, Colour]:
    """Colours of a predicted segmentation that agree with `true_colours(reference)`.

    Predicted and true segments, background included, are matched one to one so that the sum of their intersections
    over union is largest (Hungarian matching); a matched segment gets the colour of its true one. Those left over get
    colours that the truth does not use, the largest first. How the predicted labels are numbered makes no difference.

    Args:
        segmentation: [H, W], integers >= 0.
        reference: [H, W], integers; 0 = background.
        labels: further labels that get a colour although they own no pixel.

    Raises:
        ValueError: the two do not have the same shape.
    """
    names, predicted = _by_size(segmentation)
    true_names, true = reference.cpu().unique(return_inverse=True)
    overlap = intersection_over_union_of(contingency(predicted[None], true[None]))[0].numpy()
    known = true_colours(reference)
    colours: dict[int, Colour] = {}
    for row, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
        if overlap[row, column] > 0:
            colours[names[row]] = known[int(true_names[column])]
    fresh = len(known) - 1
    for label in [*names, *labels]:
        if label not in colours:
            colours[label] = palette_colour(fresh)
            fresh += 1
    return colours


def _by_size(segmentation: Tensor) -> tuple[list[int], Tensor]:
    """Labels from the largest segment to the smallest (ties: the first met comes first), and the map renumbered so."""
    labels, places, sizes = segmentation.cpu().unique(return_inverse=True, return_counts=True)
    flat = places.flatten()
    first = torch.full((len(labels),), flat.numel()).scatter_reduce(0, flat, torch.arange(flat.numel()), "amin")
    order = sorted(range(len(labels)), key=lambda place: (-int(sizes[place]), int(first[place])))
    rank = torch.empty(len(labels), dtype=torch.int64)
    rank[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(labels))
    return [int(labels[place]) for place in order], rank[places]
