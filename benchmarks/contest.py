"""Shared by the speed benchmarks: contenders that take turns, and the form of their tables.

Ratios of times measured one after the other lie on a machine that others use too; so contenders
take turns, A B A B, and medians are compared. `Rival` runs a contender in its own process, where
memory settings or peaks matter. `tables.py` makes the tables of the documentation from the CSV
files.
"""

import csv
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from slotlab import __version__
from slotlab.files import replacing

Step = Callable[[], object]
COLUMNS: tuple[str, ...] = (
    "work",
    "contender",
    "value",
    "unit",
    "processor",
    "ratio",
    "peak_mib",
    "rounds",
    "machine",
    "versions",
)


@dataclass
class Timing:
    """Seconds of each turn: on the clock, and of all threads on their processors.

    `count`: how many things (images, maps) a turn does, for rates.
    """

    count: int = 1
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    results: list[object] = field(default_factory=list)

    @property
    def median_wall(self) -> float:
        """Seconds on the clock."""
        return statistics.median(self.wall)

    @property
    def median_processor(self) -> float:
        """Seconds on processors."""
        return statistics.median(self.processor)

    def measure(self, step: Step) -> None:
        """Adds a turn."""
        synchronise()
        wall, processor = time.perf_counter(), time.process_time()
        self.results.append(step())
        synchronise()
        self.wall.append(time.perf_counter() - wall)
        self.processor.append(time.process_time() - processor)


def take_turns(steps: Mapping[str, Step], rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Times contenders in one process, in turns, after turns that are not counted."""
    for _ in range(warm_up):
        for step in steps.values():
            step()
    timings = {name: Timing() for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            timings[name].measure(step)
    return timings


class Rival:
    """A contender in its own process, which does a step on request.

    Args:
        make: a function of the script; called in the new process, it gives the step.
        arguments: of `make`.
        threads: of torch.
    """

    def __init__(self, make: Callable[..., Step], arguments: Sequence[object], threads: int) -> None:
        context = get_context("spawn")
        self._end, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, arguments, threads), daemon=True)
        self._process.start()
        self.timing = Timing()

    def step(self, counts: bool = True) -> None:
        """Does a step, timed unless it is a warm-up; the memory peak is over all steps."""
        self._end.send(None)
        wall, processor, peak, result = self._end.recv()
        self.timing.peak_mib = peak
        if counts:
            self.timing.wall.append(wall)
            self.timing.processor.append(processor)
            self.timing.results.append(result)

    def stop(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()


def rivals_take_turns(rivals: Mapping[str, Rival], rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Times contenders that have a process each, in turns; then ends these."""
    for turn in range(warm_up + rounds):
        for rival in rivals.values():
            rival.step(counts=turn >= warm_up)
    for rival in rivals.values():
        rival.stop()
    return {name: rival.timing for name, rival in rivals.items()}


def _serve(end: Connection, make: Callable[..., Step], arguments: Sequence[object], threads: int) -> None:
    torch.set_num_threads(threads)
    torch.nn.Conv2d(8, 8, 3)(torch.rand(1, 8, 8, 8)).sum().backward()  # so libraries do not count
    step, timing = make(*arguments), Timing()
    before = peak_memory()
    while True:
        try:
            end.recv()
        except EOFError:
            return
        timing.measure(step)
        end.send((timing.wall[-1], timing.processor[-1], peak_memory() - before, timing.results[-1]))


def peak_memory() -> float:
    """Peak memory of this process in MiB: allocated on its GPU, else resident since its start."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8")) if status.exists() else None
    return int(found[1]) / 2**10 if found else float("nan")


def synchronise() -> None:
    """Waits for a GPU, where one is used, to have done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def row(
    work: str,
    contender: str,
    value: float,
    unit: str,
    *,
    rounds: int,
    processor: float | None = None,
    ratio: float | None = None,
    peak_mib: float | None = None,
) -> dict[str, object]:
    """A line of a table.

    Args:
        work: what was done, the same words for all contenders that did it.
        contender: who.
        value: the median.
        unit: of `value`, e.g. "images/s".
        rounds: how often it was measured; 0 for what was counted.
        processor: the median of processor time, in the same unit.
        ratio: how many times as fast as the contender that the table names as 1.0.
        peak_mib: memory.
    """
    return {
        "work": work,
        "contender": contender,
        "value": _rounded(value),
        "unit": unit,
        "processor": "" if processor is None else _rounded(processor),
        "ratio": "" if ratio is None else round(ratio, 2),
        "peak_mib": "" if peak_mib is None else round(peak_mib),
        "rounds": rounds,
        "machine": machine(),
        "versions": versions(),
    }


def rows_of(
    work: str, timings: Mapping[str, Timing], unit: str = "s", against: str | None = None
) -> list[dict[str, object]]:
    """The lines of contenders that did the same work.

    Args:
        work: what was done.
        timings: of each contender.
        unit: "s", "ms", or a rate of `Timing.count`, such as "images/s".
        against: the contender whose ratio is 1.
    """

    def shown(seconds: float, count: int) -> float:
        return count / seconds if unit.endswith("/s") else 1000 * seconds if unit == "ms" else seconds

    lines = []
    for name, timing in timings.items():
        other = None if against is None else timings[against]
        ratio = other and (other.median_wall / other.count) / (timing.median_wall / timing.count)
        numbers = {"processor": shown(timing.median_processor, timing.count), "ratio": ratio}
        value, peak = shown(timing.median_wall, timing.count), timing.peak_mib or None
        lines.append(row(work, name, value, unit, rounds=len(timing.wall), peak_mib=peak, **numbers))
    return lines


def write(rows: Sequence[Mapping[str, object]], path: Path | None) -> None:
    """Prints the lines, and writes them to a CSV file if there is a path for it."""
    print(f"{machine()}; {versions()}; load {os.getloadavg()[0]:.1f}")
    for one in rows:
        numbers = f"{one['value']:>10} {one['unit']:12}{one['processor']:>10}{one['ratio']:>8}{one['peak_mib']:>8}"
        print(f"{one['work']:64}{one['contender']:40}{numbers}")
    if path is not None:
        save(rows, path)


def save(rows: Sequence[Mapping[str, object]], path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Writes rows to a CSV file, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def machine() -> str:
    """Processor and cores, and the GPU where there is one."""
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", information.read_text()) if information.exists() else None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores{gpu}"


def versions() -> str:
    """Of slotlab, Python, torch and scikit-learn."""
    packages = f"torch {torch.__version__}, scikit-learn {version('scikit-learn')}"
    return f"Python {platform.python_version()}, slotlab {__version__}, {packages}"  # also where it is not installed


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
