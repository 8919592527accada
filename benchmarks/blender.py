"""Blender scenes in the layout of CLEVRTex, 128x128, 11 slots: zero-shot from textured scenes, and fine-tuned.

    python benchmarks/blender.py FOLDER                  # an hour and a half of one core; stop and start again at will

FOLDER holds scenes rendered with Blender (photographic textures, 3 to 10 objects) as CLEVRTex is laid out. They are not
CLEVRTex, and what is measured on them cannot be compared with what is published of it.

1. `textured-64`: the released scenes-64, 7 slots, trained on with 20,000 textured scenes of 3 to 6 objects.
2. `textured-128`: that model, grown: 11 slots (the new ones begin as those of objects, with noise), and each cell of
   its grids spans twice the pixels, so that 128x128 costs what 64x64 did; trained on with textured scenes of 3 to 10
   objects.
3. `blender-128`: the same, trained on with the training part of FOLDER.

Protocol: splits by sorted index (first 10 % test, next 10 % validation, rest training), crop 0.8, scores of the moving
average of the weights on the whole test split, masks by argmax, mIoU as CLEVRTex defines it; one seed. 1 and 2 of these
have never seen FOLDER. Results: results/blender.csv, mean and standard error over images.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import torch

import slotlab
from slotlab import hub
from slotlab.atomic import replacing
from slotlab.data import open_data, pack
from slotlab.evaluation import evaluate
from slotlab.models import Model
from slotlab.presets.config import RunConfig, run_config
from slotlab.training.checkpoint import weights_of
from slotlab.training.loop import fit

RESULTS = Path(__file__).parent / "results" / "blender.csv"
SCORES = ("ari", "fg_ari", "miou", "mbo")
COLUMNS = (
    "model",
    "data",
    "images",
    "masks",
    *(name + error for name in (*SCORES, "mse_sum") for error in ("", "_error")),
)
SLOTS = 11
TEXTURED = {
    "background_penalty": 0.004,
    "final_background_penalty": 0.0005,
    "sharing_penalty": 0.0,
    "colour_loss": 1.0,
}
LARGE = {
    "model.resolution": 128,
    "slots": SLOTS,
    "stem_stride": 4,
    "decoder.shuffle": 8,
    "learning_rate": 0.001,
    **TEXTURED,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Blender scenes in the layout of CLEVRTex")
    parser.add_argument("--steps", type=int, nargs=3, default=[6000, 1000, 2500], help="of the three trainings")
    parser.add_argument("--scenes", type=int, nargs=2, default=[20_000, 4_000], help="textured ones, 64x64 and 128x128")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/blender"), help="packed data and runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    work: Path = options.work

    textured = [work / "data-textured-64", work / "data-textured-128"]
    for folder, count, resolution, most in zip(textured, options.scenes, (64, 128), (6, 10), strict=True):
        counts = {"train": count, "val": 200, "test": 500}
        if not folder.is_dir():
            pack(
                "scenes:textured",
                folder,
                resolution=resolution,
                count=counts,
                progress=True,
                max_objects=most,
                supersample=2,
            )
    blender = work / "data-blender-128"
    if not blender.is_dir():
        pack(options.folder, blender, resolution=128, progress=True)

    small = {"start_from": "scenes-64", "learning_rate": 0.0015, **TEXTURED}
    trained = [train(work / "textured-64", textured[0], options.steps[0], small)]
    start = work / "grown"
    hub.save(grown(slotlab.load(trained[0])), start)
    trained.append(train(work / "textured-128", textured[1], options.steps[1], LARGE | {"start_from": str(start)}))
    trained.append(train(work / "blender-128", blender, options.steps[2], LARGE | {"start_from": str(trained[1])}))

    rows = scores(trained[0], "textured, 3-6 objects, 64x64", textured[0])
    for run in trained[1:]:
        rows += scores(run, "textured, 3-10 objects, 128x128", textured[1])
        rows += scores(run, "Blender scenes, 128x128", blender)
    with replacing(options.results) as path, path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)


def train(run: Path, data: Path, steps: int, changes: dict[str, Any]) -> Path:
    """Trains `run` to its last step, from where it is."""
    every = max(1, steps // 5)
    often = {"evaluate_every": every, "checkpoint_every": every, "preview_every": every}
    config: RunConfig = run_config(
        "scenes-64", {"data.source": str(data), "train_count": 0, "steps": steps, **often, **changes}
    )
    if not (run / "checkpoints" / f"step-{steps:08d}").is_dir():
        fit(config, run, resume=(run / "run.json").is_file(), show_progress=True)
    return run


def grown(model: Model) -> Model:
    """A model of `LARGE` that begins with the weights of a 64x64 one with fewer slots."""
    large = hub.model_from_config(run_config("scenes-64", LARGE).model)
    weights = model.state_dict()
    start = weights["encoder.slot_attention.start"]
    objects = torch.arange(SLOTS - start.shape[1]) % (start.shape[1] - 1) + 1
    generator = torch.Generator().manual_seed(0)
    more = start[:, objects] + 0.3 * start.std() * torch.randn(start[:, objects].shape, generator=generator)
    weights["encoder.slot_attention.start"] = torch.cat([start, more], dim=1)
    for name in ("weight", "bias"):  # each painted pixel becomes 2 x 2
        key = f"decoder.to_rgb_and_mask.{name}"
        pixels = weights[key].unflatten(0, (4, 4, 4)).repeat_interleave(2, 1).repeat_interleave(2, 2)
        weights[key] = pixels.flatten(0, 2)
    large.load_state_dict(weights)
    return large


def scores(run: Path, data: str, folder: Path) -> list[dict[str, Any]]:
    """A row for each source of masks, on the test split."""
    model = slotlab.load(run)
    test = open_data(str(folder), split="test", resolution=model.resolution)
    result = evaluate(model, test, weights=weights_of(run))
    rows = []
    for source, values in result.segmentation.items():
        row: dict[str, Any] = {"model": run.name, "data": data, "images": len(test), "masks": source}
        for name in SCORES:
            row |= {name: round(values[name].mean, 4), f"{name}_error": round(values[name].standard_error, 4)}
        squared = result.reconstruction["mse_sum"]
        rows.append(row | {"mse_sum": round(squared.mean, 1), "mse_sum_error": round(squared.standard_error, 1)})
    return rows


if __name__ == "__main__":
    main()
