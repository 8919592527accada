"""Scenes rendered per second: variants, resolutions, supersampling, devices, threads.

Protocol: each row renders batches of `--batch` scenes with new indices (nothing is cached), once to
warm up, then `--rounds` times; the median counts. It includes drawing layouts, re-drawing scenes in
which an object hides, masks and metadata. On a GPU the clock stops after a synchronisation.

    python benchmarks/scenes.py --threads 1
    python benchmarks/scenes.py --device cuda --batch 1024
    git worktree add ../before COMMIT && python benchmarks/scenes.py --against ../before/src

With `--against` another version renders the same scenes in a process beside; the two take turns.
"""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import count
from pathlib import Path

import torch
from contest import Rival, Timing, rivals_take_turns, rows_of, take_turns, write

from slotlab.scenes import VARIANTS, render


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="CPU threads; several make several rows")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--supersample", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--against", type=Path, help="the src folder of another version, as a contender")
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    device, rows = torch.device(options.device), []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for resolution in options.resolutions:
            if options.against is not None:
                rows += compare(options, threads, resolution)
                continue
            timings = {
                f"scenes:{variant}, {supersample} rays a pixel's side": measure(
                    variant, resolution, supersample, device, options.batch, options.rounds
                )
                for variant in options.variants
                for supersample in options.supersample
            }
            rows += rows_of(f"rendering, {resolution}x{resolution}, {device}, {threads} threads", timings, "scenes/s")
    write(rows, options.csv)


def measure(variant: str, resolution: int, supersample: int, device: torch.device, batch: int, rounds: int) -> Timing:
    timing = take_turns({variant: rendering(render, variant, resolution, supersample, device, batch)}, rounds)[variant]
    timing.count = batch
    return timing


def rendering(
    render: Callable[..., object], variant: str, resolution: int, supersample: int, device: torch.device, batch: int
) -> Callable[[], None]:
    numbers = count()

    def step() -> None:
        start = next(numbers) * batch
        indices = range(start, start + batch)
        render(indices, variant=variant, resolution=resolution, supersample=supersample, device=device)

    return step


def of_version(source: Path | None, *arguments: object) -> Callable[[], None]:
    """Renders with the version in `source`, in place of the one that this process has loaded."""
    import_module("slotlab.training.resources").keep_freed_memory()
    if source is not None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "slotlab"]:
            del sys.modules[name]
        sys.path.insert(0, str(source.resolve()))
    return rendering(import_module("slotlab.scenes").render, *arguments)  # type: ignore[arg-type]


def compare(options: argparse.Namespace, threads: int, resolution: int) -> list[dict[str, object]]:
    rows = []
    for variant in options.variants:
        for supersample in options.supersample:
            work = (variant, resolution, supersample, torch.device(options.device), options.batch)
            versions = {"the other version": options.against, "this version": None}
            rivals = {name: Rival(of_version, (source, *work), threads) for name, source in versions.items()}
            timings = rivals_take_turns(rivals, options.rounds)
            for timing in timings.values():
                timing.count = options.batch
            name = f"rendering scenes:{variant}, {resolution}x{resolution}, {supersample} rays a pixel's side"
            rows += rows_of(f"{name}, {threads} threads", timings, "scenes/s", "the other version")
    return rows


if __name__ == "__main__":
    main()
