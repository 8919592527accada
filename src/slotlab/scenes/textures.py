"""Materials: patterns with random palettes, scales, gloss and relief."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from slotlab.scenes import patterns
from slotlab.scenes.noise import clouds
from slotlab.scenes.patterns import Pattern, Relief, contrast, sine_turns
from slotlab.scenes.shapes import Vector, largest

NUMBERS = 24  # random numbers that one material draws from

Range = tuple[float, float]


@dataclass(frozen=True)
class Tint:
    """Ranges of a colour: hue in turns (below 0: the material's own), spread, saturation, value."""

    hue: float
    spread: float
    saturation: Range
    value: Range


@dataclass(frozen=True)
class Family:
    """A material family: its pattern and the ranges of its palette."""

    pattern: Pattern
    tints: tuple[Tint, Tint, Tint]
    scale: Range  # per unit of length
    gloss: Range = (0.1, 0.4)
    metal: float = 0.0
    bump: float = 0.0  # height of the relief
    relief: Relief | None = None  # the pattern's relief alone, of one with a bump
    wear: float = 0.0  # how far stains and fading darken a pattern that is too clean by itself
    grain: float = 0.0  # contrast of light and dark spots of all sizes, as in photographs


_OWN = -1.0
_ANY = Tint(_OWN, 0.03, (0.15, 0.8), (0.35, 0.95))
_DARK = Tint(_OWN, 0.05, (0.3, 0.9), (0.08, 0.35))
_LIGHT = Tint(_OWN, 0.08, (0.05, 0.4), (0.8, 1.0))
_OTHER = Tint(_OWN, 0.3, (0.1, 0.75), (0.2, 0.95))
_NEAR = Tint(_OWN, 0.06, (0.3, 0.85), (0.25, 0.7))
_GREY = Tint(0.1, 0.1, (0.0, 0.15), (0.55, 0.85))
_BLACK = Tint(0.1, 0.5, (0.0, 0.4), (0.03, 0.2))
_TIMBER = Tint(0.07, 0.035, (0.4, 0.75), (0.45, 0.85))
_TIMBER_DARK = Tint(0.06, 0.03, (0.5, 0.8), (0.18, 0.4))
_CLAY = Tint(0.03, 0.05, (0.3, 0.75), (0.4, 0.75))
_STEEL = Tint(_OWN, 0.05, (0.02, 0.35), (0.6, 0.9))
_STONE = Tint(0.1, 0.08, (0.03, 0.3), (0.35, 0.8))

FAMILIES: dict[str, Family] = {
    "rubber": Family(patterns.uniform, (Tint(_OWN, 0.0, (0.6, 0.95), (0.4, 0.95)), _ANY, _ANY), (1, 1), (0.1, 0.25)),
    "metal": Family(patterns.uniform, (Tint(_OWN, 0.0, (0.55, 0.9), (0.5, 0.98)), _ANY, _ANY), (1, 1), (0.75, 0.95),
                    metal=0.55),
    "backdrop": Family(patterns.uniform, (Tint(0.1, 0.1, (0.0, 0.05), (0.6, 0.72)), _ANY, _ANY), (1, 1), (0, 0)),
    "uniform": Family(patterns.worn, (_ANY, Tint(_OWN, 0.02, (0.35, 0.9), (0.3, 0.85)), _ANY), (0.6, 1.5), (0.1, 0.9)),
    "marble": Family(patterns.marble, (_LIGHT, Tint(_OWN, 0.1, (0.05, 0.5), (0.45, 0.8)), _DARK), (0.7, 2),
                     (0.5, 0.85)),
    "wood": Family(patterns.wood, (_TIMBER, _TIMBER_DARK, _TIMBER_DARK), (0.8, 2.2), (0.15, 0.6)),
    "planks": Family(patterns.planks, (_TIMBER, Tint(0.07, 0.05, (0.2, 0.6), (0.35, 0.7)), _BLACK), (1, 2.5),
                     (0.1, 0.5), bump=0.02, relief=patterns.planks_height),
    "bricks": Family(patterns.bricks, (_CLAY, Tint(0.04, 0.06, (0.2, 0.7), (0.25, 0.55)), _GREY), (1.6, 4.2),
                     (0.05, 0.2), bump=0.035, relief=patterns.bricks_height),
    "checker": Family(patterns.checker, (_ANY, _OTHER, _GREY), (0.9, 3), (0.2, 0.8), wear=0.45),
    "stripes": Family(patterns.stripes, (_ANY, _OTHER, _LIGHT), (1.2, 4), (0.1, 0.5), wear=0.4),
    "dots": Family(patterns.dots, (_ANY, _OTHER, _LIGHT), (1.5, 4.5), (0.1, 0.5), wear=0.4),
    "cells": Family(patterns.pebbles, (_STONE, Tint(0.08, 0.1, (0.1, 0.5), (0.3, 0.7)), _BLACK), (1.8, 5), (0.1, 0.4),
                    bump=0.05, relief=patterns.pebbles_height),
    "noise": Family(patterns.noise, (_ANY, _NEAR, _OTHER), (0.9, 3), (0.05, 0.3),
                    bump=0.05, relief=patterns.noise_height),
    "brushed": Family(
        patterns.brushed, (_STEEL, Tint(_OWN, 0.05, (0.02, 0.35), (0.4, 0.65)), _ANY), (0.8, 1.8), (0.6, 0.8), metal=0.6
    ),
    "speckled": Family(patterns.speckled, (_STONE, _BLACK, _LIGHT), (1.5, 3.5), (0.3, 0.75)),
    "weave": Family(patterns.weave, (_ANY, _NEAR, _DARK), (4, 9), (0.02, 0.1),
                    bump=0.03, relief=patterns.weave_height, wear=0.3),
    "rust": Family(
        patterns.rust, (Tint(_OWN, 0.1, (0.05, 0.5), (0.35, 0.7)), Tint(0.05, 0.025, (0.6, 0.9), (0.3, 0.6)), _BLACK),
        (0.8, 2.2), (0.2, 0.5), bump=0.05, relief=patterns.rust_height,
    ),
    "chevron": Family(patterns.chevron, (_ANY, _OTHER, _LIGHT), (1.2, 3), (0.1, 0.5), wear=0.4),
    "tartan": Family(patterns.tartan, (_ANY, _DARK, _LIGHT), (1.2, 3), (0.02, 0.1), wear=0.3),
    "rings": Family(patterns.rings, (_ANY, _OTHER, _DARK), (1, 2.5), (0.2, 0.7), wear=0.4),
    "leopard": Family(
        patterns.leopard, (Tint(0.1, 0.06, (0.3, 0.7), (0.6, 0.95)), Tint(0.08, 0.04, (0.5, 0.8), (0.4, 0.65)), _BLACK),
        (2.2, 5), (0.05, 0.3),
    ),
    "mosaic": Family(patterns.mosaic, (_ANY, _OTHER, _GREY), (1.4, 3.5), (0.3, 0.8), wear=0.4),
    "crackle": Family(patterns.crackle, (_OTHER, _NEAR, _DARK), (1.2, 3), (0.2, 0.6),
                      bump=0.04, relief=patterns.crackle_height),
}  # fmt: skip
TEXTURES = (  # those of the variants that models are trained on
    "uniform", "marble", "wood", "planks", "bricks", "checker", "stripes", "dots", "cells", "noise", "brushed",
    "speckled", "weave", "rust",
)  # fmt: skip


def _earthen(tint: Tint) -> Tint:
    """A tint of any hue as one of soil, wood or stone."""
    if tint.hue >= 0:
        return tint
    return replace(tint, hue=0.08, spread=0.06 + tint.spread / 4, saturation=(0.02, 0.75 * tint.saturation[1]))


def _grained(family: Family) -> Family:
    first, second, third = map(_earthen, family.tints)
    coarsest, finest = family.scale
    return replace(family, tints=(first, second, third), grain=0.7, scale=(0.7 * coarsest, finest))


FAMILIES |= {f"grained-{name}": _grained(FAMILIES[name]) for name in TEXTURES}
MATERIALS: tuple[str, ...] = tuple(FAMILIES)
_TINTS = torch.tensor([[[t.hue, t.spread, *t.saturation, *t.value] for t in f.tints] for f in FAMILIES.values()])
_RANGES = torch.tensor([[*f.scale, *f.gloss, f.metal, f.bump, f.wear] for f in FAMILIES.values()])


class Surface(NamedTuple):
    """Linear colour, gloss and metal in [0, 1], and how steeply the relief faces the light."""

    red: Tensor
    green: Tensor
    blue: Tensor
    gloss: Tensor
    metal: Tensor
    rise: Tensor


def prepare(material: Tensor, numbers: Tensor, vividness: float = 1.0) -> Tensor:
    """Turns random numbers [M, 24] of materials [M] into coefficients [21, M], on the CPU.

    Rows: offset (2), turn and scale (2: cosine and sine, scaled), three linear colours (9), gloss,
    metal, scale, bump, three free numbers, and wear. `vividness` scales the colours' saturation.
    """
    offset_u, offset_v, turn, size, odd, any_hue = numbers[:, :6].unbind(1)
    hue, spread, faintest, strongest, darkest, lightest = _TINTS[material].unbind(2)  # [M, 3] each
    coarsest, finest, dullest, glossiest, metal, bump, wear = _RANGES[material].unbind(1)
    scale = coarsest + (finest - coarsest) * size * size
    a, b, c = numbers[:, 6:15].unflatten(1, (3, 3)).unbind(2)
    # The odd material takes any hue in place of its usual one.
    hue = torch.where((hue < 0) | (odd >= 0.8)[:, None], any_hue[:, None], hue) + spread * (2 * a - 1)
    saturation = (faintest + (strongest - faintest) * b) * vividness
    value = darkest + (lightest - darkest) * c
    k = hue[..., None] * 6 + torch.tensor([5.0, 3.0, 1.0])  # red, green, blue
    k = k - 6 * torch.floor(k / 6)
    channel = value[..., None] - (value * saturation)[..., None] * torch.minimum(k, 4 - k).clamp(0, 1)
    colours = (channel * channel * (0.75 + 0.25 * channel)).flatten(1).unbind(1)
    gloss = dullest + (glossiest - dullest) * numbers[:, 15]
    place = [offset_u * 16, offset_v * 16, sine_turns(turn + 0.25) * scale, sine_turns(turn) * scale]
    return torch.stack([*place, *colours, gloss, metal, scale, bump, *numbers[:, 16:19].unbind(1), wear])


def colours_of(coefficients: Tensor) -> Tensor:
    """The materials' first colours as display values, [M, 3] in [0, 1]."""
    return coefficients[4:7].T.clamp(min=0).sqrt()


def box_coordinates(point: Vector, normal: Vector) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Surface coordinates (u, v) by projection along the normal's largest component.

    Also 1 where that is x, and 1 where it is x or y: u runs along x, or along y on an x side; v
    along y, or along z on an x or y side.
    """
    on_x, on_y = largest(normal)
    u = point[0] + on_x * (point[1] - point[0]) + 7.3 * on_x + 3.7 * on_y
    v = point[1] + (on_x + on_y) * (point[2] - point[1]) + 1.9 * on_x + 5.1 * on_y
    return u, v, on_x, on_x + on_y


def paint(
    material: int, row: tuple[Tensor, ...], u: Tensor, v: Tensor, width: Tensor, ahead: tuple[Tensor, Tensor]
) -> Surface:
    """A material (place in `MATERIALS`) at surface coordinates (u, v), in lengths; broadcasts.

    Takes its coefficients, 21 tensors that broadcast with `u`; the width of a sample, in lengths;
    and how the light direction runs along u and v (for the relief).
    """
    family = FAMILIES[MATERIALS[material]]
    if family.pattern is patterns.uniform:
        return Surface(row[4], row[5], row[6], row[13], row[14], torch.zeros((), device=u.device))
    free = row[17:20]
    x = (u * row[2]).add_(row[0]).sub_(v * row[3])
    y = (u * row[3]).add_(row[1]).add_(v * row[2])
    soft = width * row[15]
    second, third, height = family.pattern(x, y, soft, *free)
    shade = 1 - row[20] * contrast(clouds(y * 0.4 + 3.3, x * 0.4), 0.45, 2) if family.wear else None
    if family.grain:
        fine = (1 - soft * 8).clamp_(0, 1)  # less than a sample is not seen
        spots = clouds(x * 2, y * 2 + 5.1).sub_(0.5).mul_(0.6).add_(clouds(x * 8, y * 8).sub_(0.5).mul_(fine))
        spots = spots.mul_(2 * family.grain).add_(1).clamp_(min=0.1)
        shade = spots if shade is None else shade * spots
    colour = []
    for channel in range(3):
        one, two, three = row[4 + channel], row[7 + channel], row[10 + channel]
        mixed = one if second is None else (second * (two - one)).add_(one)
        if third is not None:
            mixed = (three - mixed).mul_(third).add_(mixed)
        mixed = mixed if shade is None else mixed * shade
        colour.append(mixed.clamp_(max=1) if family.grain else mixed)
    rise = torch.zeros((), device=u.device)
    if height is not None and family.relief is not None:
        reach = width + 0.02
        du, dv = ahead[0] * reach, ahead[1] * reach
        x = (du * row[2]).add_(x).sub_(dv * row[3])
        y = (du * row[3]).add_(y).add_(dv * row[2])
        rise = (family.relief(x, y, soft, *free) - height).mul_(row[16] / reach)
    gloss = row[13] if third is None else row[13] * (1 - 0.6 * third)
    return Surface(colour[0], colour[1], colour[2], gloss, row[14], rise)
