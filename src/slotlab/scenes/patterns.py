"""The patterns of the materials: how three colours, and relief, are laid out over a plane.

A pattern gets coordinates in its own units (one tile, brick, cell … is about 1), the width of a
sample in them, and three random numbers in [0, 1) of its material. It returns how much of the
second and of the third colour shows (0..1), and the height of the relief (0..1); None for none.
`planks_height` and the like give the relief alone, which is needed at a second place too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from slotlab.scenes.noise import Cells, clouds, white

Layers = tuple[Tensor | None, Tensor | None, Tensor | None]
Pattern = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Layers]
Relief = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def sine_turns(turns: Tensor) -> Tensor:
    """sin(2π · turns) to about 1e-3, from exactly rounded operations only."""
    x = turns - torch.floor(turns + 0.5)  # -0.5..0.5
    y = x * (8 - 16 * x.abs())
    return y * (0.775 + 0.225 * y.abs())


def edge(x: Tensor, width: Tensor) -> Tensor:
    """1 where x > 0, 0 where x < 0, and a ramp of `width` between."""
    return (x / width).add_(0.5).clamp_(0, 1)


def contrast(x: Tensor, middle: Tensor | float, gain: float) -> Tensor:
    """`x` spread around `middle`, cut to 0..1."""
    return (x - middle).mul_(gain).add_(0.5).clamp_(0, 1)


def _fraction(x: Tensor) -> Tensor:
    whole = x.floor()
    return torch.sub(x, whole, out=whole)


def _zigzag(x: Tensor) -> Tensor:
    """1 at whole numbers, 0 in the middle between them."""
    return _fraction(x).mul_(2).sub_(1).abs_()


def uniform(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """One even colour."""
    return None, None, None


def worn(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """An even colour, here and there a little off."""
    return contrast(clouds(u, v), 0.5, 1.6), None, None


def marble(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Cloudy stone with thin veins."""
    cloud = clouds(u, v)
    vein = _zigzag(0.45 * v + (2.2 + 1.5 * a) * cloud)
    vein = vein * vein
    vein = vein * vein
    return contrast(cloud, 0.45, 1.5), vein * vein * (0.55 + 0.45 * b), None


def wood(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Growth rings and fine grain."""
    warp = clouds(u * 0.5, v * 0.12)
    ring = _fraction(u * (1.2 + a) + 5 * warp)
    grain = clouds(u * 7, v * 0.35)
    return ring * ring * (1.1 - 0.1 * ring), contrast(grain, 0.6, 2.5) * 0.6, None


def planks(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Floor boards of uneven tone, with gaps."""
    row, plank, gap = _boards(u, v, width)
    tone = white(row, plank)
    grain = clouds(u * 5 + 13 * tone, v * 0.4)
    return (0.75 * tone + contrast(grain, 0.5, 1.5) - 0.4).clamp_(0, 1), gap * 0.9, 1 - gap


def planks_height(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Relief of `planks`."""
    return 1 - _boards(u, v, width)[2]


def _boards(u: Tensor, v: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row and number of each board, and the gaps between boards."""
    row = u.floor()
    along = v * 0.22 + 7 * white(row, row)
    plank = along.floor()
    across, lengthwise = u - row, along - plank
    joint = torch.minimum(torch.minimum(across, 1 - across), torch.minimum(lengthwise, 1 - lengthwise) * 4.5)
    return row, plank, 1 - edge(joint - 0.03, width + 0.02)


def bricks(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Bricks of uneven tone in a running bond, with mortar."""
    column, row, body = _courses(u, v, width, a)
    rough = clouds(u * 2, v * 2)
    tone = (white(column, row) * 0.8 + rough - 0.4).clamp_(0, 1)
    return tone, 1 - body, body * (0.7 + 0.3 * rough)


def bricks_height(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Relief of `bricks`."""
    return _courses(u, v, width, a)[2] * (0.7 + 0.3 * clouds(u * 2, v * 2))


def _courses(u: Tensor, v: Tensor, width: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column and row of each brick, and 1 on bricks."""
    row = v.floor()
    x = u * 0.5 + 0.5 * (row - 2 * (row * 0.5).floor())
    column = x.floor()
    fx, fy = x - column, v - row
    joint = torch.minimum(torch.minimum(fx, 1 - fx) * 2, torch.minimum(fy, 1 - fy))
    return column, row, edge(joint - (0.05 + 0.06 * a), width + 0.04)


def checker(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """A chessboard, sometimes with joints."""
    x, y = _zigzag(u * 0.5) - 0.5, _zigzag(v * 0.5) - 0.5
    soft = width + 0.01
    x, y = edge(x, soft), edge(y, soft)
    fx, fy = _fraction(u + 0.5), _fraction(v + 0.5)
    joint = torch.minimum(torch.minimum(fx, 1 - fx), torch.minimum(fy, 1 - fy))
    return x + y - 2 * x * y, (1 - edge(joint - 0.03, soft + 0.02)) * contrast(a, 0.5, 9), None


def stripes(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Parallel stripes, sometimes with a third, thin one."""
    x = _zigzag(u)
    soft = 2 * width + 0.02
    thin = _zigzag(u + 0.5 * c)
    return edge(x - (0.35 + 0.35 * a), soft), (1 - edge(thin - 0.14, soft)) * contrast(b, 0.5, 9), None


def dots(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Dots in staggered rows, sometimes with an inner dot."""
    row = v.floor()
    x, y = _fraction(u + 0.5 * row) - 0.5, v - row - 0.5
    reach = (x * x + y * y).sqrt()
    soft = width + 0.02
    size = 0.24 + 0.16 * a
    return 1 - edge(reach - size, soft), (1 - edge(reach - 0.5 * size, soft)) * contrast(b, 0.6, 9), None


def pebbles(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Rounded stones of uneven tone, packed."""
    cells = Cells(u, v)
    body, height = _stones(cells, width, a)
    return cells.number(), 1 - body, height


def pebbles_height(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Relief of `pebbles`."""
    return _stones(Cells(u, v), width, a)[1]


def _stones(cells: Cells, width: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """1 on stones, and their height."""
    border = cells.border()
    body = edge(border - (0.06 + 0.08 * a), width + 0.1)
    return body, body * (0.6 + (border * 1.2).clamp(max=0.4))


def noise(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Patches of two colours with spots of a third."""
    coarse = clouds(u, v)
    return contrast(coarse, 0.5, 3), contrast(clouds(u * 3 + 5, v * 3), 0.62, 4) * 0.8, coarse


def noise_height(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Relief of `noise`."""
    return clouds(u, v)


def brushed(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Fine scratches in one direction."""
    scratch = clouds(u * 9, v * 0.3)
    return contrast(scratch, 0.5, 2), None, None


def speckled(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Grains of two colours on a third."""
    fine = clouds(u * 2.5, v * 2.5)
    other = clouds(v * 2.1 + 3.7, u * 2.1)
    return contrast(fine, 0.6 - 0.1 * a, 9), contrast(other, 0.66 - 0.08 * b, 12), fine


def weave(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Threads over and under each other."""
    turn, height = _threads(u, v)
    return turn, (0.8 - height).clamp_(0, 1), height


def weave_height(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Relief of `weave`."""
    return _threads(u, v)[1]


def _threads(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Which thread is on top, 0 or 1, and its height."""
    column, row = u.floor(), v.floor()
    turn = _fraction((column + row) * 0.5) * 2
    x, y = u - column, v - row
    round_x, round_y = 4 * x * (1 - x), 4 * y * (1 - y)
    return turn, round_y + turn * (round_x - round_y)


def rust(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Patches of rough rust on paint."""
    part, fine = _patches(u, v, a)
    return part, contrast(fine, 0.5, 3) * part * 0.8, part * fine


def rust_height(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Relief of `rust`."""
    part, fine = _patches(u, v, a)
    return part * fine


def _patches(u: Tensor, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """1 where there is rust, and how rough it is."""
    coarse, fine = clouds(u, v), clouds(u * 4, v * 4)
    return contrast(coarse + 0.25 * fine, 0.5 + 0.25 * a, 6), fine


def chevron(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Zigzag stripes."""
    x = _zigzag(v + _zigzag(u))
    soft = 4 * width + 0.03
    return edge(x - 0.5, soft), (1 - edge((x - 0.5).abs() - 0.1, soft)) * contrast(b, 0.5, 9), None


def tartan(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Wide bands and thin lines, crossing."""
    x, y = _zigzag(u), _zigzag(v)
    soft = 2 * width + 0.02
    wide = edge(x - 0.55, soft) + edge(y - 0.55, soft)
    lines = torch.maximum(1 - edge((x - 0.2).abs() - 0.06, soft), 1 - edge((y - 0.2).abs() - 0.06, soft))
    return wide * 0.5, lines * (0.5 + 0.5 * a), None


def rings(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Concentric rings in staggered rows."""
    row = v.floor()
    x, y = _fraction(u + 0.5 * row) - 0.5, v - row - 0.5
    reach = (x * x + y * y).sqrt()
    wave = _zigzag(reach * (3 + 2 * a))
    return edge(wave - 0.5, 6 * width + 0.05), edge(reach - 0.46, width + 0.02), None


def leopard(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Rosettes: spots with a dark rim."""
    reach = Cells(u, v).centre() + 0.35 * (clouds(u, v) - 0.5)
    soft = width + 0.05
    inside = 1 - edge(reach - 0.36, soft)
    return inside, inside * edge(reach - 0.2, soft), None


def mosaic(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Triangular tiles of uneven tone, with joints."""
    column, row = u.floor(), v.floor()
    x, y = u - column, v - row
    upper = edge(x + y - 1, width * 0.01 + 1e-6).round()
    tone = white(column + 200 * upper, row)
    joint = torch.minimum((x + y - 1).abs() * 0.7, torch.minimum(torch.minimum(x, 1 - x), torch.minimum(y, 1 - y)))
    return tone, 1 - edge(joint - 0.035, width + 0.02), None


def crackle(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Layers:
    """Glaze with a net of cracks."""
    cloud, cells = _glaze(u, v)
    body = edge(cells.border() - 0.05, width + 0.05)
    return (0.3 * cells.number() + cloud - 0.2).clamp_(0, 1), 1 - body, body


def crackle_height(u: Tensor, v: Tensor, width: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Relief of `crackle`."""
    return edge(_glaze(u, v)[1].border() - 0.05, width + 0.05)


def _glaze(u: Tensor, v: Tensor) -> tuple[Tensor, Cells]:
    """Its clouds, and its cells."""
    cloud = clouds(u * 0.7, v * 0.7)
    return cloud, Cells(u + 0.6 * cloud, v - 0.6 * cloud)
