"""What slots hold: linear probes of the shape and the pattern of objects, and the pattern of the ground.

    python benchmarks/probe.py textured-128-diffusion        # three minutes of one core

Protocol: slots of the first `--images` test scenes of `scenes:textured`, 128x128 with 2x2 rays:
those of which more than 80 % of the pixels lie on one object, and those of the background. A
logistic regression of standardised slots learns the shape (6 classes) or the pattern (14 of
objects) from the slots of four fifths of the scenes; its accuracy is that of the others. "chance"
is the share of the most frequent class. Of slot diffusion with a texture also what its two parts
hold alone: the slot as slot attention gives it, and the texture.
"""

import argparse
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import slotlab
from slotlab.composition import extract
from slotlab.files import replacing

RESULTS = Path(__file__).parent / "results" / "probe.csv"
WHOLE = 0.8  # of a slot's pixels on its object


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names or folders")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = slotlab.open_data("scenes:textured", split="test", resolution=128, count=options.images, supersample=2)
    lines = ["model,part,attribute,slots,classes,chance,accuracy"]
    for name in options.models:
        model = slotlab.load(name)
        table: Any = extract(model, data)
        whole = (table.truth_share > WHOLE) & (table.material >= 0)  # -1 is the background
        grounds = []
        for numbers in np.array_split(table.index[table.background], options.images // 100 + 1):
            grounds += [one["ground_material"] for one in slotlab.render(numbers.tolist(), resolution=128).metadata]
        probed = {
            "shape": (whole, table.shape[whole]),
            "pattern": (whole, table.material[whole]),
            "pattern of the ground": (table.background, np.unique(grounds, return_inverse=True)[1]),
        }
        dim = cast(Any, model).encoder.slot_attention.dim
        parts = {"slot": slice(None)}
        if table.slots.shape[1] > dim:
            parts = {"slot attention": slice(dim), "texture": slice(dim, None), "both": slice(None)}
        for part, columns in parts.items():
            for attribute, (kept, classes) in probed.items():
                slots, held_out = table.slots[kept][:, columns], table.position[kept] % 5 == 0
                probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
                accuracy = probe.fit(slots[~held_out], classes[~held_out]).score(slots[held_out], classes[held_out])
                counts = np.bincount(classes)
                facts = [Path(name).name, part, attribute, len(slots), (counts > 0).sum()]
                lines.append(",".join(map(str, [*facts, f"{counts.max() / len(slots):.3f}", f"{accuracy:.3f}"])))
                print(lines[-1], flush=True)
    with replacing(options.csv) as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
