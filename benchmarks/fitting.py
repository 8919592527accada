"""Quality of masks of images that are not square, for each way of fitting them into the square that a model takes.

    python benchmarks/fitting.py runs/slots --max-objects 6

Protocol. The first `--images` test scenes are rendered at 256x256 and cut to a centred window of each shape, so that
true masks are known. The window goes through `slotlab.segmenting`: fitted, taken apart, and the soft masks (of the
source that `slotlab segment` uses by default) brought back to the window's size before the argmax. Scores are those of
the window at its own size. With "crop" the pixels that the model does not see are one more segment. "letterbox, black
bars" is what is often done; `slotlab segment` repeats the border pixels instead.
"""

import argparse
import csv
import platform
from pathlib import Path

import numpy as np
import torch

import slotlab
from slotlab.composition.slots import with_slots
from slotlab.data.images import to_pixels
from slotlab.metrics import SegmentationScores
from slotlab.models import SlotModel
from slotlab.segmenting import fitting
from slotlab.segmenting.image import owners_of, take_apart

SIDE, BATCH = 256, 20
WINDOWS = {"1:1": (256, 256), "4:3": (256, 192), "3:4": (192, 256), "16:9": (256, 144), "9:16": (144, 256)}
BLACK = "letterbox, black bars"
FITS = ("letterbox", BLACK, "stretch", "crop")
COLUMNS = ("model", "window", "fit", "ari", "fg_ari", "miou", "mbo", "standard_error_ari")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of models with slots")
    parser.add_argument("--data", default="scenes:plain")
    parser.add_argument("--max-objects", type=int, help="for scenes")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
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
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def score(model: SlotModel, data: slotlab.data.SlotDataset, width: int, height: int, fit: str) -> dict:
    """ARI, FG-ARI, mIoU and mBO of one window and fit."""
    scores = SegmentationScores("ground-truth")
    fitted = fitting(fit.partition(",")[0], (width, height), model.resolution)
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    window = np.s_[:, top : top + height, left : left + width]
    for first in range(0, len(data), BATCH):
        pixels, truth = to_pixels(data.batch(range(first, min(first + BATCH, len(data)))))
        assert truth is not None
        squares = np.stack([fitted.into_square(image) for image in pixels[window]])
        if fit == BLACK:
            x, y, right, bottom = fitted.place
            bars = np.ones(squares.shape[1:3], dtype=bool)
            bars[y:bottom, x:right] = False
            squares[:, bars] = 0
        for parts, true in zip(take_apart(model, squares, model.finer_masks, seed=0), truth[window], strict=True):
            owners = owners_of(fitted.onto_image(mask) for mask in parts.masks)
            scores.update(torch.from_numpy(owners)[None], torch.from_numpy(true)[None])
    return scores.compute()


if __name__ == "__main__":
    main()
