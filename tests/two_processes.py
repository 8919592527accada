"""What test_distributed.py runs under torchrun: every kind of work that processes share."""

import os
import sys
from pathlib import Path

import torch

import slotlab
from slotlab.composition import compose, fit_library, score_compositions
from slotlab.config import run_config
from slotlab.data import open_data
from slotlab.distributed import joined
from slotlab.fidelity import open_network
from slotlab.progress import finish
from slotlab.training.loop import train_steps


def share_the_work(preset: str, data: str, out: Path, features: str) -> None:
    """Trains two steps; evaluates, extracts, composes and scores; with odd counts."""
    torch.set_num_threads(1)
    config = run_config(preset, {"data.source": data, "steps": 2, "checkpoint_every": 1})
    finish(train_steps(config, out / "run", device="cpu"))
    moving = {"data.source": "scenes:moving", "data.frames": 3, "data.min_objects": 1, "data.train_count": 8}
    config = run_config(preset, {**moving, "steps": 2, "checkpoint_every": 1, "prediction_loss": 0.1})
    config = config.model_copy(update={"model": {**config.model, "video": {"later_iterations": 2}}})
    finish(train_steps(config, out / "clips", device="cpu"))
    torch.manual_seed(0)
    model = slotlab.create_model(preset)
    with joined("cpu") as (_, place):
        images = open_data(data, split="all", resolution=16, count=7)
        slotlab.evaluate(model, images, batch_size=2).write(out / f"metrics-{place.rank}.json")
        clips = open_data("scenes:moving", split="test", resolution=16, count=3, frames=3, min_objects=1)
        slotlab.evaluate(model, clips, batch_size=2).write(out / f"clips-{place.rank}.json")
        library = fit_library(model, images, out / "library", batch_size=2)
        compose(model, library, out / "new", count=7, batch_size=2)
        scores = score_compositions(model, library, out / "new", images, open_network(features))
        assert scores.results["report"].generated.count == 7
        pictures = sorted(Path(data, "images").glob("*.png"))[:7]
        listing = slotlab.segment(model, pictures, out=out / "segments", batch_size=2)
        assert [outcome.name for outcome in listing.outcomes] == [picture.stem for picture in pictures]


def die_in_the_middle(preset: str, data: str, out: Path) -> None:
    """The second process ends without a word after step 8."""
    config = run_config(preset, {"data.source": data})
    for event in train_steps(config, out / "run", device="cpu"):
        if os.environ["RANK"] == "1" and event.run.step == 8:
            os._exit(9)


if __name__ == "__main__":
    task, preset, data, out, *more = sys.argv[1:]
    {"share": share_the_work, "die": die_in_the_middle}[task](preset, data, Path(out), *more)
