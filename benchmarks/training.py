"""Training speed and peak memory of each preset.

    python benchmarks/training.py [--threads 2] [--rounds 3] [--device cpu] [PRESET ...]

Protocol: one process per preset, so that peaks do not mix; random images of the preset's resolution
already in memory (loading is measured by loader.py), a whole update (forward, backward, clipping,
Adam) as `slotlab train` does it, float32 unless the device is a GPU (bfloat16); the median over
`--rounds` after one step to warm up. Peak memory is what the process had at most beyond what it had
once the model was built (CPU), or that of the allocator (CUDA).
"""

import argparse
from pathlib import Path

import torch
from contest import Rival, Step, rivals_take_turns, rows_of, write

from slotlab import list_models
from slotlab.config import run_config
from slotlab.training.optimisation import arrange, make_optimizer, memory_format
from slotlab.training.resources import keep_freed_memory
from slotlab.training.setup import new_model


def make_step(preset: str, batch_size: int, device: str) -> Step:
    keep_freed_memory()
    config = run_config(preset)
    settings = config.training
    model = arrange(new_model(config), torch.device(device), settings.without)
    optimizer = make_optimizer(model, settings)
    images = torch.rand(batch_size, 3, model.resolution, model.resolution, device=device)
    images = images.contiguous(memory_format=memory_format(settings.without))

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = model.losses(model(images), images).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=list_models())
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    rows = []
    for preset in options.presets:
        rival = Rival(make_step, (preset, options.batch_size, options.device), options.threads)
        timings = rivals_take_turns({preset: rival}, options.rounds)
        timings[preset].count = options.batch_size
        work = f"training, batch {options.batch_size}, {options.device}, {options.threads} threads"
        rows += rows_of(work, timings, "images/s")
    write(rows, options.csv)


if __name__ == "__main__":
    main()
