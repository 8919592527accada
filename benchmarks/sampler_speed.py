"""Time of a sample of slot diffusion, by sampler and steps, with the keys and values of slots computed once or anew.

    python benchmarks/sampler_speed.py [--model scenes-64-diffusion] [--batch-size 16] [--rounds 3] [--threads 1]

Protocol. A turn paints `--batch-size` images from slots that are in memory: all steps of the denoiser, then the
autoencoder's decoder, in float32. The contenders take turns in one process, after a turn that is not counted; the table
has the median time of one image. What the steps buy in quality is in sampling.py.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from contest import rows_of, take_turns, write
from torch import Tensor

import slotlab
from slotlab.models import SlotDiffusion
from slotlab.models.randomness import seeded_generator
from slotlab.models.sampling import sample

STEPS = {"dpm-solver++": (5, 10, 25), "ddim": (10, 25), "ddpm": (25,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-64-diffusion", help="a run folder, or the name of a trained model")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = slotlab.load(options.model, options.device)
    if not isinstance(model, SlotDiffusion):
        parser.error(f"{options.model} holds a {model.kind}, which does not sample")
    model.eval()
    size = (options.batch_size, model.slots, model.encoder.slot_attention.dim)
    slots = torch.randn(size, generator=seeded_generator(0)).to(options.device)
    steps: dict[str, Callable[[], Tensor]] = {}
    for sampler, counts in STEPS.items():
        for count in counts:
            name = f"slotlab, {sampler}, {count} steps"
            steps[name] = partial(model.generate, slots, count, sampler, seeded_generator(0))
    anew = "slots anew each step, dpm-solver++, 25 steps"
    steps[anew] = partial(paint_anew, model, slots, 25)
    timings = take_turns(steps, options.rounds)
    for timing in timings.values():
        timing.count = options.batch_size
    work = f"sampling, {options.model}, {model.resolution}x{model.resolution}, batch {options.batch_size}"
    work += f", {options.threads} threads"
    write(rows_of(work, timings, "images/s", against=anew), options.csv)


@torch.no_grad()
def paint_anew(model: SlotDiffusion, slots: Tensor, steps: int) -> Tensor:
    """As `generate`, but the denoiser turns the slots into keys and values at each step."""
    autoencoder = model.autoencoder
    shape = (len(slots), autoencoder.latent_channels, *(autoencoder.latent_size,) * 2)
    latents = sample(
        lambda latents, timesteps: model.denoiser(latents, timesteps, slots),
        shape,
        model.schedule,
        steps=steps,
        generator=seeded_generator(0),
        device=slots.device,
    )
    return autoencoder.decode(latents).clamp(0, 1)


if __name__ == "__main__":
    main()
