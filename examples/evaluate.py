"""Score a model under a stated protocol, and see the loop behind the scores.

    python examples/evaluate.py --model scenes-64 --data scenes:plain --count 500

Prints every score with its standard error and the protocol that it belongs to. The second part
computes FG-ARI by hand in a loop over the data set.
"""

import argparse

import torch

import slotlab
from slotlab.evaluation import outputs
from slotlab.metrics.functional import adjusted_rand_index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-64", help="a bundled name, a run folder, or a name on the hub")
    parser.add_argument("--data", default="scenes:plain", help="a data set, or scenes:VARIANT")
    parser.add_argument("--split", default="test", choices=("train", "val", "test", "all"))
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()

    model = slotlab.load(options.model)
    scenes = {"max_objects": 6} if options.data.startswith("scenes:") else {}
    data = slotlab.open_data(
        options.data, split=options.split, resolution=model.resolution, count=options.count, **scenes
    )
    evaluation = slotlab.evaluate(model, data)
    for key, value in evaluation.protocol.items():
        print(f"{key}: {value}")
    for source, scores in evaluation.segmentation.items():
        print(f"{source}: " + ", ".join(f"{name} {score}" for name, score in scores.items()))

    values = [
        adjusted_rand_index(output.segmentation(), batch["mask"], foreground_only=True)
        for batch, output in outputs(model, data)
    ]
    print(f"FG-ARI of the decoder masks, by hand: {torch.cat(values).mean():.4f}")


if __name__ == "__main__":
    main()
