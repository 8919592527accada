"""Measures video models on moving scenes: scores of clips, or the speed and memory of a stream.

    python benchmarks/video.py scores NAME ...     # each on the same test clips; image models are tracked
    python benchmarks/video.py speed NAME ...      # frames per second on one thread, memory after 50 and 300

`scores` writes results/video.csv: ARI, FG-ARI and mBO of whole clips, identity and switches
(docs/metrics.md), with standard errors over clips, from the model's finest masks. NAME is what
`slotlab.load` takes; its row replaces the one of the same name and data. `speed` writes
results/video-speed.csv.
"""

import argparse
import csv
import resource
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from contest import save

import slotlab
from slotlab.evaluation import outputs
from slotlab.metrics import VideoScores
from slotlab.models import ClipModel, TrackedModel

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scores", "speed"))
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", default="scenes:moving")
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=200, help="clips")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--max-objects", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    (scores if options.what == "scores" else speed)(options)


def scores(options: argparse.Namespace) -> None:
    protocol = {name: getattr(options, name) for name in ("split", "count", "frames", "max_objects")}
    for name in options.models:
        model = slotlab.load(name)
        data = slotlab.open_data(options.data, resolution=model.resolution, **protocol)
        found = VideoScores()
        for batch, output in outputs(model, data, batch_size=4):
            maps = output.segmentation(model.finer_masks), batch.get("mask", torch.empty(0))
            found.update(*(one.unflatten(0, (-1, options.frames)) for one in maps))
        how = "start from the frame before" if isinstance(model, ClipModel) else "matched (Hungarian)"
        row = {"model": Path(name).name, "data": options.data, "slots": how, "masks": model.finer_masks, **protocol}
        for key, score in found.compute().items():
            row |= {key: f"{score.mean:.4f}", f"{key} ±": f"{score.standard_error:.4f}"}
        print(row, flush=True)
        write(RESULTS / "video.csv", row, ("model", "data", "split", "count", "frames"))


def speed(options: argparse.Namespace) -> None:
    clip, _ = slotlab.render_video(0, frames=10, max_objects=options.max_objects)
    for name in options.models:
        model = slotlab.load(name)
        video = model if isinstance(model, ClipModel) else TrackedModel(model)
        memory, start = {}, 0.0
        for number, _ in enumerate(video.stream(clip[frame % 10] for frame in range(300)), 1):
            if number in (50, 300):
                memory[number] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            if number == 50:  # the first ones warm up
                start = time.process_time()
        row = {"model": Path(name).name, "frames per second": f"{250 / (time.process_time() - start):.1f}"}
        row |= {f"MiB after {number} frames": f"{size:.0f}" for number, size in memory.items()}
        print(row, flush=True)
        write(RESULTS / "video-speed.csv", row, ("model",))


def write(path: Path, row: Mapping[str, object], keys: tuple[str, ...]) -> None:
    """Puts a row into a CSV file, in the place of the one with the same keys."""
    text = {name: str(value) for name, value in row.items()}
    rows = [*csv.DictReader(path.open(encoding="utf-8"))] if path.exists() else []
    rows = [one for one in rows if any(one[key] != text[key] for key in keys)] + [text]
    save(rows, path, list(text))


if __name__ == "__main__":
    main()
