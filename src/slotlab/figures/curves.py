"""Curves of a training run, and charts of how a model uses its slots."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from slotlab.diagnostics import Diagnosis
from slotlab.training.checkpoint import Row

LOSSES = {"train_loss": ("train", "#0072b2", "-"), "validation_loss": ("validation", "#d55e00", "-")}
SCORES = {
    "ari": ("ARI, {masks}", "#009e73", "-"),
    "fg_ari": ("FG-ARI, {masks}", "#cc79a7", "-"),
    "attention_ari": ("ARI, attention masks", "#009e73", "--"),
    "attention_fg_ari": ("FG-ARI, attention masks", "#cc79a7", "--"),
    "posterior_ari": ("ARI, posterior masks", "#009e73", ":"),
    "posterior_fg_ari": ("FG-ARI, posterior masks", "#cc79a7", ":"),
}
LOG_RATIO = 4.0
FEW = 25  # up to this many points are marked


def loss_curves(rows: Sequence[Row], title: str = "", masks: str = "decoder masks") -> Figure:
    """Training and validation loss against steps, and ARI and FG-ARI if the run has them.

    A loss that falls by more than a factor of 4 is drawn on a log scale. The top axis shows epochs,
    or minutes if the data is endless. Missing values and values that are not finite are left out.

    Args:
        rows: as in `history.csv` (`slotlab.training.checkpoint.read_history`); may be empty.
        title: above the figure, such as the name of the run; a long one is cut.
        masks: what the model's masks are called (`SlotOutput.titles`).

    Example:
        >>> figure = loss_curves([{"step": 1, "train_loss": 0.5}, {"step": 2, "train_loss": 0.4}])
        >>> [axes.get_ylabel() for axes in figure.axes], figure_image(figure).size
        (['loss'], (660, 484))
    """
    scored = any(_points(rows, name)[0] for name in SCORES)
    width = 10.5 if scored else 6.0
    figure = Figure(figsize=(width, 4.4), facecolor="white")
    figure.subplots_adjust(left=0.95 / width, right=1 - 0.2 / width, bottom=0.28, top=0.84, wspace=0.18)
    axes = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
    _draw(axes[0], rows, LOSSES, "loss")
    drawn = [value for name in LOSSES for value in _points(rows, name)[1]]
    if drawn and min(drawn) > 0 and max(drawn) / min(drawn) > LOG_RATIO:
        axes[0].set_yscale("log")
    if scored:
        named = {name: (text.format(masks=masks), colour, style) for name, (text, colour, style) in SCORES.items()}
        _draw(axes[1], rows, named, "score on validation images")
        lowest = min(value for name in SCORES for value in _points(rows, name)[1])
        axes[1].set_ylim(min(-0.02, lowest - 0.02), 1.02)
        axes[1].axhline(0, color="0.7", linewidth=0.8, zorder=0)
    most = int(12 * width)  # characters
    figure.suptitle(title if len(title) <= most else f"{title[: most - 1]}…", fontsize=11)
    return figure


def figure_image(figure: Figure) -> Image.Image:
    """A matplotlib figure as an RGB image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return Image.open(buffer).convert("RGB")


def _draw(axes: Axes, rows: Sequence[Row], lines: dict[str, tuple[str, str, str]], label: str) -> None:
    for name, (legend, colour, style) in lines.items():
        steps, values = _points(rows, name)
        if steps:
            marker = "o" if len(steps) <= FEW else ""
            axes.plot(steps, values, style, color=colour, label=legend, linewidth=1.6, marker=marker, markersize=3.5)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["right", "top"]].set_visible(False)
    if not axes.lines:
        axes.text(0.5, 0.5, "nothing recorded yet", ha="center", va="center", transform=axes.transAxes, color="0.45")
        return
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.legend(frameon=False, fontsize=8.5, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    _second_axis(axes, rows)


def _second_axis(axes: Axes, rows: Sequence[Row]) -> None:
    """Epochs along the top, or minutes if an epoch is longer than the run."""
    last = rows[-1]
    epochs, minutes = last.get("epoch", 0.0), last.get("seconds", 0.0) / 60
    label, reached = ("epoch", epochs) if epochs >= 1 else ("minutes", minutes)
    if reached <= 0 or not math.isfinite(reached) or last.get("step", 0) <= 0:
        return
    rate = reached / last["step"]
    top = axes.secondary_xaxis(
        "top", functions=(lambda steps: np.asarray(steps) * rate, lambda values: np.asarray(values) / rate)
    )
    top.set_xlabel(label, fontsize=8.5, color="0.4")
    top.tick_params(labelsize=8, colors="0.4")
    top.spines["top"].set_color("0.7")


def _points(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    shown = [row for row in rows if "step" in row and math.isfinite(row.get(name, math.nan))]
    return [row["step"] for row in shown], [row[name] for row in shown]


BLUE, FAINT = "#0072b2", "0.4"
PER_ROW = 12  # mean masks
CELL = 1.15  # inches


def slot_use_figure(numbers: Mapping[str, Any]) -> Figure:
    """Bars of `Diagnosis.numbers()`: how often each slot is used, how many slots images use."""
    figure = Figure(figsize=(8.5, 2.6), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_use(right, left, numbers["slots_used_counts"], numbers["slot_use"])
    return figure


def diagnosis_figure(diagnosis: Diagnosis, title: str = "") -> Figure:
    """The mean mask of each slot, and below it how slots, masks and attention behave.

    Slots that tile show sharp bright tiles: they own the same place in each image. Slots that
    follow objects show dim blobs, and a slot that holds the background is bright nearly everywhere.
    """
    lines = math.ceil(len(diagnosis.mean_masks) / PER_ROW)
    columns = min(len(diagnosis.mean_masks), PER_ROW)
    figure = Figure(figsize=(11, 3.4 + lines * (CELL + 0.45)), facecolor="white", layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(lines * (CELL + 0.45), 2.9))
    above, below = halves
    panels = above.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for slot, (axes, mask) in enumerate(zip(panels, diagnosis.mean_masks, strict=False)):
        axes.imshow(mask.numpy(), vmin=0, vmax=1, cmap="inferno")
        axes.set_title(f"slot {slot}\n{diagnosis.slot_shares[slot]:.1%}", fontsize=8.5)
    used, use, entropy, change = below.subplots(1, 4)
    _draw_use(used, use, diagnosis.slots_used_counts, diagnosis.slot_use)
    bins = len(diagnosis.entropy_counts)
    centres = [(place + 0.5) / bins for place in range(bins)]
    entropy.bar(centres, diagnosis.entropy_counts, 0.9 / bins, color=BLUE)
    entropy.axvline(diagnosis.mask_entropy, color=FAINT, linewidth=1, linestyle="--")
    entropy.set_xlim(0, 1)
    _label(entropy, f"mask entropy (mean {diagnosis.mask_entropy:.2f})", "images")
    changes = diagnosis.attention_changes
    if changes:
        change.plot(range(2, len(changes) + 2), changes, "o-", color=BLUE, markersize=4)
    else:
        change.text(0.5, 0.5, "one iteration", ha="center", va="center", transform=change.transAxes, color=FAINT)
    change.set_ylim(0, max([0.3, *changes]) * 1.05)
    change.set_xlim(1.5, max(2, len(changes) + 1) + 0.5)
    change.xaxis.set_major_locator(MaxNLocator(integer=True))
    change.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _label(change, "iteration", "attention that moves")
    what = "where each slot owns the pixels, in no image (black) to all (yellow), and its share of the pixels"
    above.suptitle(f"{title}\n{what}" if title else what, fontsize=9.5)
    return figure


def _draw_use(used: Axes, use: Axes, counts: Sequence[int], shares: Sequence[float]) -> None:
    """Bars of how many slots images use, and of how often each slot is used."""
    for axes, values in ((used, counts), (use, shares)):
        axes.bar(range(len(values)), values, color=BLUE)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    use.set_ylim(0, 1)
    use.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _label(used, "slots used in an image", "images")
    _label(use, "slot", "images in which it is used")


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8.5)
    axes.set_ylabel(y, fontsize=8.5)
    if y == "images":
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)
    axes.spines[["right", "top"]].set_visible(False)
