"""Our denoiser against the U-Net of `diffusers` of equal width and depth; and cached slots.

    python benchmarks/denoiser.py                    # the small U-Net: 16x16 latents
    python benchmarks/denoiser.py --preset report    # 32x32 latents, 79 million parameters

Protocol. A training step is forward, mean squared error, backward and an Adam update in float32 on
random latents and slots; a sampling step is one evaluation of the denoiser without gradients. Each
contender runs in a separate process and they take turns; the table shows the median of wall time
and of the time that the process had on its processors (which other programs on the machine disturb
less; for CUDA both are the same). Peak memory is the most that a process had resident beyond what
it had once the model was built (for CUDA: allocated).
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from contest import Rival, Step, rivals_take_turns, rows_of, write
from torch import Tensor, nn

from slotlab.models.unet import Denoiser

PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "size": 16,
        "slots": 7,
        "denoiser": {"channels": 32, "multipliers": [1, 2, 3], "attention_levels": [2, 3], "num_repeat": 1},
    },
    "report": {"size": 32, "slots": 11, "denoiser": {}},
}


class DiffusersUNet(nn.Module):
    """`UNet2DConditionModel` with the widths, levels, heads and layers of a `Denoiser`."""

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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    shared = (options.preset, options.batch_size, options.device)
    size, slots = (PRESETS[options.preset][key] for key in ("size", "slots"))
    shape = f"{size}x{size} latents, {slots} slots, batch {options.batch_size}, {options.threads} threads"
    rows = []
    for work, make, names in (
        ("slot diffusion, training step", make_training, list(CONTENDERS)),
        (
            "slot diffusion, sampling step",
            make_sampling,
            ["slotlab", "slotlab, slots recomputed each step", "diffusers"],
        ),
    ):
        rivals = {name: Rival(make, (name, *shared), options.threads) for name in names}
        timings = rivals_take_turns(rivals, options.rounds)
        rows += rows_of(f"{work}, {shape}", timings, "ms", against="diffusers")
    write(rows, options.csv)


def made(name: str, preset: str, device: str) -> nn.Module:
    torch.manual_seed(0)
    return CONTENDERS[name](**PRESETS[preset]["denoiser"]).to(device)


def random_inputs(preset: str, batch: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    size, slots = PRESETS[preset]["size"], PRESETS[preset]["slots"]
    return (
        torch.randn(batch, 3, size, size, device=device),
        torch.randint(1000, (batch,), device=device),
        torch.randn(batch, slots, 64, device=device),
    )


def make_training(name: str, preset: str, batch: int, device: str) -> Step:
    model, inputs = made(name, preset, device), random_inputs(preset, batch, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        model(*inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@torch.no_grad()
def make_sampling(name: str, preset: str, batch: int, device: str) -> Step:
    model = made(name.partition(",")[0], preset, device).eval()
    latents, timesteps, slots = random_inputs(preset, batch, device)
    if name == "slotlab":
        assert isinstance(model, Denoiser)
        slots = model.slot_context(slots)  # keys and values, which do not depend on the timestep
    return torch.no_grad()(lambda: model(latents, timesteps, slots))


if __name__ == "__main__":
    main()
