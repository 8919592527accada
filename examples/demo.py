"""The whole path from an empty folder to discovered objects; `make demo` runs it.

    python examples/demo.py --out runs/quick steps=200

First it trains a model for three to ten minutes. Then the bundled models, which trained for longer,
segment scenes that they never saw, compose new ones, and remove an object from one; and the model
photos takes five photographs apart. Re-run the same command to resume.
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from slotlab.config import read_run_config
from slotlab.reporting.tables import evaluate_command


def main() -> None:
    """Trains, evaluates on new scenes and makes the report; then runs the bundled models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="the run folder (default: runs/demo)")
    parser.add_argument("--preset", default="scenes-32", help="which recipe (default: scenes-32)")
    parser.add_argument("--images", type=int, default=500, help="held-out scenes to score (default: 500)")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the preset")
    arguments = parser.parse_intermixed_args()
    run, started = arguments.out, time.monotonic()

    resume = ["--resume"] if (run / "run.json").is_file() else []
    slotlab("train", arguments.preset, *arguments.changes, "--out", run, *resume)
    data = read_run_config(run / "run.json").data
    _, *scored = shlex.split(evaluate_command(str(run), data.source, data.model_dump()))
    slotlab(*scored, "--split", "test", "--count", arguments.images)
    slotlab("report", run)
    trained = time.monotonic()
    figures = bundled_models(run / "bundled")
    ended = time.monotonic()
    print(
        f"\nDone: training and report in {(trained - started) / 60:.1f} minutes, the rest in {ended - trained:.0f} s."
    )
    print(f"Open in a browser: {(run / 'report.html').resolve()}")
    print("What the bundled models do:", *(f"  {figure.resolve()}" for figure in figures), sep="\n")


def bundled_models(out: Path) -> list[Path]:
    """Runs the bundled models on scenes that no training saw; returns the figures to look at."""
    overlay, image = segmented("scenes-64", "plain", out)
    textured, _ = segmented("textured-128", "textured", out)
    largest = largest_object(overlay.with_name(f"{image.stem}_segmentation.png"))
    slotlab("edit", "scenes-64", image, "--remove", largest, "--out", out / "edited")
    diffusion = "scenes-64-diffusion"
    slotlab(
        "compose", diffusion, diffusion, "--protocol", "scene", "--count", 8, "--seed", 1, "--out", out / "composed"
    )
    slotlab("data", "samples", out / "photographs")
    slotlab("segment", out / "photographs", "--out", out / "objects")
    photograph = out / "objects" / "bus_overlay.png"
    return [overlay, textured, out / "edited" / "edit.png", out / "composed" / "sheet.png", photograph]


def segmented(model: str, variant: str, out: Path) -> tuple[Path, Path]:
    """Scores a model on eight new scenes, segments three; returns the first overlay and image."""
    scenes, segments = out / f"scenes-{variant}", out / f"segments-{variant}"
    slotlab(
        "scenes", "write", scenes, "--variant", variant, "--count", 8, "--size", 256, "--seed", 1, "--max-objects", 6
    )
    slotlab("evaluate", model, "--data", scenes, "--split", "all", "--crop", 1)
    images = sorted(path for path in scenes.rglob("CLEVRTEX_*.png") if path.stem[-6:].isdigit())
    slotlab("segment", *images[:3], "--model", model, "--out", segments)
    return segments / f"{images[0].stem}_overlay.png", images[0]


def largest_object(segmentation: Path) -> int:
    """The slot that owns the most pixels after the background's."""
    with Image.open(segmentation) as image:
        return int(np.bincount(np.asarray(image).flat).argsort()[-2])


def slotlab(*words: object) -> None:
    """Shows and runs a `slotlab` command; ends the demo with its status if it fails."""
    command = [str(word) for word in words]
    print(f"\n$ slotlab {shlex.join(command)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "slotlab", *command], check=False).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
