"""Training speed alone and beside busy processes, for values of GOMP_SPINCOUNT.

    python benchmarks/busy.py --csv benchmarks/results/busy.csv

Protocol: each turn is a process that trains `--preset` on 64 scenes:plain in memory, with
`--threads` threads, by the loop of `slotlab train` (float32, no validation). It begins to count
after `--warm-up` seconds and ends after `--seconds` more. Values take turns beside each kind of
busy processes: `training` is `slotlab train` of the same preset with one thread, `products`
multiplies matrices on one thread. `2*training` is two of them; words before it are a command that
starts each, such as "taskset -c 0 training". All of it `--rounds` times; medians count. A value is
a number of turns, `slotlab` for the package's own, `none` for libgomp's default, NAME=VALUE (such
as OMP_WAIT_POLICY=PASSIVE) for another variable in its place, or threads=N for other threads with
the package's own. Run it on a machine with no other work.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from contest import Timing, rows_of, write

from slotlab.config import run_config
from slotlab.training.loop import train_steps

IN_MEMORY = ["source=scenes:plain", "train_count=64", "validation_count=1", "steps=1000000"]
RARE = [f"{name}_every=1000000" for name in ("evaluate", "checkpoint", "preview")]
PRODUCTS = "import torch; torch.set_num_threads(1); a = torch.rand(512, 512)\nwhile True: a = (a @ a).tanh()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("values", nargs="*", default=["none", "slotlab", "1000", "3000", "10000", "50000", "threads=1"])
    parser.add_argument("--preset", default="scenes-32")
    parser.add_argument("--batch-size", type=int, help="the preset's if not given")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--warm-up", type=float, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--beside", nargs="*", default=["nothing", "training", "2*training", "2*products"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    parser.add_argument("--turn", help=argparse.SUPPRESS)  # the process of a turn, and its value
    options = parser.parse_args()
    if options.turn:
        turn(options)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # busy processes end too
    works = {
        f"training, {options.preset}, {options.threads} threads, beside {other}": other for other in options.beside
    }
    timings = {work: {value: Timing() for value in options.values} for work in works}
    for _ in range(options.rounds):
        for work, others in works.items():
            with busy(others, options.preset):
                for value in options.values:
                    wall, processor, images = measure(value)
                    timing = timings[work][value]
                    timing.wall.append(wall / images)
                    timing.processor.append(processor / images)
                    print(f"{work}, {value}: {images / wall:.1f} images/s", flush=True)
            rows = [line for name, found in timings.items() if found[options.values[0]].wall
                    for line in rows_of(name, found, "images/s", options.values[0])]  # fmt: skip
            write(rows, options.csv)  # after each part: a stopped run loses one


@contextmanager
def busy(others: str, preset: str) -> Iterator[None]:
    """Runs the processes of `others`, such as "2*training", until left."""
    *before, last = shlex.split(others)
    times, _, kind = last.rpartition("*")
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for number in range(0 if kind == "nothing" else int(times or 1)):
            run = ["-m", "slotlab", "train", preset, "--out", f"{folder}/{number}", "--threads", "1", *IN_MEMORY, *RARE]
            words = [*before, sys.executable, *(run if kind == "training" else ["-c", PRODUCTS])]
            started.append(subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"},
                                            stdout=subprocess.DEVNULL, start_new_session=True))  # fmt: skip
        try:
            time.sleep(8 if started else 0)  # until they have loaded torch
            assert all(other.poll() is None for other in started), f"{others}: could not run it"
            yield
        finally:
            for other in started:
                os.killpg(other.pid, signal.SIGKILL)
                other.wait()


def measure(value: str) -> tuple[float, float, int]:
    """Runs one turn in a new process: seconds on the clock, seconds of processors, images."""
    environment = dict(os.environ)  # with the package's own spin count, which this process has set
    name, _, text = value.rpartition("=")
    if value == "none" or (name and name != "threads"):
        environment["GOMP_SPINCOUNT"] = ""  # libgomp's own, and the package leaves it
    if value not in ("slotlab", "none") and name != "threads":
        environment[name or "GOMP_SPINCOUNT"] = text
    words = [sys.executable, __file__, *sys.argv[1:], "--turn", value]
    wall, processor, images = subprocess.run(
        words, env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    return float(wall), float(processor), int(images)


def turn(options: argparse.Namespace) -> None:
    name, _, count = options.turn.rpartition("=")
    torch.set_num_threads(int(count) if name == "threads" else options.threads)
    size = [] if options.batch_size is None else [f"batch_size={options.batch_size}"]
    config = run_config(options.preset, [*IN_MEMORY, *RARE, *size, "precision=fp32"])
    with tempfile.TemporaryDirectory() as folder:
        events = train_steps(config, Path(folder) / "run", device="cpu")
        steps = (event for event in events if event.kind == "step")
        first = next(steps).run
        wall, taken = time.perf_counter(), 0
        while first.step * config.training.batch_size < 64 or time.perf_counter() < wall + options.warm_up:
            next(steps)  # until all images are in memory
        wall, processor = time.perf_counter(), time.process_time()
        while time.perf_counter() < wall + options.seconds:
            next(steps)
            taken += 1
        print(time.perf_counter() - wall, time.process_time() - processor, taken * config.training.batch_size)
        events.close()


if __name__ == "__main__":
    main()
