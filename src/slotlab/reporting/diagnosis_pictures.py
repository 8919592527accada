"""Pictures of how a model uses its slots."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from slotlab.diagnostics import Diagnosis

BLUE, FAINT = "#0072b2", "0.4"
PER_ROW = 12  # mean masks in a row
CELL = 1.15  # inches


def slot_use_figure(numbers: Mapping[str, Any]) -> Figure:
    """Bars: in how many images each slot is used, and how many slots are used in an image.

    Args:
        numbers: of `Diagnosis.numbers()`.
    """
    figure = Figure(figsize=(8.5, 2.6), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_use(left, numbers["slot_use"])
    _draw_used(right, numbers["slots_used_counts"])
    return figure


def diagnosis_figure(diagnosis: Diagnosis, title: str = "") -> Figure:
    """Where each slot owns the pixels, and below it how slots, masks and attention behave.

    Slots that tile show sharp bright tiles: they own the same place in each image. Slots that follow objects show dim
    blobs, and one slot that has the background shows nearly everything.
    """
    lines = math.ceil(diagnosis.slots / PER_ROW)
    columns = min(diagnosis.slots, PER_ROW)
    figure = Figure(figsize=(11, 3.4 + lines * (CELL + 0.45)), facecolor="white", layout="constrained")
    halves = figure.add_gridspec(2, 1, height_ratios=(lines * (CELL + 0.45), 2.9))
    above, below = (figure.add_subfigure(half) for half in (halves[0], halves[1]))
    panels = above.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for slot, (axes, mask) in enumerate(zip(panels, diagnosis.mean_masks, strict=False)):
        axes.imshow(mask.numpy(), vmin=0, vmax=1, cmap="inferno")
        axes.set_title(f"slot {slot}\n{diagnosis.shares[slot]:.1%}", fontsize=8.5)
    used, use, entropy, change = below.subplots(1, 4)
    _draw_used(used, diagnosis.used_counts)
    _draw_use(use, diagnosis.use)
    _draw_entropy(entropy, diagnosis)
    _draw_changes(change, diagnosis.attention_changes)
    what = (
        "where each slot owns the pixels: in no image (black) to in all (yellow); and the share of the pixels it owns"
    )
    above.suptitle(f"{title}\n{what}" if title else what, fontsize=9.5)
    return figure


def _draw_used(axes: Axes, counts: Sequence[int]) -> None:
    axes.bar(range(len(counts)), counts, color=BLUE)
    _label(axes, "slots used in an image", "images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_use(axes: Axes, use: Sequence[float]) -> None:
    axes.bar(range(len(use)), use, color=BLUE)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _label(axes, "slot", "images in which it is used")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_entropy(axes: Axes, diagnosis: Diagnosis) -> None:
    counts = diagnosis.entropy_counts
    width = 1 / len(counts)
    axes.bar([(place + 0.5) * width for place in range(len(counts))], counts, 0.9 * width, color=BLUE)
    axes.axvline(diagnosis.entropy, color=FAINT, linewidth=1, linestyle="--")
    axes.set_xlim(0, 1)
    _label(axes, f"mask entropy (mean {diagnosis.entropy:.2f})", "images")


def _draw_changes(axes: Axes, changes: Sequence[float]) -> None:
    if changes:
        axes.plot(range(2, len(changes) + 2), changes, "o-", color=BLUE, markersize=4)
    else:
        axes.text(0.5, 0.5, "one iteration", ha="center", va="center", transform=axes.transAxes, color=FAINT)
    axes.set_ylim(0, max([0.3, *changes]) * 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(1.5, max(2, len(changes) + 1) + 0.5)
    _label(axes, "iteration", "attention that moves")


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8.5)
    axes.set_ylabel(y, fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.spines[["right", "top"]].set_visible(False)
