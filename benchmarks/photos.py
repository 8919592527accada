"""Objects in photographs: the model `photos` beside baselines that need no training.

    python benchmarks/photos.py PHOTOS MASKS            # centre squares, masks at 224x224
    python benchmarks/photos.py PHOTOS MASKS --sizes    # share of objects found, by their size
    python benchmarks/photos.py --fit PHOTOS --out DIR  # a model folder for other pictures

PHOTOS and MASKS are folders; the mask of NAME.jpg is NAME.png with the number of the instance, 0 =
no object. Printed are mean and standard error over photographs; differences below two errors are
noise. `--fit` measures the mean and the deviation of the features.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from contest import save
from PIL import Image
from torch import Tensor

import slotlab
from slotlab.data.folders import find_images
from slotlab.data.images import prepared
from slotlab.evaluation import Baseline, baselines_here
from slotlab.metrics.functional import adjusted_rand_index, mean_best_overlap, mean_iou
from slotlab.models import FeatureGrouping

SIDE = 224  # of the masks that are scored
BASELINES = {"block pattern": 6, "colour K-means": 6, "SLIC superpixels": 7, "feature K-means": 7}  # segments
SIZES = (0.1, 0.2, 0.3, 0.5, 1.0)  # of objects, in sides
Method = Callable[[Tensor], Tensor]


@torch.inference_mode()
def of_baseline(groups: Baseline, count: int, image: Tensor) -> Tensor:
    """The segments of a baseline."""
    return groups(image[None], (SIDE, SIDE), count)[0]


def of_model(name: str) -> tuple[Method, int]:
    """The finest masks of a model, resized before the argmax; and the side of its squares."""
    model = slotlab.load(name)

    @torch.inference_mode()
    def masks(image: Tensor) -> Tensor:
        output = model(image[None], torch.Generator().manual_seed(0))
        soft = output.soft_masks(model.finer_masks)  # type: ignore[union-attr]
        return torch.nn.functional.interpolate(soft, (SIDE, SIDE), mode="bilinear", antialias=True)[0].argmax(0)

    return masks, model.resolution


def segmented(
    photos: Path, masks: Path, method: Method, side: int, count: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predicted and true ids, int64 [1, 224, 224] each, of each photograph."""
    for file in find_images(photos)[:count]:
        image, _ = prepared(file, resolution=side)
        with Image.open(masks / f"{file.stem}.png") as opened:
            whole = np.asarray(opened)
        _, true = prepared(Image.fromarray(np.zeros((*whole.shape, 3), np.uint8)), whole.astype(int), resolution=SIDE)
        assert true is not None
        yield method(image)[None], true[None]


def print_sizes(pairs: Iterator[tuple[Tensor, Tensor]]) -> None:
    """By the square root of their area: number of objects, and of those that a segment fits (IoU 0.5)."""
    totals, founds = dict.fromkeys(SIZES, 0), dict.fromkeys(SIZES, 0)
    for predicted, true in pairs:
        for number in true.unique().tolist():
            own = true == number
            size = next(size for size in SIZES if float(own.float().mean()) ** 0.5 <= size)
            if number > 0:
                totals[size] += 1
                founds[size] += bool(mean_best_overlap(predicted, own.long()) > 0.5)
    for size, total in totals.items():
        print(f"up to {size:g} of the side\t{total} objects\t{founds[size] / max(total, 1):.0%} found")


def scored(photos: Path, masks: Path, method: Method, side: int, count: int | None) -> dict[str, tuple[float, float]]:
    """Mean and standard error, in %, of each score over the photographs."""
    found: dict[str, list[Tensor]] = {"ARI": [], "FG-ARI": [], "mBO": [], "mIoU (ground-truth)": []}
    for predicted, true in segmented(photos, masks, method, side, count):
        found["ARI"].append(adjusted_rand_index(predicted, true))
        found["FG-ARI"].append(adjusted_rand_index(predicted, true, foreground_only=True))
        found["mBO"].append(mean_best_overlap(predicted, true))
        found["mIoU (ground-truth)"].append(mean_iou(predicted, true, definition="ground-truth"))
    result = {}
    for name, scores in found.items():
        values = torch.cat(scores)
        values = 100 * values[~values.isnan()]
        result[name] = (float(values.mean()), float(values.std() / len(values) ** 0.5))
    return result


def fitted(photos: Path) -> FeatureGrouping:
    """A model with the mean and the deviation of the features of centre squares."""
    model = FeatureGrouping()
    images = (prepared(file, resolution=model.resolution)[0] for file in find_images(photos))
    model.encoder.fit(model.encoder.raw(image[None]) for image in images)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("masks", type=Path, nargs="?")
    parser.add_argument("--models", nargs="*", default=["photos", "textured-128"])
    parser.add_argument("--baselines", nargs="*", default=[*BASELINES])
    parser.add_argument("--count", type=int, help="only the first COUNT photographs")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--sizes", action="store_true")
    parser.add_argument("--fit", type=Path, metavar="PHOTOS")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.fit:
        with torch.inference_mode():
            slotlab.save(fitted(arguments.fit), arguments.out)
        return
    if arguments.sizes:
        return print_sizes(segmented(arguments.photos, arguments.masks, *of_model("photos"), arguments.count))
    costless = baselines_here()
    methods: dict[str, tuple[Method, int]] = {
        f"{name} {count}": (partial(of_baseline, costless[name], count), 448 if name == "feature K-means" else SIDE)
        for name, count in BASELINES.items()
        if name in arguments.baselines
    }
    methods |= {name: of_model(name) for name in arguments.models}
    rows = []
    for name, (method, side) in methods.items():
        scores = scored(arguments.photos, arguments.masks, method, side, arguments.count)
        rows.append({"method": name} | {score: f"{mean:.1f} ± {error:.1f}" for score, (mean, error) in scores.items()})
        print(*rows[-1].values(), sep="\t", flush=True)
    if arguments.csv:
        save(rows, arguments.csv, list(rows[0]))


if __name__ == "__main__":
    main()
