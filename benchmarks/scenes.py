"""Scenes rendered per second: variants, resolutions, supersampling, devices, threads.

Protocol: each row renders batches of `--batch` scenes with new indices (nothing is cached), once to
warm up, then `--rounds` times; the median counts. It includes drawing layouts, re-drawing scenes in
which an object hides, masks and metadata. On a GPU the clock stops after a synchronisation.

    python benchmarks/scenes.py --threads 1
    python benchmarks/scenes.py --device cuda --batch 1024
"""

import argparse
from itertools import count
from pathlib import Path

import torch
from contest import Timing, rows_of, take_turns, write

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
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    device, rows = torch.device(options.device), []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for resolution in options.resolutions:
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
    numbers = count()

    def step() -> None:
        start = next(numbers) * batch
        indices = range(start, start + batch)
        render(indices, variant=variant, resolution=resolution, supersample=supersample, device=device)

    timing = take_turns({variant: step}, rounds)[variant]
    timing.count = batch
    return timing


if __name__ == "__main__":
    main()
