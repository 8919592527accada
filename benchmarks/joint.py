"""Slots found by the error of the denoiser alone: slot diffusion from random weights.

    python benchmarks/joint.py                       # three and a half hours of one core; re-run to resume
    python benchmarks/joint.py --ways alone --variant textured --steps 4000

Protocol: preset `scenes-64-diffusion-joint` on plain scenes of 64x64 with up to 6 objects, 7 slots,
in the latents of `scenes-64-diffusion`, packed once (10,000 scenes); or on textured scenes (2x2
rays), in those of `textured-128-latents`. Slot encoder and denoiser begin with random weights and
learn together, after the warm-up at one constant rate; nothing is frozen, and slots are the only
way from the image to the denoiser. Slots have learned starts and the denoiser predicts the latents
(`x0`). `one-slot-favoured-late` is the preset, with `mask_penalty` 0.01 from step 3,000 on, and
`half-as-much-late` has 0.005; `alone` has none, `one-slot-favoured` 0.03 from the first step on. At
each validation the moving average of the weights is scored on 200 scenes; one seed. Results:
results/joint.csv, where rows of other ways are kept.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import torch
from contest import save

from slotlab.checkpoints import load_autoencoder
from slotlab.config import run_config
from slotlab.data import pack
from slotlab.runs import fit
from slotlab.training.checkpoint import read_history

PRESET = "scenes-64-diffusion-joint"
VARIANTS = {"plain": ("scenes-64-diffusion", 1), "textured": ("textured-128-latents", 2)}  # autoencoder, rays a side
ALONE: dict[str, object] = {"mask_penalty": 0.0}
WAYS: dict[str, dict[str, object]] = {
    "alone": ALONE,
    "registers": {**ALONE, "denoiser.registers": 7},
    "one-slot-favoured": {"mask_penalty": 0.03, "mask_penalty_start": 0},
    "one-slot-favoured-epsilon": {"mask_penalty": 0.03, "mask_penalty_start": 0, "schedule.target": "epsilon"},
    "one-slot-favoured-late": {},
    "half-as-much-late": {"mask_penalty": 0.005},
}
STEPS = {"alone": 3500, "one-slot-favoured-late": 6000, "half-as-much-late": 6000}  # of others 1,500
SCORES = ("seconds", "validation_loss", "attention_ari", "attention_fg_ari", "ari", "fg_ari", "slots_used")
COLUMNS: tuple[str, ...] = ("variant", "way", "step", *SCORES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--variant", choices=VARIANTS, default="plain")
    parser.add_argument("--steps", type=int, help="of each way (by default 1,500 to 6,000)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/joint"), help="packed data and the runs")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "joint.csv")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = options.work / options.variant
    autoencoder, rays = VARIANTS[options.variant]
    if not data.is_dir():
        pack(
            f"scenes:{options.variant}",
            data,
            resolution=64,
            max_objects=6,
            supersample=rays,
            count={"train": 10_000, "val": 200, "test": 500},
            latents=load_autoencoder(autoencoder, 64),
        )
    given = {"data.source": str(data), "autoencoder.pretrained": autoencoder, "evaluate_every": 500}
    rows: list[dict[str, Any]] = []
    for way in options.ways:
        changes = {"steps": options.steps or STEPS.get(way, 1500), **given, **WAYS[way]}
        run = options.work / f"{options.variant}-{way}"
        fit(run_config(PRESET, changes), run, resume=(run / "run.json").is_file())
        for line in read_history(run):
            facts = {"variant": options.variant, "way": way, "step": int(line["step"])}
            rows.append({**facts, **{name: round(float(line[name]), 4) for name in SCORES}})
    if options.results.is_file():
        with options.results.open(newline="", encoding="utf-8") as file:
            new = {(options.variant, way) for way in options.ways}
            rows = [row for row in csv.DictReader(file) if (row["variant"], row["way"]) not in new] + rows
    save(rows, options.results, COLUMNS)


if __name__ == "__main__":
    main()
