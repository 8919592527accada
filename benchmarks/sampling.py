"""Quality and speed of slot diffusion's samples, by sampler and number of steps.

    python benchmarks/sampling.py runs/diffusion --max-objects 6       # quality
    python benchmarks/sampling.py scenes-64-diffusion --speed          # speed

Quality. The first `--images` images of the split are encoded once. Every sampler starts from the
same noise and paints the same slots. MSE is the mean squared error between sample and image, values in [0, 1];
"ceiling" is the autoencoder's own reconstruction, which no sampler can beat. FD-efficientnet-lite0
is the squared Frechet distance between samples and images, KD the kernel distance in the same
features; with few images FD is biased by about the "chance" printed, equal for all rows. "against
reference" divides by the first row: the first of `--samplers`, or else ancestral sampling (DDPM)
with as many steps as the schedule has, which takes most of the time. Guidance is 1, none, unless it
is given (`ddpm:5:2`). If the data has true masks, a second table scores the cross-attention masks
read at several timesteps.

Speed. A turn paints `--batch-size` images from slots in memory: all steps of the denoiser, then the
autoencoder's decoder, in float32. The contenders take turns in one process, after a turn that is
not counted; the table has the median time of one image. One contender recomputes the keys and
values of the slots at each step.
"""

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contest import rows_of, save, take_turns, write
from torch import Tensor
from torch.nn import functional

import slotlab
from slotlab.fidelity import SetStatistics, batch_statistics, compare, open_network
from slotlab.metrics.functional import adjusted_rand_index, mean_best_overlap
from slotlab.models import SlotDiffusion
from slotlab.models.sampling import SamplingSettings, sample_steps, seeded_generator
from slotlab.progress import finish

STEPS_TIMED = {"dpm-solver++": (5, 10, 25), "ddim": (10, 25), "ddpm": (5, 25)}
STEPS = {"dpm-solver++": (5, 10, 15, 20, 25, 50), "ddim": (10, 25, 50, 100), "ddpm": (25, 100)}
COLUMNS: list[str] = ["sampler", "steps", "guidance", "mse", "fd", "kd", "seconds_per_image"]
MASK_TIMESTEPS = (0, 50, 250, 500, 750)
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a slot diffusion model: its folder or name")
    parser.add_argument("--speed", action="store_true", help="measure speed instead of quality")
    parser.add_argument("--batch-size", type=int, default=16, help="for --speed")
    parser.add_argument("--rounds", type=int, default=3, help="for --speed")
    parser.add_argument("--data", default="scenes:plain")
    parser.add_argument("--max-objects", type=int, help="for scenes")
    parser.add_argument("--supersample", type=int, help="for scenes: rays per pixel and axis")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--samplers", nargs="+", metavar="NAME:STEPS[:GUIDANCE]", help="only these; the first is the reference"
    )
    parser.add_argument("--without-masks", action="store_true", help="do not score masks at several timesteps first")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = slotlab.load(options.run, options.device)
    if not isinstance(model, SlotDiffusion):
        parser.error(f"{options.run} holds a {model.kind}, which does not sample")
    if options.speed:
        measure_speed(model, options)
    else:
        measure_quality(model, options)


def measure_quality(model: SlotDiffusion, options: argparse.Namespace) -> None:
    given = {"max_objects": options.max_objects, "supersample": options.supersample}
    scene_options = {name: value for name, value in given.items() if value is not None}
    data = slotlab.open_data(
        options.data, split=options.split, resolution=model.resolution, count=options.images, **scene_options
    )
    batch = data.batch(range(len(data)))
    images = batch["image"].to(options.device)
    if "mask" in batch and not options.without_masks:
        score_masks(model, images, batch["mask"].to(options.device))
    network = open_network("efficientnet-lite0", device=options.device)
    real = batch_statistics(images.split(BATCH), network, "images")
    with torch.no_grad():
        slots = model.encode(images, [seeded_generator(0, number) for number in range(len(images))])
        ceiling = torch.cat([model.decode_latents(model.latents(part)) for part in images.split(BATCH)])
    print(
        f"{options.run}: {data.describe()}; torch {torch.__version__}, {platform.machine()}, {options.threads} threads"
    )
    rows: list[dict[str, float | str]] = [
        {"sampler": "ceiling", "steps": 0, "guidance": 1.0, **quality(ceiling, images, real), "seconds_per_image": 0.0}
    ]
    every = ((name, count) for name, counts in STEPS.items() for count in counts)
    tried = [(name, count, 1.0) for name, count in (("ddpm", model.schedule.steps), *every)]
    if options.samplers:
        words = [f"{one}:1".split(":") for one in options.samplers]
        tried = [(name, int(count), float(guidance)) for name, count, guidance, *_ in words]
    for sampler, steps, guidance in tried:
        started, sampling = time.perf_counter(), {"sampler": sampler, "steps": steps, "guidance": guidance}
        painted = torch.cat([paint(model, slots, start, **sampling) for start in range(0, len(slots), BATCH)])
        seconds = (time.perf_counter() - started) / len(slots)
        rows.append({**sampling, **quality(painted, images, real), "seconds_per_image": seconds})
        show(rows[-1], rows[1])
    if options.csv:
        save(rows, options.csv, COLUMNS)
    print(f"ceiling: MSE {rows[0]['mse']:.5f}, FD {rows[0]['fd']:.2f}, KD {rows[0]['kd']:.4f}")
    print(f"chance FD of {len(images)} images: {compare(real, real).chance:.2f}")


@torch.no_grad()
def score_masks(model: SlotDiffusion, images: Tensor, target: Tensor) -> None:
    size = images.shape[-2:]
    for timestep in sorted({*MASK_TIMESTEPS, model.mask_timestep}):
        model.mask_timestep = timestep
        predicted = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            slots = model.encode(part, [seeded_generator(0, start + number) for number in range(len(part))])
            noise = [seeded_generator(1, start + number) for number in range(len(part))]
            soft = model.cross_attention_masks(model.latents(part), slots, noise)
            predicted.append(functional.interpolate(soft, size=size, mode="bilinear").argmax(dim=1))
        masks = torch.cat(predicted)
        scores = [
            adjusted_rand_index(masks, target).mean(),
            adjusted_rand_index(masks, target, foreground_only=True).mean(),
            mean_best_overlap(masks, target).mean(),
        ]
        print(f"masks at timestep {timestep:4}: ARI {scores[0]:.3f}  FG-ARI {scores[1]:.3f}  mBO {scores[2]:.3f}")


def paint(model: SlotDiffusion, slots: Tensor, start: int, **sampling: Any) -> Tensor:
    part = slots[start : start + BATCH]
    noise = [seeded_generator(1, start + number) for number in range(len(part))]
    return model.generate(part, generator=noise, **sampling)


def quality(painted: Tensor, images: Tensor, real: SetStatistics) -> dict[str, float]:
    network = open_network("efficientnet-lite0", device=str(images.device))
    result = compare(real, batch_statistics(painted.split(BATCH), network, "samples"))
    return {"mse": float((painted - images).square().mean()), "fd": result.distance, "kd": result.kernel}


def show(row: dict[str, float | str], reference: dict[str, float | str]) -> None:
    ratios = {name: float(row[name]) / float(reference[name]) for name in ("mse", "fd", "kd")}
    print(
        f"{row['sampler']:14}{row['steps']:>5} steps  guidance {row['guidance']:g}  "
        f"MSE {row['mse']:.5f}  FD {row['fd']:.2f}  KD {row['kd']:.4f}  "
        f"against reference {ratios['mse']:.3f} {ratios['fd']:.3f} {ratios['kd']:.3f}  "
        f"{row['seconds_per_image']:.3f} s/image",
        flush=True,
    )


def measure_speed(model: SlotDiffusion, options: argparse.Namespace) -> None:
    model.eval()
    size = (options.batch_size, model.slots, model.slot_width)
    slots = torch.randn(size, generator=seeded_generator(0)).to(options.device)
    steps: dict[str, Callable[[], Tensor]] = {}
    for sampler, counts in STEPS_TIMED.items():
        for count in counts:
            name = f"slotlab, {sampler}, {count} steps"
            steps[name] = partial(model.generate, slots, count, sampler, seeded_generator(0), guidance=1.0)
    steps["slotlab, ddpm, 5 steps, guidance 2"] = partial(
        model.generate, slots, 5, "ddpm", seeded_generator(0), guidance=2.0
    )
    recomputed = "slots recomputed each step, dpm-solver++, 25 steps"
    steps[recomputed] = partial(paint_recomputed, model, slots, 25)
    timings = take_turns(steps, options.rounds)
    for timing in timings.values():
        timing.count = options.batch_size
    work = f"sampling, {options.run}, {model.resolution}x{model.resolution}, batch {options.batch_size}"
    work += f", {options.threads} threads"
    write(rows_of(work, timings, "images/s", against=recomputed), options.csv)


@torch.no_grad()
def paint_recomputed(model: SlotDiffusion, slots: Tensor, steps: int) -> Tensor:
    """As `generate`, but the keys and values of the slots are computed at each step."""
    autoencoder, painting = model.autoencoder, model.painting(slots)
    attended, seen = model.attended(slots), model.textured(painting, slots)
    shape = (len(slots), autoencoder.latent_channels, *(autoencoder.latent_size,) * 2)
    sampled = sample_steps(
        lambda latents, timesteps: model.denoiser(latents, timesteps, attended, painting=seen),
        shape,
        model.schedule,
        SamplingSettings(steps=steps),
        seeded_generator(0),
        slots.device,
    )
    return model.decode_latents(finish(sampled), painting)


if __name__ == "__main__":
    main()
