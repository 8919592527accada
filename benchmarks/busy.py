"""Training speed alone and beside busy processes, for values of GOMP_SPINCOUNT.

    python benchmarks/busy.py --csv benchmarks/results/busy.csv

Protocol: each turn is a process that takes `--warm-up` training steps and then `--steps` more of
`--preset` on scenes:plain in memory, with `--threads` threads, by the loop of `slotlab train`
(float32, no validation). Values take turns, alone first and then beside `--beside` processes that
multiply matrices on one thread each, `--rounds` times; medians count. A value is a number of turns,
`slotlab` for the package's own, `none` for libgomp's default, or NAME=VALUE (such as
OMP_WAIT_POLICY=PASSIVE) for another variable in its place. Run it on a machine with no other work.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from contest import Timing, rows_of, write

from slotlab.config import run_config
from slotlab.training.loop import train_steps

BUSY = "import torch; torch.set_num_threads(1); a = torch.rand(512, 512)\nwhile True: a = (a @ a).tanh()"
ENDLESS = str(2**63 - 1)  # turns: what libgomp does by itself while threads are not more than cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("values", nargs="*", default=["slotlab", "none", "1000", "10000", "50000", "200000"])
    parser.add_argument("--preset", default="scenes-32")
    parser.add_argument("--batch-size", type=int, help="the preset's if not given")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--beside", type=int, default=2, help="busy processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    parser.add_argument("--turn", action="store_true", help=argparse.SUPPRESS)  # the process of a turn
    options = parser.parse_args()
    if options.turn:
        turn(options)
        return
    works = [f"training, {options.preset}, {options.threads} threads, {place}" for place in ("alone", "beside")]
    timings = {work: {value: Timing() for value in options.values} for work in works}
    for _ in range(options.rounds):
        for work, processes in zip(works, (0, options.beside), strict=True):
            others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
            try:
                time.sleep(5 if others else 0)  # until they have loaded torch
                for value in options.values:
                    wall, processor, images = measure(value)
                    timing = timings[work][value]
                    timing.wall.append(wall)
                    timing.processor.append(processor)
                    timing.count = images
                    print(f"{work}, {value}: {images / wall:.1f} images/s", flush=True)
            finally:
                for other in others:
                    other.kill()
                    other.wait()
            rows = [line for name, found in timings.items() if found[options.values[0]].wall
                    for line in rows_of(name, found, "images/s", options.values[0])]  # fmt: skip
            write(rows, options.csv)  # after each part: a stopped run loses one


def measure(value: str) -> tuple[float, float, int]:
    """Runs one turn in a new process: seconds on the clock, seconds of processors, images."""
    environment = {name: text for name, text in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if value in ("slotlab", "none"):  # `slotlab` set this process's own, before a turn loads torch
        environment["GOMP_SPINCOUNT"] = os.environ["GOMP_SPINCOUNT"] if value == "slotlab" else ENDLESS
    else:
        name, _, text = value.rpartition("=")
        environment[name or "GOMP_SPINCOUNT"] = text
        if name:  # the package's own spin count would hide what the other variable does
            environment["GOMP_SPINCOUNT"] = ""
    words = [sys.executable, __file__, *sys.argv[1:], "--turn"]
    wall, processor, images = subprocess.run(
        words, env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    return float(wall), float(processor), int(images)


def turn(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    rare = [f"{name}_every=1000000" for name in ("evaluate", "checkpoint", "preview")]
    size = [] if options.batch_size is None else [f"batch_size={options.batch_size}"]
    changes = ["source=scenes:plain", "train_count=256", "validation_count=1", "precision=fp32", "steps=1000000"]
    config = run_config(options.preset, [*changes, *rare, *size])
    with tempfile.TemporaryDirectory() as folder:
        events = train_steps(config, Path(folder) / "run", device="cpu")
        steps = (event for event in events if event.kind == "step")
        first = next(steps).run
        while first.step * config.training.batch_size < 256 or first.step < options.warm_up:
            next(steps)  # until all images are in memory
        wall, processor = time.perf_counter(), time.process_time()
        taken = sum(1 for _ in islice(steps, options.steps))
        print(time.perf_counter() - wall, time.process_time() - processor, taken * config.training.batch_size)
        events.close()


if __name__ == "__main__":
    main()
