"""Training speed and peak memory of each preset.

    python benchmarks/training.py [--threads 2] [--steps 3] [--device cpu] [--batch-size 8] [PRESET ...]

Protocol: one process per preset, so that peaks do not mix; random images of the preset's resolution already in memory
(loading is measured by loader.py), a whole update (forward, backward, clipping, Adam), float32 unless the device has
bfloat16; the median over `--steps` after one warm-up step. Peak memory is that of the process (CPU) or of the allocator
(CUDA).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

from slotlab import create_model, list_models
from slotlab.presets.config import run_config
from slotlab.training.memory import keep_freed_memory
from slotlab.training.optimisation import make_optimizer


def measure(preset: str, batch_size: int, steps: int, device: str) -> dict[str, float]:
    keep_freed_memory()
    settings = run_config(preset).training
    model = create_model(preset).to(device, memory_format=torch.channels_last)  # pyright: ignore
    optimizer = make_optimizer(model, settings)
    images = torch.rand(batch_size, 3, model.resolution, model.resolution, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = model.losses(model(images), images).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "resolution": model.resolution,
        "seconds": statistics.median(times[1:]),
        "peak_gib": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=list_models())
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.single:
        result = measure(arguments.presets[0], arguments.batch_size, arguments.steps, arguments.device)
        print(json.dumps(result))
        return
    table = Table(
        title=f"training step, batch {arguments.batch_size}, {arguments.device}, {arguments.threads} threads, "
        f"median of {arguments.steps}, torch {torch.__version__}"
    )
    for heading in ("preset", "resolution", "parameters", "s/step", "images/s", "peak GiB"):
        table.add_column(heading, justify="left" if heading == "preset" else "right", no_wrap=True)
    for preset in arguments.presets:
        command = [sys.executable, __file__, preset, "--single", "--threads", str(arguments.threads)]
        command += ["--batch-size", str(arguments.batch_size), "--steps", str(arguments.steps)]
        done = subprocess.run([*command, "--device", arguments.device], capture_output=True, text=True, check=True)
        result = json.loads(done.stdout.splitlines()[-1])
        table.add_row(
            preset,
            f"{result['resolution']:.0f}",
            f"{result['parameters']:,.0f}",
            f"{result['seconds']:.2f}",
            f"{arguments.batch_size / result['seconds']:.1f}",
            f"{result['peak_gib']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
