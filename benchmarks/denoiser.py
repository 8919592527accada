"""Our denoiser against the U-Net of `diffusers` of equal width and depth, and sampling with and without cached slots.

    python benchmarks/denoiser.py                    # the small U-Net: 16x16 latents
    python benchmarks/denoiser.py --preset report    # the report's: 32x32 latents, 79 million parameters

Protocol. A training step is forward, mean squared error, backward and an Adam update in float32 on random latents and
slots; a sampling step is one evaluation of the denoiser without gradients. The contenders take turns within one
process, after one round that is not counted; the table shows the median of wall time and of the time that the process
had on its processors (which other programs on the machine disturb less; for CUDA both are the same). Peak memory is
measured for each contender alone, in a process of its own: the most resident memory in two training steps less that
before the model was built (for CUDA: the most memory allocated).
"""

import argparse
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slotlab.models.denoiser import Denoiser

PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "size": 16,
        "slots": 7,
        "denoiser": {"channels": 32, "multipliers": [1, 2, 3], "attention_levels": [2, 3], "num_repeat": 1},
    },
    "report": {"size": 32, "slots": 11, "denoiser": {}},
}
Step = Callable[[], object]


class DiffusersUNet(nn.Module):
    """`UNet2DConditionModel` with the widths, levels, heads and transformer layers of a `Denoiser`."""

    def __init__(
        self,
        channels: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 3, 4),
        attention_levels: tuple[int, ...] = (2, 3, 4),
        num_repeat: int = 6,
    ) -> None:
        super().__init__()
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        widths = [channels * multiplier for multiplier in multipliers]
        attends = [level in attention_levels for level in range(1, len(widths) + 1)]
        self.network = UNet2DConditionModel(
            in_channels=3,
            out_channels=3,
            block_out_channels=tuple(widths),
            layers_per_block=2,
            down_block_types=tuple("CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attends)),
            cross_attention_dim=64,
            transformer_layers_per_block=num_repeat,
            # In diffusers this is the number of heads; its annotation knows only tuples of one.
            attention_head_dim=tuple(width // 32 for width in widths),  # pyright: ignore[reportArgumentType]
        )

    def forward(self, latents: Tensor, timesteps: Tensor, slots: Tensor) -> Tensor:
        """Latents, timesteps and slots to the prediction."""
        return self.network(latents, timesteps, slots).sample


CONTENDERS: dict[str, Callable[..., nn.Module]] = {
    "slotlab": Denoiser,
    "slotlab, checkpointing": lambda **arguments: Denoiser(**arguments, checkpointing=True),
    "diffusers": DiffusersUNet,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=25, help="denoiser evaluations per sample")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    preset, batch = PRESETS[options.preset], options.batch_size
    print(
        f"preset {options.preset}: latents 3x{preset['size']}x{preset['size']}, {preset['slots']} slots x 64, "
        f"batch {batch}, {options.rounds} rounds, {options.device}, {options.threads} threads, "
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}\n"
    )
    models = {name: made(preset["denoiser"], name).to(options.device) for name in CONTENDERS}
    steps = {name: training_step(model, preset, batch, options.device) for name, model in models.items()}
    times = take_turns(steps, options.rounds, options.device)
    print(f"{'training step':24}{'parameters':>12}{'wall ms':>10}{'cpu ms':>10}{'peak MiB':>10}")
    for name, model in models.items():
        count = sum(parameter.numel() for parameter in model.parameters())
        peak = peak_memory(name, options.preset, batch, options.device)
        print(f"{name:24}{count:>12,}{times[name][0]:>10.0f}{times[name][1]:>10.0f}{peak:>10.0f}")
    del models["diffusers"]
    sampled = sampling_steps(models["slotlab"], preset, batch, options.device)
    times = take_turns(sampled, options.rounds, options.device)
    print(f"\n{'sampling':24}{'wall ms/step':>14}{'cpu ms/step':>14}{f'cpu s/image, {options.steps} steps':>26}")
    for name, (wall, processor) in times.items():
        print(f"{name:24}{wall:>14.1f}{processor:>14.1f}{processor * options.steps / batch / 1000:>26.3f}")


def made(arguments: Mapping[str, Any], name: str) -> nn.Module:
    torch.manual_seed(0)
    return CONTENDERS[name](**arguments)


def random_inputs(preset: Mapping[str, Any], batch: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    size = preset["size"]
    return (
        torch.randn(batch, 3, size, size, device=device),
        torch.randint(1000, (batch,), device=device),
        torch.randn(batch, preset["slots"], 64, device=device),
    )


def training_step(model: nn.Module, preset: Mapping[str, Any], batch: int, device: str) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    inputs = random_inputs(preset, batch, device)

    def step() -> None:
        model.train()
        model(*inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def sampling_steps(model: nn.Module, preset: Mapping[str, Any], batch: int, device: str) -> dict[str, Step]:
    latents, timesteps, slots = random_inputs(preset, batch, device)
    model.eval()
    assert isinstance(model, Denoiser)
    with torch.no_grad():
        context = model.slot_context(slots)
    return {
        "slots anew each step": torch.no_grad()(lambda: model(latents, timesteps, slots)),
        "cached keys and values": torch.no_grad()(lambda: model(latents, timesteps, context)),
    }


def take_turns(steps: Mapping[str, Step], rounds: int, device: str) -> dict[str, tuple[float, float]]:
    """Median wall and processor milliseconds of each, taken in turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            synchronise(device)
            wall, processor = time.perf_counter(), time.process_time()
            step()
            synchronise(device)
            if number:
                taken[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: (
            1000 * statistics.median(wall for wall, _ in pairs),
            1000 * statistics.median(processor for _, processor in pairs),
        )
        for name, pairs in taken.items()
    }


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_memory(name: str, preset: str, batch: int, device: str) -> float:
    """MiB in two training steps, measured in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure_peak, name, preset, batch, device, torch.get_num_threads()).result()


def measure_peak(name: str, preset: str, batch: int, device: str, threads: int) -> float:
    torch.set_num_threads(threads)
    import diffusers.models.unets.unet_2d_condition  # noqa: F401  so that its code counts for nobody

    torch.ones(1).square().sum()
    before = resident_peak()
    model = made(PRESETS[preset]["denoiser"], name).to(device)
    step = training_step(model, PRESETS[preset], batch, device)
    for _ in range(2):
        step()
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resident_peak() - before


def resident_peak() -> float:
    """The most MiB that this process had resident, as Linux counts it from the start of the program."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1]) / 2**10  # type: ignore[index]


if __name__ == "__main__":
    main()
