"""Blender scenes in the layout of CLEVRTex, 128x128, 11 slots: zero-shot, and trained on them.

    python benchmarks/blender.py FOLDER            # some four hours of one core; re-run to resume

FOLDER holds scenes rendered with Blender (photographic textures, 3 to 10 objects) as CLEVRTex is
laid out. They are not CLEVRTex, and what is measured on them cannot be compared with what is
published of it.

Zero-shot are the released `textured-128` and `textured-128-diffusion`, which have never seen
FOLDER. Trained on its training part, each from the one before:

- `blender-128`: `textured-128` from the slots and the decoder of `textured-128-diffusion`;
- `blender-128-attention`: its slot attention learns its own posterior masks;
- `blender-128-merged`: and again, after slots of one object were merged in these masks;
- `blender-128-diffusion`: these slots, frozen, and the denoiser of `textured-128-diffusion`.

`blender-128` and `blender-128-merged` are scored on textured scenes too.

Protocol: splits by sorted index (first 10 % test, next 10 % validation, rest training), crop 0.8;
scores of the moving average of the weights on the whole test split and on 500 test scenes with
textures; masks by argmax (of the first and the last slots also after slots of one object were
merged), mIoU as CLEVRTex defines it. Results: results/blender.csv, mean and standard error over
images. Of further seeds only `blender-128-merged` is trained and scored, on Blender scenes.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from contest import save

import slotlab
from slotlab.checkpoints import load_autoencoder
from slotlab.config import run_config
from slotlab.data import SlotDataset, open_data, pack
from slotlab.evaluation import evaluate
from slotlab.runs import fit

RESULTS = Path(__file__).parent / "results" / "blender.csv"
PRESET, DIFFUSION, LATENTS = "textured-128", "textured-128-diffusion", "textured-128-latents"
FINE_TUNED = {"steps": 6000, "sharing_penalty_start": 4500, "background_penalty": 0.001, "mirror": True}
TAUGHT = {
    "steps": 400,
    "learning_rate": 0.0007,
    "warmup_steps": 30,
    "teacher_loss": 2,
    "teacher_pixels": True,
    "teacher_balance": 0.25,
    "attended": True,
    "attention_loss": 0,
    "background_penalty": 0.0002,
    "sharing_penalty_start": 0,
}
SCORES = ("ari", "fg_ari", "miou", "mbo")
COLUMNS = (
    "model",
    "seed",
    "data",
    "images",
    "masks",
    *(name + error for name in (*SCORES, "mse_sum") for error in ("", "_error")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Blender scenes in the layout of CLEVRTex")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="the first is scored in full")
    parser.add_argument("--work", type=Path, default=Path("runs/blender"), help="packed data and the runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    resolution = int(run_config(PRESET).model["resolution"])
    data = options.work / "packed"
    if not data.is_dir():
        pack(options.folder, data, resolution=resolution, latents=load_autoencoder(LATENTS, resolution))
    blender = open_data(str(data), split="test", resolution=resolution)
    textured = open_data("scenes:textured", split="test", resolution=resolution, count=500, supersample=2)
    rows = []
    for seed in options.seeds:
        first, work = seed == options.seeds[0], options.work / f"seed-{seed}"
        run = trained(PRESET, work / "blender-128", data, seed, start_from=DIFFUSION, **FINE_TUNED)
        taught = trained(PRESET, work / "blender-128-attention", data, seed, start_from=run, teacher=run, **TAUGHT)
        last = {"start_from": taught, "teacher": taught, "teacher_merged": True, **TAUGHT}
        merged = trained(PRESET, work / "blender-128-merged", data, seed, **last)
        scored = [merged]
        if first:
            parts = f"{merged},{DIFFUSION}"
            short = {"steps": 400, "warmup_steps": 50}
            diffusion = trained(DIFFUSION, work / "blender-128-diffusion", data, seed, start_from=parts, **short)
            scored = [PRESET, DIFFUSION, run, taught, merged, diffusion]
        for model in scored:
            rows += scores(model, seed, "Blender scenes, 128x128", blender)
            if model in (PRESET, merged):
                rows += scores(model, seed, "Blender scenes, 128x128", blender, merge=True)
            if first and model in (PRESET, run, merged):
                rows += scores(model, seed, "textured, 3-10 objects, 128x128", textured)
    save(rows, options.results, COLUMNS)


def trained(preset: str, run: Path, data: Path, seed: int, **changes: object) -> Path:
    """Trains a preset on Blender scenes, from the newest checkpoint of `run`."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in changes.items()}
    config = run_config(preset, {"data.source": str(data), "train_count": 0, "seed": seed, **given})
    return fit(config, run, resume=(run / "run.json").is_file())


def scores(name: str | Path, seed: int, data: str, test: SlotDataset, merge: bool = False) -> list[dict[str, Any]]:
    """A row for each source of masks."""
    result = evaluate(slotlab.load(name), test, merge=merge)
    rows = []
    for source, values in result.segmentation.items():
        row: dict[str, Any] = {
            "model": Path(name).name,
            "seed": "" if name in (PRESET, DIFFUSION) else seed,
            "data": data,
            "images": len(test),
            "masks": f"{source}, merged" if merge else source,
        }
        for score in SCORES:
            row |= {score: round(values[score].mean, 4), f"{score}_error": round(values[score].standard_error, 4)}
        squared = result.reconstruction["mse_sum"]
        rows.append(row | {"mse_sum": round(squared.mean, 1), "mse_sum_error": round(squared.standard_error, 1)})
    return rows


if __name__ == "__main__":
    main()
