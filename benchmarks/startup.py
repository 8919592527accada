"""Time until the command line answers, beside what Python and torch take by themselves.

    python benchmarks/startup.py [--rounds 7]

Protocol. Each command runs in a new process, in turns, its files in the page cache; the first round
is not counted. Processor time is that of the process and its children.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from contest import Timing, rows_of, write

COMMANDS = {
    "python, nothing": ["-c", ""],
    "python, import torch": ["-c", "import torch"],
    "python, import slotlab": ["-c", "import slotlab"],
    "slotlab --help": ["-m", "slotlab", "--help"],
    "slotlab train --help": ["-m", "slotlab", "train", "--help"],
    "slotlab models": ["-m", "slotlab", "models"],
    "slotlab train with a wrong key": ["-m", "slotlab", "train", "scenes-32", "--out", "unused", "stepz=1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    timings = {name: Timing() for name in COMMANDS}
    for turn in range(options.rounds + 1):
        for name, words in COMMANDS.items():
            wall, before = time.perf_counter(), os.times()
            subprocess.run([sys.executable, *words], capture_output=True, check=False)
            after = os.times()
            if turn:
                timings[name].wall.append(time.perf_counter() - wall)
                spent = after.children_user + after.children_system - before.children_user - before.children_system
                timings[name].processor.append(spent)
    write(rows_of("command", timings), options.csv)


if __name__ == "__main__":
    main()
