"""Images per second of `slotlab segment` and its memory; or a contact sheet of what it finds.

    python benchmarks/segment.py [--model scenes-64] [--images 1000 10000] [--threads 2]
    python benchmarks/segment.py --sheet data/unseen --model scenes-64 --out sheet.png

Speed. Test scenes, written as PNG files of --size pixels (a thousand different ones, then copies),
are segmented by the command in its own process, which writes eleven files for each image with seven
slots. The time is that of the whole command, start included; memory is the peak resident memory of
the process.

Sheet. Every image of a folder, unselected, with its overlay below. docs/images/segmented.png was
made from `slotlab scenes write data/unseen --variant plain --max-objects 6 --count 32 --size 64
--seed 777`: 32 scenes of a seed that no training or validation scene has.
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

import slotlab
from slotlab.data import open_data
from slotlab.data.folders import image_files
from slotlab.data.images import read_image, to_pixels

DIFFERENT = 1_000
SIDE, GAP, COLUMNS = 112, 4, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-64", help="a run folder, or the name of a trained model")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    parser.add_argument("--sheet", type=Path, help="draw a contact sheet of the images in this folder instead")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), help="for --sheet")
    options = parser.parse_args()
    if options.sheet:
        return draw_sheet(options.sheet, options.model, options.out)
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


def draw_sheet(images: Path, model: str, out: Path) -> None:
    files = [file for file in image_files(images, nested=True) if not file.stem.endswith("_flat")]
    loaded = slotlab.load(model)
    rows = -(-len(files) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) - GAP, rows * (2 * SIDE + 3 * GAP) - 2 * GAP), "white")
    with tempfile.TemporaryDirectory() as folder:
        listing = slotlab.segment(loaded, files, out=Path(folder) / "segments")
        for place, outcome in enumerate(listing.outcomes):
            overlay = Path(folder) / "segments" / f"{outcome.name}_overlay.png"
            for line, path in enumerate((Path(outcome.image), overlay)):
                left = place % COLUMNS * (SIDE + GAP)
                top = place // COLUMNS * (2 * SIDE + 3 * GAP) + line * (SIDE + GAP)
                drawn = Image.fromarray(read_image(path)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
                sheet.paste(drawn, (left, top))
    sheet.save(out)


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
