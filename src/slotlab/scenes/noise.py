"""Random numbers by hashing, and periodic noise by table: clouds, random cells, white noise."""

from functools import lru_cache

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(value: Tensor) -> Tensor:
    """A 32-bit integer hash (Wellons' lowbias32) on int64 tensors that hold 0..2³²-1."""
    value = value ^ (value >> 16)
    value = (value * 0x7FEB352D) & _MASK
    value = value ^ (value >> 15)
    value = (value * 0x846CA68B) & _MASK
    return value ^ (value >> 16)


def scene_keys(seed: int, indices: Tensor, attempts: Tensor) -> Tensor:
    """One 32-bit key per scene from seed, scene index [B] and number of the attempt [B]."""
    key = _mix(torch.full_like(indices, (seed & _MASK) ^ 0x5CE7E5))
    key = _mix(key ^ ((seed >> 32) & _MASK))
    key = _mix(key ^ (indices & _MASK))
    key = _mix(key ^ ((indices >> 32) & _MASK) ^ 0x51D)
    return _mix(key ^ (attempts & _MASK) ^ 0xA77E)


def uniform(keys: Tensor, stream: int, count: int) -> Tensor:
    """Float32 [B, count] in [0, 1) for keys [B] and a stream; longer rows extend shorter ones."""
    counter = torch.arange(count, device=keys.device) + (stream << 16)
    bits = _mix(_mix(keys[:, None] ^ _mix(counter)) ^ counter)
    return (bits >> 8).to(torch.float32) * (1.0 / (1 << 24))


def lattice(x: Tensor, y: Tensor, stream: int) -> Tensor:
    """Float32 in [0, 1) at integer lattice points (int64 tensors that broadcast)."""
    bits = _mix(_mix((x & _MASK) ^ (stream * 0x9E37 + 0x79B9)) ^ (y & _MASK))
    return (bits >> 8).to(torch.float32) * (1.0 / (1 << 24))


SIDE = 512  # of the tables, in entries
CLOUD_CELL = 32  # entries per unit of the coarsest octave of `clouds`: it repeats every 16 units
CELL = 16  # entries per unit of `cells`: they repeat every 32 units


def clouds(u: Tensor, v: Tensor) -> Tensor:
    """Smooth noise of four octaves in about 0..1 (mean 0.5), with features of size 1 and below."""
    return _smooth(_cloud_table(u.device), *_entry(u * CLOUD_CELL, v * CLOUD_CELL))


class Cells:
    """Random cells of about unit size at coordinates (u, v)."""

    def __init__(self, u: Tensor, v: Tensor) -> None:
        self._tables, self._entry = _cell_tables(u.device), _entry(u * CELL, v * CELL)

    def centre(self) -> Tensor:
        """Distance to the centre of the cell."""
        return _smooth(self._tables[0], *self._entry)

    def border(self) -> Tensor:
        """How much nearer its centre is than the next cell's."""
        return _smooth(self._tables[1], *self._entry)

    def number(self) -> Tensor:
        """The cell's number in [0, 1)."""
        place = self._entry[0]
        return self._tables[2].index_select(0, place.view(-1)).view(place.shape)


def white(column: Tensor, row: Tensor) -> Tensor:
    """One number in [0, 1) per pair of whole numbers (given as float32)."""
    return _white_table(column.device).index_select(0, _place(column, row).view(-1)).view(column.shape)


def _place(column: Tensor, row: Tensor) -> Tensor:
    """Entry of a flat table of SIDE + 1 columns for whole numbers given as float32; int32."""
    column, row = (number.to(torch.int32).bitwise_and_(SIDE - 1) for number in (column, row))
    return row.mul_(SIDE + 1).add_(column)


def _entry(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entry of the table at floor(x), floor(y), and what is above these; overwrites x and y."""
    left, above = x.floor(), y.floor()
    return _place(left, above), x.sub_(left), y.sub_(above)


def _smooth(table: Tensor, place: Tensor, fx: Tensor, fy: Tensor) -> Tensor:
    """Bilinear look-up in a flat table of SIDE + 1 columns and rows; the last repeat the first."""
    corners = (table[by:].index_select(0, place.view(-1)).view(place.shape) for by in (0, 1, SIDE + 1, SIDE + 2))
    first, second, third, fourth = corners
    top = second.sub_(first).mul_(fx).add_(first)
    return fourth.sub_(third).mul_(fx).add_(third).sub_(top).mul_(fy).add_(top)


def _wrapped(table: Tensor, device: torch.device) -> Tensor:
    """A table with its first column and row repeated at the end, flat."""
    table = torch.cat([table, table[:, :1]], dim=1)
    return torch.cat([table, table[:1]], dim=0).reshape(-1).to(device)


@lru_cache(maxsize=4)
def _cloud_table(device: torch.device) -> Tensor:
    steps = torch.arange(SIDE)
    total, weight, cell = torch.zeros(SIDE, SIDE), 1.0, CLOUD_CELL
    for octave in range(4):
        count = SIDE // cell
        column = steps // cell
        fraction = (steps % cell).to(torch.float32) / cell
        ease = fraction * fraction * (3 - 2 * fraction)
        low, high = column % count, (column + 1) % count
        a, b = lattice(low[None], low[:, None], octave), lattice(high[None], low[:, None], octave)
        c, d = lattice(low[None], high[:, None], octave), lattice(high[None], high[:, None], octave)
        top, bottom = a + ease[None] * (b - a), c + ease[None] * (d - c)
        total = total + weight * (top + ease[:, None] * (bottom - top) - 0.5)
        weight, cell = weight * 0.55, cell // 2
    return _wrapped((total * 0.9 + 0.5).clamp(0, 1), device)


@lru_cache(maxsize=4)
def _cell_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    count, steps = SIDE // CELL, torch.arange(SIDE)
    home, inside = steps // CELL, (steps % CELL).to(torch.float32) / CELL
    first = torch.full((SIDE, SIDE), 9.0)
    second, number = first.clone(), torch.zeros(SIDE, SIDE)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            x, y = ((home + dx) % count)[None], ((home + dy) % count)[:, None]
            across = dx + 0.1 + 0.8 * lattice(x, y, 11) - inside[None]
            down = dy + 0.1 + 0.8 * lattice(x, y, 12) - inside[:, None]
            distance = (across * across + down * down).sqrt()
            nearer = distance < first
            second = torch.where(nearer, first, torch.minimum(second, distance))
            number = torch.where(nearer, lattice(x, y, 13), number)
            first = torch.minimum(first, distance)
    return _wrapped(first, device), _wrapped(second - first, device), _wrapped(number, device)


@lru_cache(maxsize=4)
def _white_table(device: torch.device) -> Tensor:
    steps = torch.arange(SIDE)
    return _wrapped(lattice(steps[None], steps[:, None], 21), device)
