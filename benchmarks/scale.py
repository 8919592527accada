"""What 64 GPUs and ten million images would ask of storage, processors and network: a calculation, not a measurement.

    python benchmarks/scale.py [--gpus 64] [--images 10000000] [--batch-size 32] [PRESET ...]

For each preset: arithmetic of a training step by torch's own counter (forward and backward, one image), parameters, and
bytes of a packed image (with its latents, for slot diffusion). The machine is assumed, by the options: what a GPU
sustains, what a node's disk, the shared storage and the network give, and how many images one loading process turns
into tensors (benchmarks/loader.py measures that one). From these:

    compute     = batch x FLOP / sustained FLOP/s
    gradients   = 2 (n - 1) / n x 4 bytes x parameters / bandwidth + 2 (n - 1) x latency        (ring all-reduce)
    disk        = GPUs per node x batch x bytes / bandwidth of a node's own disk
    storage     = GPUs x batch x bytes / bandwidth of storage that all nodes share
    processors  = batch / (loading processes x images/s of one)

Loading, gradients and arithmetic overlap, so a step takes as long as the largest; that one is the bottleneck.
"""

import argparse
from pathlib import Path

import torch
from contest import row, write
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from slotlab import create_model
from slotlab.models import Model, SlotDiffusion

PRESETS = ("slot-attention-clevrtex", "slot-diffusion-clevrtex")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--batch-size", type=int, default=32, help="images per GPU")
    parser.add_argument("--tflops", type=float, default=200, help="sustained by a GPU, bfloat16")
    parser.add_argument("--network", type=float, default=25, help="GB/s of each GPU to the next")
    parser.add_argument("--latency", type=float, default=10, help="microseconds of a message")
    parser.add_argument("--disk", type=float, default=3, help="GB/s of a node's own disk, random reads of an image")
    parser.add_argument("--storage", type=float, default=5, help="GB/s of the storage that all nodes share")
    parser.add_argument("--loaders", type=int, default=4, help="loading processes per GPU")
    parser.add_argument("--loader-speed", type=float, default=2000, help="images/s of a loading process, 128x128")
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    rows = []
    for preset in options.presets:
        model = create_model(preset)
        images = torch.rand(1, 3, model.resolution, model.resolution)
        # A frozen autoencoder's latents are packed beforehand.
        latents = {"latents": model.autoencoder.encode(images)} if isinstance(model, SlotDiffusion) else {}
        flop = step_flop(model, images, latents)
        trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
        image_bytes = 4 * model.resolution**2 + sum(one.nbytes for one in latents.values())  # 3 channels and a mask
        batch, ring = options.batch_size, 2 * (options.gpus - 1)
        seconds = {
            "compute": batch * flop / (options.tflops * 1e12),
            "gradients": ring / options.gpus * 4 * trained / (options.network * 1e9) + ring * options.latency * 1e-6,
            "disk": options.gpus_per_node * batch * image_bytes / (options.disk * 1e9),
            "storage": options.gpus * batch * image_bytes / (options.storage * 1e9),
            "processors": batch / (options.loaders * options.loader_speed),
        }
        bottleneck = max(seconds, key=lambda part: seconds[part])
        speed = options.gpus * batch / seconds[bottleneck]
        print(
            f"{preset}: {flop / 1e9:.0f} GFLOP an image, {trained / 1e6:.1f} M parameters, "
            f"{options.images * image_bytes / 1e9:.0f} GB of data; {speed:,.0f} images/s, "
            f"{options.images / speed / 60:.0f} minutes an epoch; bottleneck: {bottleneck}"
        )
        work = f"calculated step, {preset}, {options.gpus} GPUs, batch {batch} per GPU"
        rows += [row(work, part, 1000 * value, "ms", rounds=0) for part, value in seconds.items()]
    write(rows, options.csv)


def step_flop(model: Model, images: Tensor, latents: dict[str, Tensor]) -> int:
    """Arithmetic of forward and backward for these images."""
    with FlopCounterMode(display=False) as counter:
        model.losses(model(images, **latents), images).mean().backward()
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
