"""The reference step: slot attention at 128x128, 11 slots, batch 8, against plain PyTorch.

    python benchmarks/reference.py
    git clone https://github.com/evelinehong/slot-attention-pytorch peer  # commit 1518c23
    python benchmarks/reference.py --peer peer

Protocol. A step is forward, squared error, backward and an Adam update in float32, on random images
that are in memory and in the processor's own layout. Two architectures: "report", the preset
slot-attention-clevrtex, whose decoder broadcasts at full resolution; "published", that of Locatello
et al. 2020 (an encoder of four 5x5 convolutions at full resolution, slots broadcast to 8x8, four
transposed convolutions). The contenders:

    plain       slotlab's layers and weights, applied literally: every slot tiled over the grid,
                every convolution on all of it, float32 in NCHW, PyTorch's default Adam and
                allocator
    peer        `SlotAttentionAutoEncoder` of --peer with 11 slots, as its train.py calls it;
        "published" is its form
    slotlab     as `slotlab train` does it, in float32; and in bfloat16 if the processor has it
    without ... the same less one speed-up, and with decoder.checkpointing (--ablation)

Each runs in its own process and they take turns. The table has medians of wall and processor time,
and the peak resident memory beyond what the process had once the model was built; torch counts the
arithmetic. Plain and slotlab have the same weights, images and initial slots; their losses are
compared.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import get_args

import torch
from contest import Rival, Step, rivals_take_turns, row, rows_of, write
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from slotlab import checkpoints
from slotlab.config import RunConfig, Speedup, run_config
from slotlab.distributed import computes_bf16
from slotlab.models import SlotAutoencoder
from slotlab.models.sampling import seeded_generator
from slotlab.training.optimisation import arrange, make_optimizer, memory_format
from slotlab.training.resources import keep_freed_memory

PUBLISHED = {
    "encoder.kind": "cnn",
    "decoder.broadcast": 8,
    "decoder.kernel_size": 5,
    "decoder.layers": 1,
    "decoder.position": "add",
}
ARCHITECTURES = {"report": {}, "published": PUBLISHED}
CPU = torch.device("cpu")


class Plain(nn.Module):
    """A slot autoencoder whose forward is written down as papers do."""

    def __init__(self, model: SlotAutoencoder) -> None:
        super().__init__()
        self.model = model
        for layer in self.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False

    def forward(self, images: Tensor, generators: list[torch.Generator]) -> Tensor:
        """The reconstruction [B, 3, H, W]."""
        decoder, slots = self.model.decoder, self.model.encoder(images, generators)[0]
        batch, count, _ = slots.shape
        grid = slots.reshape(batch * count, -1, 1, 1).repeat(1, 1, decoder.broadcast, decoder.broadcast)
        if hasattr(decoder, "position"):
            grid = decoder.position(grid)
        else:
            grid = torch.cat([grid, decoder.grid.repeat(len(grid), 1, 1, 1)], dim=1)
        painted = decoder.to_rgb_and_mask(decoder.body(grid)).reshape(batch, count, 4, *images.shape[2:])
        masks = torch.softmax(painted[:, :, :1], dim=1)
        return (masks * (painted[:, :, 1:] + 1) / 2).sum(dim=1)


def config_of(architecture: str, batch: int, changes: dict[str, object]) -> RunConfig:
    return run_config("slot-attention-clevrtex", {**ARCHITECTURES[architecture], "batch_size": batch, **changes})


def make_model(config: RunConfig) -> SlotAutoencoder:
    torch.manual_seed(0)
    model = checkpoints.model_from_config(config.model)
    assert isinstance(model, SlotAutoencoder)
    return model


def some_images(batch: int) -> Tensor:
    return torch.rand(batch, 3, 128, 128, generator=seeded_generator(0))


def make_slotlab(architecture: str, batch: int, changes: dict[str, object], bf16: bool = False) -> Step:
    config = config_of(architecture, batch, changes)
    without = config.training.without
    if "kept-memory" not in without:
        keep_freed_memory()
    model = arrange(make_model(config), CPU, without)
    images = some_images(batch).contiguous(memory_format=memory_format(without))

    def reconstruct(generators: list[torch.Generator]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return model(images, generators).reconstruction.float()

    return training_step(reconstruct, images, make_optimizer(model, config.training))


def make_plain(architecture: str, batch: int) -> Step:
    config = config_of(architecture, batch, {})
    model, images = Plain(make_model(config)), some_images(batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.training.learning_rate)
    return training_step(lambda generators: model(images, generators), images, optimizer)


def peer_module(folder: str) -> ModuleType:
    """`model.py` of a clone of the peer."""
    spec = importlib.util.spec_from_file_location("peer_model", Path(folder) / "model.py")
    if spec is None or spec.loader is None or not (Path(folder) / "model.py").is_file():
        sys.exit(f"{folder}: no model.py in it; clone the peer there (see --help)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_peer(folder: str, batch: int) -> Step:
    module = peer_module(folder)
    torch.manual_seed(0)
    model = module.SlotAttentionAutoEncoder((128, 128), num_slots=11, num_iterations=3, hid_dim=64)
    images = some_images(batch)
    return training_step(lambda _: model(images)[0], images, torch.optim.Adam(model.parameters(), lr=4e-4))


def training_step(
    reconstruct: Callable[[list[torch.Generator]], Tensor], images: Tensor, optimizer: torch.optim.Optimizer
) -> Step:
    step = 0

    def update() -> float:
        nonlocal step
        generators = [seeded_generator(0, step, place) for place in range(len(images))]
        step += 1
        loss = (2 * (reconstruct(generators) - images)).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return update


def gigaflop(architecture: str, batch: int, plain: bool) -> float:
    """Arithmetic of a step, counted for one image."""
    model, images = make_model(config_of(architecture, batch, {})), some_images(1)
    with FlopCounterMode(display=False) as counter:
        made = Plain(model)(images, [seeded_generator(0)]) if plain else model(images).reconstruction
        made.sum().backward()
    return batch * counter.get_total_flops() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", default=list(ARCHITECTURES), help=", ".join(ARCHITECTURES))
    parser.add_argument("--peer", help="a clone of evelinehong/slot-attention-pytorch")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ablation", action="store_true", help="also each speed-up left out, and checkpointing")
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    batch, rows = options.batch_size, []
    if options.peer is None:
        print("the peer is left out: --peer names a clone of it (see --help)")
    for architecture in options.architectures:
        made: dict[str, tuple[Callable[..., Step], tuple[object, ...]]] = {
            "plain PyTorch": (make_plain, (architecture, batch)),
            "slotlab": (make_slotlab, (architecture, batch, {})),
        }
        if computes_bf16("cpu"):
            made["slotlab, bfloat16"] = make_slotlab, (architecture, batch, {}, True)
        if options.peer and architecture == "published":
            made["evelinehong/slot-attention-pytorch@1518c23"] = make_peer, (options.peer, batch)
        if options.ablation:
            made["slotlab, checkpointing"] = make_slotlab, (architecture, batch, {"decoder.checkpointing": True})
            for name in get_args(Speedup):
                made[f"slotlab without {name}"] = make_slotlab, (architecture, batch, {"without": name})
        rivals = {name: Rival(make, arguments, options.threads) for name, (make, arguments) in made.items()}
        timings = rivals_take_turns(rivals, options.rounds)
        work = f"training step, {architecture} architecture, batch {batch}, {options.threads} threads"
        rows += rows_of(work, timings, against="plain PyTorch")
        for name in ("plain PyTorch", "slotlab"):
            arithmetic = gigaflop(architecture, batch, plain=name != "slotlab")
            speed = arithmetic / timings[name].median_processor
            rows.append(row(f"arithmetic of that step, {architecture}", name, arithmetic, "GFLOP", rounds=0))
            rows.append(row(f"its speed by processor time, {architecture}", name, speed, "GFLOP/s", rounds=0))
        pairs = zip(timings["plain PyTorch"].results, timings["slotlab"].results, strict=True)
        worst = max(abs(fast - slow) / slow for slow, fast in pairs if isinstance(slow, float))  # type: ignore[operator]
        print(f"{architecture}: losses of plain and slotlab differ by {worst:.1e} at most, relative\n")
    write(rows, options.csv)


if __name__ == "__main__":
    main()
