"""Blender scenes in the layout of CLEVRTex, 128x128, 11 slots: zero-shot, and fine-tuned.

    python benchmarks/blender.py FOLDER            # 40 minutes of two cores; re-run to resume

FOLDER holds scenes rendered with Blender (photographic textures, 3 to 10 objects) as CLEVRTex is
laid out. They are not CLEVRTex, and what is measured on them cannot be compared with what is
published of it.

Two models: the released `textured-128`, which has never seen FOLDER, and `blender-128`, which is
the same, trained on with the training part of FOLDER by the same settings. Both are scored on
textured scenes too.

Protocol: splits by sorted index (first 10 % test, next 10 % validation, rest training), crop 0.8;
scores of the moving average of the weights on the whole test split and on 500 test scenes with
textures; masks by argmax, mIoU as CLEVRTex defines it; one seed. Results: results/blender.csv, mean
and standard error over images.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import torch

import slotlab
from slotlab.config import run_config
from slotlab.data import SlotDataset, open_data, pack
from slotlab.evaluation import evaluate
from slotlab.files import replacing
from slotlab.runs import fit

RESULTS = Path(__file__).parent / "results" / "blender.csv"
PRESET = "textured-128"
SCORES = ("ari", "fg_ari", "miou", "mbo")
COLUMNS = (
    "model",
    "data",
    "images",
    "masks",
    *(name + error for name in (*SCORES, "mse_sum") for error in ("", "_error")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Blender scenes in the layout of CLEVRTex")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/blender"), help="packed data and the run")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    resolution = int(run_config(PRESET).model["resolution"])
    data = options.work / "data"
    if not data.is_dir():
        pack(options.folder, data, resolution=resolution)
    run = trained(options.work / "blender-128", data)

    tests = {
        "textured, 3-10 objects, 128x128": open_data(
            "scenes:textured", split="test", resolution=resolution, count=500, supersample=2
        ),
        "Blender scenes, 128x128": open_data(str(data), split="test", resolution=resolution),
    }
    rows = []
    for model in (PRESET, run):
        for name, test in tests.items():
            rows += scores(model, name, test)
    with replacing(options.results) as path, path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)


def trained(run: Path, data: Path) -> Path:
    """Fine-tunes the released model on Blender scenes, from the newest checkpoint of `run`."""
    config = run_config(PRESET, {"data.source": str(data), "train_count": 0, "start_from": PRESET})
    return fit(config, run, resume=(run / "run.json").is_file())


def scores(name: str | Path, data: str, test: SlotDataset) -> list[dict[str, Any]]:
    """A row for each source of masks."""
    result = evaluate(slotlab.load(name), test)
    rows = []
    for source, values in result.segmentation.items():
        row: dict[str, Any] = {"model": Path(name).name, "data": data, "images": len(test), "masks": source}
        for score in SCORES:
            row |= {score: round(values[score].mean, 4), f"{score}_error": round(values[score].standard_error, 4)}
        squared = result.reconstruction["mse_sum"]
        rows.append(row | {"mse_sum": round(squared.mean, 1), "mse_sum_error": round(squared.standard_error, 1)})
    return rows


if __name__ == "__main__":
    main()
