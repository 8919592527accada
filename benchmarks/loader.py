"""Training images per second from image files, an HDF5 file and the packed cache.

python benchmarks/loader.py [--data PATH] [--resolution 128] [--batch-size 64] [--images 512] [--rounds 5]
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from slotlab.data import SlotDataset, open_data, pack, training_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a data set of files with masks; by default one is written for the occasion")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=512, help="images a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.data or write_photographs(Path(folder) / "clevrtex_full", count=400)
        print(protocol(arguments))
        sources = prepare(source, Path(folder), arguments.resolution)
        speeds: dict[tuple[str, int], list[float]] = {(name, workers): [] for name in sources for workers in (0, 1)}
        for _ in range(arguments.rounds):
            for (name, workers), measured in speeds.items():
                measured.append(images_per_second(sources[name], workers, arguments.batch_size, arguments.images))
        show(speeds)


def write_photographs(root: Path, count: int) -> str:
    """CLEVRTex's layout and sizes (320x240 RGB PNG, palette masks), with the spectrum and grain of photographs."""
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


def images_per_second(dataset: SlotDataset, workers: int, batch_size: int, images: int) -> float:
    steps = max(2, images // batch_size)
    batches = training_batches(dataset, batch_size=batch_size, seed=0, workers=workers)
    for _ in range(2):
        next(batches)
    started = time.perf_counter()
    for _ in range(steps):
        next(batches)
    return steps * batch_size / (time.perf_counter() - started)


def protocol(arguments: argparse.Namespace) -> str:
    kind = arguments.data or "400 synthetic photographs of 320x240 written as CLEVRTex PNG"
    return (
        f"Protocol: {kind}; train split, default crop, resolution {arguments.resolution}, "
        f"batch {arguments.batch_size}, images and masks;\n"
        f"two batches to warm up, then {arguments.images} images a measurement; {arguments.rounds} rounds, sources "
        f"interleaved;\nfiles in the page cache; 1 torch thread, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}."
    )


def show(speeds: dict[tuple[str, int], list[float]]) -> None:
    base = statistics.median(speeds["files", 0])
    table = Table("source", "workers", "images/s (median)", "range", "ratio", caption="ratio: to files, 0 workers")
    for (name, workers), measured in speeds.items():
        median = statistics.median(measured)
        table.add_row(
            name,
            str(workers),
            f"{median:,.0f}",
            f"{min(measured):,.0f} .. {max(measured):,.0f}",
            f"{median / base:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
