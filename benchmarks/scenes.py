"""Scenes rendered per second: variants, resolutions, supersampling, devices, threads.

Protocol: each row renders batches of `--batch` scenes with new indices (nothing is cached), once to warm up, then
`--repeats` times; the median counts. It includes drawing layouts, re-drawing scenes in which an object hides, masks and
metadata. On a GPU the clock stops after a synchronisation.

    python benchmarks/scenes.py --threads 1
    python benchmarks/scenes.py --device cuda --batch 1024
"""

import argparse
import statistics
import time

import torch

from slotlab.scenes import VARIANTS, render


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="CPU threads; several make several rows")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--supersample", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    options = parser.parse_args()
    device = torch.device(options.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {machine}, batches of {options.batch} scenes, median of {options.repeats}")
    print(f"{'variant':<12}{'resolution':>11}{'supersample':>13}{'threads':>9}{'images/s':>10}")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for variant in options.variants:
            for resolution in options.resolutions:
                for supersample in options.supersample:
                    speed = measure(variant, resolution, supersample, device, options.batch, options.repeats)
                    print(f"{variant:<12}{resolution:>11}{supersample:>13}{threads:>9}{speed:>10.0f}", flush=True)


def measure(variant: str, resolution: int, supersample: int, device: torch.device, batch: int, repeats: int) -> float:
    """Images per second of the median repeat."""
    seconds = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        indices = range(repeat * batch, (repeat + 1) * batch)
        render(indices, variant=variant, resolution=resolution, supersample=supersample, device=device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return batch / statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
