"""Weights for a model that is larger than the one they were trained in: more slots, more pixels per painted cell."""

from collections.abc import Mapping

import torch
from torch import Tensor

START, PAINT = "slot_attention.start", "to_rgb_and_mask."
COLOURS_AND_MASK = 4
NOISE = 0.3  # of a new slot's start, in standard deviations of all starts


def grown(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> tuple[dict[str, Tensor], list[str]]:
    """Makes the weights of a slot encoder or a broadcast decoder fit a larger one.

    Slots with learned starts, two at least, become more: a new one begins as one of the old ones but for the first,
    which is the background's where training makes it so; with noise, so that the two part. A cell comes to paint a
    whole number of times as many pixels on a side: each of the old ones is painted several times.

    Args:
        weights: state of the smaller part.
        shapes: of the tensors in the larger part.

    Returns:
        The weights, those that need no growth or cannot grow as they are, and what has grown, in words.
    """
    result, said = dict(weights), []
    for name, wanted in shapes.items():
        given = weights.get(name)
        if given is None or given.shape == wanted:
            continue
        if name == START and 1 < given.shape[1] < wanted[1]:
            result[name] = _with_more_slots(given, wanted[1])
            said.append(f"{given.shape[1]} to {wanted[1]} slots")
        elif name.startswith(PAINT) and (factor := _whole_factor(len(given), wanted[0])):
            result[name] = _with_more_pixels(given, factor)
            if name.endswith(".weight"):
                said.append(f"each pixel to {factor}x{factor}")
    return result, said


def _with_more_slots(start: Tensor, slots: int) -> Tensor:
    """Starts [1, K, D] of K slots, and after them those of new ones."""
    like = torch.arange(slots - start.shape[1]) % (start.shape[1] - 1) + 1
    noise = torch.randn(len(like), start.shape[2], generator=torch.Generator().manual_seed(0))
    return torch.cat([start, start[:, like] + NOISE * start.std() * noise.to(start)], dim=1)


def _with_more_pixels(painted: Tensor, factor: int) -> Tensor:
    """[4 * s * s, ...] to [4 * (factor * s)^2, ...], as `nn.PixelShuffle` orders channels."""
    side = round((len(painted) / COLOURS_AND_MASK) ** 0.5)
    pixels = painted.unflatten(0, (COLOURS_AND_MASK, side, side))
    return pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2).flatten(0, 2)


def _whole_factor(small: int, large: int) -> int | None:
    """By what whole number above 1 the side grows, where channels do from `small` to `large`."""
    factor = round((large / small) ** 0.5)
    return factor if factor > 1 and small * factor**2 == large else None
