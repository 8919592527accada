"""How wide a sigma the posterior masks want: scores of each, on validation scenes.

    python benchmarks/sigma.py

Protocol: the 200 validation scenes of each model's preset; `pixel_sigma` is set at inference (no training depends on
it); masks by argmax, mIoU as CLEVRTex defines it.
"""

import argparse
import csv
from pathlib import Path

import torch

import slotlab
from slotlab.config import run_config
from slotlab.evaluation import evaluate
from slotlab.files import replacing
from slotlab.training.setup import open_split

RESULTS = Path(__file__).parent / "results" / "sigma.csv"
MODELS = ("scenes-64", "textured-64", "textured-128")
SIGMAS = (None, 0.4, 0.3, 0.2, 0.1)  # None: the decoder's masks as they are
SCORES = ("ari", "fg_ari", "miou", "mbo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print(f"| model | sigma | {' | '.join(SCORES)} |")
    for name in MODELS:
        scenes = open_split(run_config(name), "val")
        for sigma in SIGMAS:
            result = evaluate(slotlab.create_model(name, pretrained=True, pixel_sigma=sigma), scenes)
            means = {score: round((result.posterior or result.masks)[score].mean, 4) for score in SCORES}
            rows.append({"model": name, "sigma": sigma, **means})
            print(f"| `{name}` | {sigma} | {' | '.join(f'{mean:.3f}' for mean in means.values())} |", flush=True)
    with replacing(options.results) as path, path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ("model", "sigma", *SCORES))
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
