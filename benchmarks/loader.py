"""Training images per second from image files, an HDF5 file and the packed cache.

    python benchmarks/loader.py [--data PATH] [--resolution 128] [--batch-size 64] [--images 512]

Protocol. By default 400 synthetic photographs of 320x240 are written as CLEVRTex lays them out
(PNG). Shuffled training batches of images and masks from the train split with the format's own
crop; two batches to warm up, then `--images` images a turn; sources take turns; files are in the
page cache; one torch thread. Processor time is that of the process that trains, without the
worker's.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from contest import Timing, rows_of, write
from PIL import Image

from slotlab.data import Batch, SlotDataset, open_data, pack, training_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a data set of files with masks; by default one is written for the occasion")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=512, help="images a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batch, turn = arguments.batch_size, max(2, arguments.images // arguments.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.data or write_photographs(Path(folder) / "clevrtex_full", count=400)
        sources = prepare(source, Path(folder), arguments.resolution)
        timings = {f"{name}, {workers} worker processes": Timing() for name in sources for workers in (0, 1)}
        for _ in range(arguments.rounds):
            for label, timing in timings.items():
                name, workers = label.split(", ")
                stream = training_batches(sources[name], batch_size=batch, seed=0, workers=int(workers[0]))
                take(stream, 2)
                timing.count = turn * batch
                timing.measure(lambda stream=stream: take(stream, turn))
    kind = arguments.data or "synthetic photographs of 320x240"
    work = f"training batches of {batch}, {arguments.resolution}x{arguments.resolution}, {kind}"
    write(rows_of(work, timings, "images/s", against="files, 0 worker processes"), arguments.csv)


def take(stream: Iterator[Batch], batches: int) -> None:
    for _ in range(batches):
        next(stream)


def write_photographs(root: Path, count: int) -> str:
    """CLEVRTex's layout and sizes (320x240 RGB, palette masks), with photographs' spectrum."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for index in range(count):
        values = rng.normal(0, 4, (240, 320, 3)) + 128
        for cells in (3, 6, 12, 24, 48, 96):
            patch = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            values += (np.asarray(patch.resize((320, 240), Image.Resampling.BICUBIC)) - 128.0) * 1.5 / cells**0.5
        stem = root / f"CLEVRTEX_full_{index:06d}"
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(f"{stem}.png")
        mask = Image.new("P", (320, 240))
        mask.putpalette(list(range(256)) * 3)
        for number in range(1, 7):
            x, y = (int(value) for value in rng.integers(0, 180, 2))
            mask.paste(number, (x, y, x + 50, y + 40))
        mask.save(f"{stem}_flat.png")
    return str(root)


def prepare(source: str, folder: Path, resolution: int) -> dict[str, SlotDataset]:
    packed = pack(source, folder / "packed", resolution=resolution)
    sources = {"files": open_data(source, resolution=resolution), "packed": open_data(packed)}
    try:
        import h5py
    except ImportError:
        print("HDF5 left out: h5py is not installed (pip install 'slotlab[hdf5]')")
        return sources
    with h5py.File(folder / "set.hdf5", "w") as file:
        file["image"] = np.load(packed / "images.npy")
        file["mask"] = np.load(packed / "masks.npy")
    return sources | {"hdf5": open_data(folder / "set.hdf5")}


if __name__ == "__main__":
    main()
