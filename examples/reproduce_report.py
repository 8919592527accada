"""The report that slotlab began with, in one command: both systems, from data to numbers.

    python examples/reproduce_report.py --out runs/report      # two cores, under an hour
    python examples/reproduce_report.py --out runs/full --scale full --data data/clevrtex_full  # a GPU

Leaves one HTML page laid out like the report, with its numbers beside those measured here. Without
--data it renders scenes. Re-run the same command to resume.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import slotlab
from slotlab.cli.options import shown
from slotlab.distributed import chosen_device
from slotlab.errors import ConfigError, SlotlabError
from slotlab.fidelity import open_network
from slotlab.files import Workspace
from slotlab.reporting.reproduction import measure, write_reproduction
from slotlab.runs import train
from slotlab.training.loop import TrainingStopped

ATTENTION, LATENTS, DIFFUSION = "slot-attention", "latents", "slot-diffusion"
TINY = {"steps": 2, "batch_size": 2, "warmup_steps": 1, "validation_count": 4, "resolution": 32}
SMALL = {"evaluate_every": 500, "preview_every": 500, "validation_count": 100}
ON_SLOTS = {"start_from": ATTENTION, "pretrained": LATENTS}  # folders of stages
LIKE_REPORT = {"slots": 11, "max_objects": 10}  # of CLEVRTex; the small presets are made for less
STAGES = {  # folder, preset, changes
    "tiny": [
        (ATTENTION, "scenes-32", TINY),
        (LATENTS, "scenes-64-latents", TINY),
        (DIFFUSION, "scenes-64-diffusion", TINY | ON_SLOTS),
    ],
    "small": [
        ("slots-32", "scenes-32", SMALL | {"steps": 2000}),
        (ATTENTION, "scenes-64", SMALL | {"steps": 3000, "sharing_penalty_start": 2000, "start_from": "slots-32"}),
        (LATENTS, "scenes-64-latents", SMALL | {"steps": 3000}),
        (DIFFUSION, "scenes-64-diffusion", SMALL | ON_SLOTS | {"steps": 1500, "encoder_steps": 500}),
    ],
    "full": [
        (ATTENTION, "slot-attention-clevrtex", {}),
        (LATENTS, "latents-clevrtex", {}),
        (DIFFUSION, "slot-diffusion-clevrtex", {"pretrained": LATENTS}),
    ],
}
SCALES = {  # images in test, train and val; data without --data; features of the distance
    "tiny": ({"test": 4, "train": 24, "val": 4}, "scenes:plain", "efficientnet-lite0"),
    "small": ({"test": 500, "train": 1000, "val": 500}, "scenes:plain", "efficientnet-lite0"),
    "full": ({"test": 10_000, "train": 10_000, "val": 10_000}, "scenes:textured", "inception"),
}


def reproduce(out: Path, scale: str, data: str | None, features: str | None, device: str) -> Path:
    """Trains, measures and writes the page; what an earlier call finished is kept."""
    counts, scenes, usual = SCALES[scale]
    source = data or scenes
    if not getattr(slotlab.open_data(source, split="test"), "splits", True):
        raise ConfigError(f"{source}: has no training split (outd of CLEVRTex is for tests only); give full")
    network = open_network(features or usual, device=device)  # now, not after hours of training
    settings = {"scale": scale, "data": source, "features": network.name}
    work = Workspace(out, "reproduction.json", settings, "a reproduction")
    work.check()
    work.begin()
    folders = {stage: str(out / stage) for stage, *_ in STAGES[scale]}
    for stage, preset, changes in STAGES[scale]:
        changes: dict[str, Any] = {key: folders.get(str(value), value) for key, value in changes.items()}
        if data is not None and stage != LATENTS:
            changes |= LIKE_REPORT
        if scale == "full" and not source.startswith("scenes:"):  # those are rendered on the GPU
            changes["workers"] = 8
        print(f"training {stage}", flush=True)
        resume = (out / stage / "run.json").is_file()
        train(preset, out=out / stage, data=source, resume=resume, device=device, **changes)
    for run in (runs := [out / ATTENTION, out / DIFFUSION]):
        shown(run.name, None, measure.steps(run, counts, network, device))
    return write_reproduction(out / "report.html", runs, before=list(folders.values()), device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/report"), help="a new folder, or one to resume")
    parser.add_argument("--scale", choices=STAGES, default="small", help="tiny is for tests (default: small)")
    parser.add_argument("--data", help="CLEVRTex, or other images with masks; without, scenes are rendered")
    parser.add_argument("--features", help="of the distance: inception, efficientnet-lite0, or a TorchScript file")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    options = parser.parse_args()
    try:
        device = chosen_device(options.device)
        print(reproduce(options.out, options.scale, options.data, options.features, device))
    except TrainingStopped:
        sys.exit("stopped, and saved: re-run the same command to resume")
    except SlotlabError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
