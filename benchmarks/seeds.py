"""How much a recipe depends on its seed: a released model beside runs with other seeds.

    slotlab train textured-64 --out runs/textured-64-seed1 seed=1 --threads 2
    slotlab train textured-64 --out runs/textured-64-seed2 seed=2 --threads 2
    python benchmarks/seeds.py textured-64 runs/textured-64-seed1 runs/textured-64-seed2

Protocol: 500 test scenes of the preset's data; masks by argmax, mIoU as CLEVRTex defines it; moving
average of the weights where the preset has one, the released ones in float16. Writes the mean over
images of each run (results/seeds-PRESET.csv), and prints a table with mean and standard deviation
over the runs.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from contest import save

import slotlab
from slotlab.config import run_config
from slotlab.data import open_data
from slotlab.evaluation import evaluate
from slotlab.training.checkpoint import weights_of

RESULTS = Path(__file__).parent / "results"
COUNT = 500
DIGITS = {"ari": 3, "fg_ari": 3, "miou": 3, "mbo": 3, "mse_sum": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", help="one that a model is released of")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs of that preset, with other seeds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, help="a CSV file; default: results/seeds-PRESET.csv")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for run in (options.preset, *options.runs):
        rows += scores(options.preset, run)
    save(rows, options.results or RESULTS / f"seeds-{options.preset}.csv", ("run", "masks", *DIGITS))
    print(markdown(rows))


def scores(preset: str, run: str | Path) -> list[dict[str, Any]]:
    """A row for each source of masks."""
    data = run_config(preset).data
    model = slotlab.load(run)
    scenes = open_data(
        data.source,
        split="test",
        resolution=model.resolution,
        count=COUNT,
        min_objects=data.min_objects,
        max_objects=data.max_objects,
        supersample=data.supersample,
    )
    result = evaluate(model, scenes, weights=weights_of(run) if isinstance(run, Path) else None)
    squared = {"mse_sum": round(result.reconstruction["mse_sum"].mean, 2)}
    return [
        {"run": Path(run).name, "masks": source}
        | {name: round(values[name].mean, 4) for name in DIGITS if name in values}
        | squared
        for source, values in result.segmentation.items()
    ]


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line for each run and source of masks, then one for each source over the runs."""
    lines = ["| run | masks | ARI | FG-ARI | mIoU | mBO | MSE (sum) |", "|" + " --- |" * 7]
    for row in rows:
        values = " | ".join(f"{row[name]:.{digits}f}" for name, digits in DIGITS.items())
        lines.append(f"| `{row['run']}` | {row['masks']} | {values} |")
    for source in dict.fromkeys(row["masks"] for row in rows):
        values = " | ".join(
            spread([row[name] for row in rows if row["masks"] == source], digits) for name, digits in DIGITS.items()
        )
        lines.append(f"| mean ± standard deviation | {source} | {values} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
