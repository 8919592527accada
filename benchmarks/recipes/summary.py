"""Table and curves of the study of recipes, from the CSV files that study.py wrote.

    python benchmarks/recipes/summary.py [--results benchmarks/results/recipes]

Writes table.md (mean and standard deviation over the seeds) and docs/images/recipes.png (validation
scores against training time: a line per recipe, with the range over its seeds shaded).
"""

import argparse
import csv
import statistics
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from recipes import RECIPES
from study import RESULTS, SCORES, UNSEEN, VARIANTS

from slotlab.files import replacing
from slotlab.models.output import MASK_SOURCES

Row = dict[str, str]
FIGURE = Path(__file__).parents[2] / "docs" / "images" / "recipes.png"
HEADINGS = ("data", "recipe", "masks", "seeds", "ARI", "FG-ARI", "mIoU", "mBO", "MSE x 1000")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    results = parser.parse_args().results
    scores, curves = (rows(results / name) for name in ("scores.csv", "curves.csv"))
    table = "\n\n".join(f"Trained on {variant}\n\n{score_table(scores, variant)}" for variant in VARIANTS)
    print(table)
    with replacing(results / "table.md") as path:
        path.write_text(table + "\n", encoding="utf-8")
    draw(curves, FIGURE)


def rows(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def score_table(scores: list[Row], variant: str) -> str:
    """A Markdown table: a line for each test set, recipe and source of masks."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in scores:
        if row["variant"] == variant:
            groups[row["data"], row["recipe"], row["source"]].append(row)
    for data in (variant, *UNSEEN):
        for recipe in RECIPES:
            for source in MASK_SOURCES:
                cells = groups[data, recipe, source]
                if cells:
                    numbers = [spread(cells, name) for name in SCORES] + [spread(cells, "mse", 1000, 2)]
                    lines.append("| " + " | ".join([data, recipe, source, str(len(cells)), *numbers]) + " |")
    return "\n".join(lines)


def spread(cells: list[Row], name: str, factor: float = 1, digits: int = 3) -> str:
    """Mean and standard deviation over seeds."""
    values = [float(row[name]) * factor for row in cells]
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def draw(curves: list[Row], path: Path) -> None:
    """ARI and FG-ARI of the best masks against minutes of training, a row of plots per variant."""
    shown = [variant for variant in VARIANTS if any(row["variant"] == variant for row in curves)]
    figure, axes = plt.subplots(
        len(shown), 2, figsize=(10, 3.4 * len(shown)), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for line, variant in zip(axes, shown, strict=True):
        for axis, (name, title) in zip(line, (("ari", "ARI"), ("fg_ari", "FG-ARI")), strict=True):
            for colour, recipe in zip(plt.get_cmap("tab10").colors, RECIPES, strict=False):  # pyright: ignore
                runs: dict[str, list[tuple[float, float]]] = defaultdict(list)
                for row in curves:
                    if (row["variant"], row["recipe"]) == (variant, recipe) and row[name]:
                        runs[row["seed"]].append((float(row["seconds"]) / 60, float(row[name])))
                if runs:
                    plot_spread(axis, list(runs.values()), colour, recipe)
            axis.set_title(f"{title}, {variant} (validation)", fontsize=10)
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("minutes of training")
    axes[0, 0].legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def plot_spread(axis: Axes, runs: list[list[tuple[float, float]]], colour: str, label: str) -> None:
    """The mean of several curves, and from the lowest to the highest of them."""
    times = np.mean([[time for time, _ in run] for run in runs], axis=0)
    values = np.array([[value for _, value in run] for run in runs])
    axis.plot(times, values.mean(axis=0), color=colour, label=label, marker=".")
    axis.fill_between(times, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2)


if __name__ == "__main__":
    main()
