"""Images per second of `slotlab segment`, and its memory, for few images and for many.

    python benchmarks/segment.py [--model scenes-64] [--images 1000 10000] [--threads 2]

Protocol. So many test scenes, written as PNG files of --size pixels (a thousand different ones, then copies of them),
are segmented by the command in a process of its own, which writes eleven files for each with seven slots. The time is
that of the whole command, start included; memory is the most that the process had resident.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contest import row, write
from PIL import Image

from slotlab.data import open_data
from slotlab.data.images import to_pixels

DIFFERENT = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-64", help="a run folder, or the name of a trained model")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    rows = []
    for count in options.images:
        with tempfile.TemporaryDirectory() as folder:
            images, out = Path(folder) / "images", Path(folder) / "out"
            write_images(images, count, options.size)
            wall, processor, peak = segmented(images, out, options.model, options.threads)
        work = f"slotlab segment, {options.model}, {options.size}x{options.size} PNG, {options.threads} threads"
        numbers = {"processor": count / processor, "peak_mib": peak}
        rows.append(row(work, f"{count:,} images", count / wall, "images/s", rounds=1, **numbers))
    write(rows, options.csv)


def write_images(folder: Path, count: int, size: int) -> None:
    folder.mkdir()
    scenes = open_data("scenes:plain", split="test", resolution=size, count=min(count, DIFFERENT), max_objects=6)
    for number in range(count):
        path = folder / f"{number:06d}.png"
        if number < len(scenes):
            Image.fromarray(to_pixels(scenes.batch([number]))[0][0]).save(path)
        else:
            shutil.copyfile(folder / f"{number % len(scenes):06d}.png", path)


def segmented(images: Path, out: Path, model: str, threads: int) -> tuple[float, float, float]:
    """Seconds of wall and processor time, and MiB at most, of one command."""
    words = ["-m", "slotlab", "segment", str(images), "--model", model, "--out", str(out), "--threads", str(threads)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, processor, after.ru_maxrss / 2**10


if __name__ == "__main__":
    main()
