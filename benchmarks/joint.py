"""Slots found by the error of the denoiser alone: slot diffusion from random weights.

    python benchmarks/joint.py                       # 10 minutes of one core for each way; re-run to resume
    python benchmarks/joint.py --ways alone --steps 20000 --work runs/longer --results longer.csv
    python benchmarks/joint.py --ways alone --variant textured --steps 5000 --work runs/textured --results textured.csv

Protocol: preset `scenes-64-diffusion` on plain scenes of 64x64 with up to 6 objects, 7 slots, in
the latents of the released model, packed once (10,000 scenes); or on textured scenes (2x2 rays), in
those of `textured-128-latents`. Slot encoder and denoiser begin with
random weights and learn together, after the warm-up at one constant rate; nothing is frozen, and
slots are the only way from the image to the denoiser. As in the preset, slots have learned starts
and the denoiser predicts the latents (`x0`). `alone` adds nothing; each other way changes one more
thing. At each validation the moving average of the weights is scored on 200 scenes; one seed.
Results: results/joint.csv.
"""

import argparse
import csv
from pathlib import Path

import torch

from slotlab.checkpoints import load_autoencoder
from slotlab.config import run_config
from slotlab.data import pack
from slotlab.files import replacing
from slotlab.runs import fit
from slotlab.training.checkpoint import read_history

PRESET = "scenes-64-diffusion"
VARIANTS = {"plain": (PRESET, 1), "textured": ("textured-128-latents", 2)}  # autoencoder, rays per pixel side
TOGETHER = {
    "encoder_learning_rate": None,
    "encoder_steps": None,
    "cross_attention_loss": 0.0,
    "schedule": "constant",
}
WAYS: dict[str, dict[str, object]] = {
    "alone": {},
    "registers": {"denoiser.registers": 7},
    "one-slot-favoured": {"mask_penalty": 0.03},
    "one-slot-favoured-late": {"mask_penalty": 0.01, "mask_penalty_start": 3000},
    "one-slot-favoured-epsilon": {"mask_penalty": 0.03, "schedule.target": "epsilon"},
}
COLUMNS = ("step", "seconds", "validation_loss", "attention_ari", "attention_fg_ari", "ari", "fg_ari", "slots_used")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--variant", choices=VARIANTS, default="plain")
    parser.add_argument("--steps", type=int, default=1500)
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
    given = {"data.source": str(data), "autoencoder.pretrained": autoencoder, **TOGETHER}
    for way in options.ways:
        changes = {"steps": options.steps, "evaluate_every": 500, **given, **WAYS[way]}
        run = options.work / way
        fit(run_config(PRESET, changes), run, resume=(run / "run.json").is_file())
    with replacing(options.results) as path, path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["way", *COLUMNS])
        for way in options.ways:
            for line in read_history(options.work / way):
                table.writerow([way, int(line["step"]), *(round(float(line[name]), 4) for name in COLUMNS[1:])])


if __name__ == "__main__":
    main()
