"""Measures what is usual for bundled models with a concept library, on their own test images.

Writes src/slotlab/weights/usual.json: for each model the 99th percentile of the reconstruction
error (mean squared error of colours in [0, 1]) and of the distance of slots from the nearest slot
of its concept library. `slotlab segment` says which images are beyond them.
"""

import argparse

import numpy as np
import torch

import slotlab
from slotlab.evaluation import outputs
from slotlab.files import read_json, write_json
from slotlab.metrics.functional import squared_error
from slotlab.released import WEIGHTS
from slotlab.segmenting.image import TABLE_FILE, library_slots, slot_distance

parser = argparse.ArgumentParser(description=__doc__)
usual = ("scenes-64", "textured-64", "textured-128", "scenes-64-diffusion")
parser.add_argument("models", nargs="*", default=usual)
parser.add_argument("--count", type=int, default=500, help="test images")
options = parser.parse_args()

path = WEIGHTS / TABLE_FILE
table = read_json(path, "") if path.exists() else {}
for name in options.models:
    protocol = read_json(WEIGHTS / name / "metrics.json", "")["protocol"]
    objects = {key: protocol[key] for key in ("min_objects", "max_objects", "supersample")}
    model = slotlab.load(name)
    data = slotlab.open_data(
        protocol["data"], split="test", resolution=model.resolution, count=options.count, **objects
    )
    known = library_slots(WEIGHTS / name)
    errors, distances = [], []
    for batch, output in outputs(model, data, batch_size=20):
        errors.append(squared_error(output.reconstruction.clamp(0, 1), batch["image"], "mean"))
        distances.append(slot_distance(output.slots, known))
    error, distance = (float(np.quantile(torch.cat(values), 0.99)) for values in (errors, distances))
    table[name] = {"error": round(error, 5), "distance": round(distance, 4), "images": len(data)}
    print(name, table[name])
    write_json(path, table)
