"""Quality of masks: by the fit of images that are not square, and by the width of sigma.

    python benchmarks/mask_quality.py scenes-64 scenes-64-diffusion --max-objects 6     # fits
    python benchmarks/mask_quality.py scenes-64 textured-64 textured-128 --sigmas     # sigma

Fits. The first `--images` test scenes are rendered at 256x256 and cut to a centred window of each
shape. A window goes through `slotlab.segmenting`: fitted into the model's square, segmented, and
the soft masks (of the default source) brought back to the window's size before the argmax. Scores
are of the window at its own size. With "crop" the pixels outside the square are one more segment.
"letterbox, black bars" is common practice; `slotlab segment` repeats the border pixels instead.

Sigmas. The 200 validation scenes of each model's preset; `pixel_sigma` is set at inference, since
training does not depend on it; masks by argmax, mIoU as CLEVRTex defines it.
"""

import argparse
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import save

import slotlab
from slotlab.config import run_config
from slotlab.data.images import to_pixels
from slotlab.evaluation import evaluate
from slotlab.metrics import SegmentationScores
from slotlab.models import SlotModel, with_slots
from slotlab.segmenting import fitting
from slotlab.segmenting.image import owners_of, take_apart
from slotlab.training.setup import open_split

SIDE, BATCH = 256, 20
WINDOWS = {"1:1": (256, 256), "4:3": (256, 192), "3:4": (192, 256), "16:9": (256, 144), "9:16": (144, 256)}
BLACK = "letterbox, black bars"
FITS = ("letterbox", BLACK, "stretch", "crop")
SIGMAS = (None, 0.4, 0.3, 0.2, 0.1)  # None: the decoder's masks
SCORES = ("ari", "fg_ari", "miou", "mbo")
COLUMNS = ("model", "window", "fit", "ari", "fg_ari", "miou", "mbo", "standard_error_ari")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="models with slots: folders or names")
    parser.add_argument("--sigmas", action="store_true", help="compare sigmas instead of fits")
    parser.add_argument("--data", default="scenes:plain")
    parser.add_argument("--max-objects", type=int, help="for scenes")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows, columns = compare_sigmas(options.runs) if options.sigmas else compare_fits(options)
    if options.csv:
        save(rows, options.csv, columns)


def compare_sigmas(names: list[str]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    rows = []
    print(f"| model | sigma | {' | '.join(SCORES)} |")
    for name in names:
        scenes = open_split(run_config(name), "val")
        for sigma in SIGMAS:
            changes = {} if sigma is None else {"pixel_sigma": sigma}
            result = evaluate(slotlab.create_model(name, pretrained=True, **changes), scenes)
            scored = result.masks if sigma is None else result.posterior
            means = {score: round(scored[score].mean, 4) for score in SCORES}
            rows.append({"model": name, "sigma": sigma, **means})
            print(f"| `{name}` | {sigma} | {' | '.join(f'{mean:.3f}' for mean in means.values())} |", flush=True)
    return rows, ("model", "sigma", *SCORES)


def compare_fits(options: argparse.Namespace) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    scene_options = {} if options.max_objects is None else {"max_objects": options.max_objects}
    data = slotlab.open_data(options.data, split="test", resolution=SIDE, count=options.images, **scene_options)
    rows = []
    for run in options.runs:
        model = with_slots(slotlab.load(run))
        print(f"\n{run}: {model.kind}, {model.resolution}x{model.resolution}, masks: {model.finer_masks}")
        print(f"{len(data)} images of {options.data}, split test; mIoU ground-truth; {platform.machine()}")
        print(f"{'window':8}{'fit':24}{'ARI':>14}{'FG-ARI':>9}{'mIoU':>8}{'mBO':>8}")
        for window, (width, height) in WINDOWS.items():
            for fit in FITS if window != "1:1" else FITS[:1]:
                scores = score(model, data, width, height, fit)
                means = {name: round(one.mean, 4) for name, one in scores.items()}
                error = scores["ari"].standard_error
                rows.append(
                    {
                        "model": Path(run).name,
                        "window": window,
                        "fit": fit,
                        **means,
                        "standard_error_ari": round(error, 4),
                    }
                )
                ari = f"{means['ari']:.3f}±{error:.3f}"
                print(
                    f"{window:8}{fit:24}{ari:>14}{means['fg_ari']:9.3f}{means['miou']:8.3f}{means['mbo']:8.3f}",
                    flush=True,
                )
    return rows, COLUMNS


def score(model: SlotModel, data: slotlab.data.SlotDataset, width: int, height: int, fit: str) -> dict:
    """ARI, FG-ARI, mIoU and mBO of one window and fit."""
    scores = SegmentationScores("ground-truth")
    fitted = fitting(fit.partition(",")[0], (width, height), model.resolution)
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    window = np.s_[:, top : top + height, left : left + width]
    for first in range(0, len(data), BATCH):
        pixels, truth = to_pixels(data.batch(range(first, min(first + BATCH, len(data)))))
        assert truth is not None
        squares = np.stack([fitted.shown(image) for image in pixels[window]])
        if fit == BLACK:
            x, y, right, bottom = fitted.place
            bars = np.ones(squares.shape[1:3], dtype=bool)
            bars[y:bottom, x:right] = False
            squares[:, bars] = 0
        for (_, masks, _), true in zip(
            take_apart(model, list(squares), model.finer_masks, seed=0), truth[window], strict=True
        ):
            owners = owners_of(fitted.onto_image(mask) for mask in masks)
            scores.update(torch.from_numpy(owners)[None], torch.from_numpy(true)[None])
    return scores.compute()


if __name__ == "__main__":
    main()
