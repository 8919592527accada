"""Whether the fast path learns as plain PyTorch does: the losses of the first steps, side by side.

    python benchmarks/loss_curves.py                       # 64x64, 7 slots, batch 2, 200 steps
    python benchmarks/loss_curves.py --full --steps 20   # the report's: 128x128, 11 slots, batch 8
    python benchmarks/loss_curves.py --draw                # the figure again, from the CSV files

Protocol. The preset slot-attention-clevrtex on scenes:textured (3 to 6 objects; --full: 3 to 10),
the same weights, batches and starts of slots for all; gradients clipped and Adam as the preset
says, at a learning rate of 4e-4 after 20 steps of linear warm-up (the preset's 10,000 would leave
nothing to see). Contenders, each in its own process, take turns step by step:

    plain           the forward pass written as papers do (see reference.py), float32, PyTorch's
                    default Adam
    slotlab         the fast path, float32
    slotlab, bf16   the same under bfloat16 autocast, as on a GPU
    other starts    plain with other random initial slots: how far apart chance alone takes two
                    trainings

The CSV files have a line per step; the figure shows losses, and differences from plain relative to
its loss.
"""

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from contest import Rival, Step, rivals_take_turns, row, write
from reference import Plain, make_model
from torch import Tensor

from slotlab.config import RunConfig, run_config
from slotlab.data import training_batches
from slotlab.files import replacing
from slotlab.models.sampling import seeded_generator
from slotlab.training.optimisation import arrange, make_optimizer, memory_format
from slotlab.training.resources import keep_freed_memory
from slotlab.training.setup import open_split

PRESET = "slot-attention-clevrtex"
CONTENDERS = ("plain", "slotlab", "slotlab, bf16", "other starts")
RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "loss-curves.png"
WARM_UP = 20
FIRST = 10  # losses, before rounding has grown to what chance does
Rows = list[dict[str, float]]


def config_of(full: bool, batch: int) -> RunConfig:
    changes: dict[str, object] = {"batch_size": batch, "source": "scenes:textured", "train_count": 2_000}
    if not full:
        changes |= {"resolution": 64, "broadcast": 64, "slots": 7, "max_objects": 6}
    return run_config(PRESET, changes)


def make_contender(name: str, full: bool, batch: int) -> Step:
    config = config_of(full, batch)
    settings = config.training
    model, fast, seed = make_model(config), name.startswith("slotlab"), 1 if name == "other starts" else 0
    batches = training_batches(open_split(config, "train"), batch_size=batch, seed=0)
    if fast:
        keep_freed_memory()
        arrange(model, torch.device("cpu"), settings.without)
        optimizer, plain = make_optimizer(model, settings), None
    else:
        optimizer, plain = torch.optim.Adam(model.parameters(), lr=settings.learning_rate), Plain(model)
    step = 0

    def reconstruct(images: Tensor, generators: list[torch.Generator]) -> Tensor:
        if plain is not None:
            return plain(images, generators)
        images = images.contiguous(memory_format=memory_format(settings.without))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name.endswith("bf16")):
            return model(images, generators).reconstruction.float()

    def update() -> float:
        nonlocal step
        images = next(batches)["image"]
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (step + 1) / WARM_UP)
        made = reconstruct(images, [seeded_generator(seed, step, place) for place in range(batch)])
        loss = (2 * (made - images)).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        step += 1
        return float(loss.detach())

    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the report's configuration")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, help="default: 2, with --full 8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--draw", action="store_true", help="only draw what the CSV files hold")
    options = parser.parse_args()
    if not options.draw:
        batch = options.batch_size or (8 if options.full else 2)
        rivals = {name: Rival(make_contender, (name, options.full, batch), options.threads) for name in CONTENDERS}
        timings = rivals_take_turns(rivals, options.steps, warm_up=0)
        losses = {name: timing.results for name, timing in timings.items()}
        steps = range(1, options.steps + 1)
        write_curves(options.results / file_name(options.full), zip(steps, *losses.values(), strict=True))
        for name, timing in timings.items():
            print(f"{name}: {timing.median_wall:.2f} s a step, {timing.median_processor:.2f} s of processor time")
    found = {full: path for full in (False, True) if (path := options.results / file_name(full)).is_file()}
    curves = {full: read_curves(path) for full, path in found.items()}
    if not options.draw:
        lines = [line for full, rows in curves.items() for line in differences(full, rows)]
        write(lines, options.results / "loss-differences.csv")
    draw(curves, options.picture)


def differences(full: bool, rows: Rows) -> list[dict[str, object]]:
    """Difference of a contender's losses from plain, in percent: at first, and over all steps."""
    first = rows[:FIRST]
    found = {name: max(abs(one[name] - one["plain"]) / one["plain"] for one in first) for name in CONTENDERS[1:]}
    means = {name: abs(sum(one[name] for one in rows) / sum(one["plain"] for one in rows) - 1) for name in found}
    shown = {f"largest difference in the first {len(first)} losses": found, "difference of the mean loss": means}
    return [
        row(f"{what}, {title(full, len(rows))}", name, 100 * value, "%", rounds=1)
        for what, values in shown.items()
        for name, value in values.items()
    ]


def file_name(full: bool) -> str:
    return "loss-curves-full.csv" if full else "loss-curves.csv"


def write_curves(path: Path, lines: Iterable[Sequence[object]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *CONTENDERS])
        writer.writerows(lines)


def read_curves(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def draw(curves: dict[bool, Rows], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.1 * len(curves)), layout="constrained")
    grid = figure.subplots(len(curves), 2, squeeze=False)
    colours = dict(zip(CONTENDERS, ("0.15", "tab:blue", "tab:orange", "0.65"), strict=True))
    for (losses, apart), (full, rows) in zip(grid, curves.items(), strict=True):
        steps = [one["step"] for one in rows]
        for name in reversed(CONTENDERS):
            style = "--" if name == "plain" else "-"
            losses.plot(steps, [one[name] for one in rows], style, color=colours[name], label=name, linewidth=1.2)
            if name != "plain":
                relative = [abs(one[name] - one["plain"]) / one["plain"] for one in rows]
                apart.plot(steps, relative, color=colours[name], label=name, linewidth=1.2)
        losses.set(xlabel="step", ylabel="loss, log scale", yscale="log", title=title(full, len(rows)))
        apart.set(xlabel="step", ylabel="relative difference", yscale="log", title="difference from plain")
        losses.legend(frameon=False, fontsize=8)
        for axes in (losses, apart):
            axes.spines[["right", "top"]].set_visible(False)
            axes.grid(alpha=0.25)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    print(path)


def title(full: bool, steps: int) -> str:
    return f"{'128x128, 11 slots' if full else '64x64, 7 slots'}, {steps} steps"


if __name__ == "__main__":
    main()
