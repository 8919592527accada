"""What `make demo` runs: the whole path from an empty folder to discovered objects, with the commands it takes.

Goes on where an interrupted demo stopped. Options, also as `make demo ARGS="..."`: --out FOLDER, --preset NAME,
and key=value changes to the preset, e.g. `make demo ARGS="steps=200 --out runs/quick"`.
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Renders scenes, trains, evaluates on scenes never seen, and makes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="the run folder (default: runs/demo)")
    parser.add_argument("--preset", default="scenes-32", help="which recipe (default: scenes-32)")
    parser.add_argument("--images", type=int, default=500, help="held-out scenes to score (default: 500)")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the preset")
    arguments = parser.parse_args()
    run, started = arguments.out, time.monotonic()

    resume = ["--resume"] if (run / "run.json").is_file() else []
    slotlab("train", arguments.preset, *arguments.changes, "--out", run, *resume)
    held_out = ["--data", "scenes:plain", "--split", "test", "--count", arguments.images, "--max-objects", 6]
    slotlab("evaluate", run, *held_out)
    slotlab("report", run)
    minutes = (time.monotonic() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes. Open {(run / 'report.html').resolve()} in a browser.")


def slotlab(*words: object) -> None:
    """Shows and runs a `slotlab` command; ends the demo with its status if it fails."""
    command = [str(word) for word in words]
    print(f"\n$ slotlab {shlex.join(command)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "slotlab", *command], check=False).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
