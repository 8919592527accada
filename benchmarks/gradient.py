"""Time and memory that the gradient of the last iteration saves (Chang et al. 2022).

    python benchmarks/gradient.py [--threads 2] [--rounds 9]

Protocol: forward and backward in float32 with `slot_attention.gradient` "full" and
"last-iteration", each in a separate process, in turns; medians, after one turn to warm up; ratios
to "full". Once of slot attention alone (batch 8, 64x64 features of width 64, as of the report's
128x128 images, 11 slots), once of the preset `scenes-64` with its encoder, decoder and losses
(batch 16, random images); with as many iterations as the table says. Memory is counted: the bytes
of all tensors that the forward pass keeps for the gradient, weights left out.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from contest import Rival, Step, rivals_take_turns, rows_of, write
from torch import Tensor, nn

from slotlab import create_model
from slotlab.models import SlotAttention
from slotlab.training.resources import keep_freed_memory, kept_bytes

ITERATIONS = (3, 7)
Gradient = Literal["full", "last-iteration"]
GRADIENTS: tuple[Gradient, ...] = ("full", "last-iteration")
PIXELS, WIDTH, SLOTS = 64 * 64, 64, 11
Loss = Callable[[], Tensor]


def alone(gradient: Gradient, iterations: int) -> tuple[nn.Module, Loss]:
    attention = SlotAttention(WIDTH, slots=SLOTS, iterations=iterations, initialisation="learned", gradient=gradient)
    features = torch.rand(8, PIXELS, WIDTH, requires_grad=True)
    return attention, lambda: attention(features)[0].square().mean()


def whole_model(gradient: Gradient, iterations: int) -> tuple[nn.Module, Loss]:
    model = create_model("scenes-64", iterations=iterations, gradient=gradient)
    images = torch.rand(16, 3, model.resolution, model.resolution)
    return model, lambda: model.losses(model(images), images).mean()


WORKS = {"slot attention alone": alone, "scenes-64": whole_model}


def make_step(what: str, gradient: Gradient, iterations: int) -> Step:
    keep_freed_memory()
    model, loss = WORKS[what](gradient, iterations)

    def step() -> None:
        loss().backward()
        model.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    rows = []
    for what in WORKS:
        for iterations in ITERATIONS:
            rivals = {kind: Rival(make_step, (what, kind, iterations), options.threads) for kind in GRADIENTS}
            timings = rivals_take_turns(rivals, options.rounds)
            for kind in GRADIENTS:
                timings[kind].peak_mib = kept_bytes(*WORKS[what](kind, iterations)) / 2**20
            work = f"forward and backward, {what}, {iterations} iterations, {options.threads} threads"
            rows += rows_of(work, timings, "ms", against="full")
    write(rows, options.csv)


if __name__ == "__main__":
    main()
