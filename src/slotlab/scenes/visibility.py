"""Which object each sample of an image shows: screen boxes, tiles and a depth buffer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slotlab.scenes import shapes
from slotlab.scenes.layout import CONTACT, FOCAL, LIGHT_RADIUS, Layout, in_camera

TILE, PART = 8, 4  # sides of the squares of samples that cover objects and shadows, and of their parts that are tried
MARGIN = 0.03  # of bounds, in sizes of the object
_FAR = (0x7F000000 << 32) - 1  # beyond every hit
_MISSED = int(torch.tensor(shapes.MISS, dtype=torch.float32).view(torch.int32)) << 32


@dataclass(frozen=True)
class Grid:
    """The samples of an image, of whose shorter side the objects fill the part `framing`."""

    height: int
    width: int
    framing: float
    device: torch.device

    @property
    def half(self) -> float:
        """Half the side of the framed square."""
        return min(self.height, self.width) * self.framing / 2

    def plane(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Sample coordinates (column, row) to slopes of the ray (right, up)."""
        step = 1 / (2 * self.half * FOCAL)
        return (2 * x + (1 - self.width)) * step, ((self.height - 1) - 2 * y) * step


@dataclass(frozen=True)
class Tiles:
    """Squares of samples: object `owner` [n], first column `x` and row `y` [n]."""

    owner: Tensor
    x: Tensor
    y: Tensor


def bounding_radius(layout: Layout) -> Tensor:
    """Radius of the ball around every object's centre that holds it [M]."""
    return shapes.RADII[layout.shape] * layout.scale


def _corners(layout: Layout) -> shapes.Vector:
    """The corners of the objects' boxes, x, y, z [M, 8]; the last four are the upper ones."""
    extent = shapes.EXTENTS[layout.shape] * layout.scale[:, None]
    sign = torch.tensor([-1.0, 1.0])
    sz, sy, sx = (part.reshape(-1) for part in torch.meshgrid(sign, sign, sign, indexing="ij"))
    x, y = extent[:, :1] * sx, extent[:, 1:2] * sy
    cos, sin = layout.turn[:, :1], layout.turn[:, 1:]
    centre = layout.centre
    return centre[:, :1] + cos * x - sin * y, centre[:, 1:2] + sin * x + cos * y, centre[:, 2:] + extent[:, 2:3] * sz


def object_tiles(layout: Layout, grid: Grid) -> Tiles:
    """Tiles over each object's box on the screen (on the CPU)."""
    camera = layout.camera[layout.scene, :, None]
    depth, right, up = in_camera(camera, _corners(layout))
    depth = depth.clamp(min=0.1)
    x, y = right / depth, up / depth
    depth, right, up = in_camera(camera, layout.centre[:, :, None].unbind(1))
    radius = bounding_radius(layout)[:, None]
    lower, upper = [], []
    for box, side in ((x, right), (y, up)):
        spread = radius * (side * side + depth * depth - radius * radius).clamp(min=0).sqrt()
        below = (depth * depth - radius * radius).clamp(min=1e-3)
        lower.append(torch.maximum(box.amin(dim=1), ((side * depth - spread) / below)[:, 0]))
        upper.append(torch.minimum(box.amax(dim=1), ((side * depth + spread) / below)[:, 0]))
    return _cover(lower[0], upper[0], lower[1], upper[1], grid)


def shadow_tiles(layout: Layout, key: Tensor, grid: Grid) -> Tiles:
    """Tiles of the ground that each object's shadows can reach, on the CPU; `key` [B, 3]."""
    cx, cy, cz = (corner[:, 4:] for corner in _corners(layout))
    light = key[layout.scene]
    stretch = light[:, 2:] / (light[:, 2:] - cz)
    gx, gy = light[:, 0:1] + (cx - light[:, 0:1]) * stretch, light[:, 1:2] + (cy - light[:, 1:2]) * stretch
    blur = 1.2 * LIGHT_RADIUS * ((gx - cx) ** 2 + (gy - cy) ** 2 + cz * cz).sqrt()
    reach = (shapes.EXTENTS[layout.shape, :2].amax(dim=1) + CONTACT) * layout.scale
    bx = layout.centre[:, :1] + reach[:, None] * torch.tensor([-1.0, -1.0, 1.0, 1.0])
    by = layout.centre[:, 1:2] + reach[:, None] * torch.tensor([-1.0, 1.0, -1.0, 1.0])
    x = torch.cat([bx, gx - blur, gx - blur, gx + blur, gx + blur], dim=1)
    y = torch.cat([by, gy - blur, gy + blur, gy - blur, gy + blur], dim=1)
    depth, right, up = in_camera(layout.camera[layout.scene, :, None], (x, y, torch.zeros_like(x)))
    depth = depth.clamp(min=0.1)
    x, y = right / depth, up / depth
    return _cover(x.amin(dim=1), x.amax(dim=1), y.amin(dim=1), y.amax(dim=1), grid)


def _cover(left: Tensor, right: Tensor, bottom: Tensor, top: Tensor, grid: Grid) -> Tiles:
    """Tiles that cover boxes given as slopes [M]."""
    scale = grid.half * FOCAL
    x0 = torch.floor(left * scale + (grid.width - 1) / 2).clamp(0, grid.width).to(torch.int64)
    x1 = torch.ceil(right * scale + (grid.width + 1) / 2).clamp(0, grid.width).to(torch.int64)
    y0 = torch.floor((grid.height - 1) / 2 - top * scale).clamp(0, grid.height).to(torch.int64)
    y1 = torch.ceil((grid.height + 1) / 2 - bottom * scale).clamp(0, grid.height).to(torch.int64)
    across = (x1 - x0 + (TILE - 1)).clamp(min=0) // TILE
    down = (y1 - y0 + (TILE - 1)).clamp(min=0) // TILE
    number = across * down
    owner = torch.repeat_interleave(torch.arange(len(left)), number)
    order = torch.arange(len(owner)) - (number.cumsum(0) - number)[owner]
    across = across[owner]
    x, y = x0[owner] + order % across * TILE, y0[owner] + order // across * TILE
    # The last ones move back into the frame, where they try some samples again, to no effect.
    return Tiles(owner, x.clamp(max=grid.width - TILE), y.clamp(max=grid.height - TILE))


def local_rays(layout: Layout) -> Tensor:
    """The camera's origin and axes in every object's frame and size [12, M], on the CPU."""
    camera = layout.camera[layout.scene]
    position, *axes = camera.split(3, dim=1)
    rows = [turned(layout, vector) for vector in (position - layout.centre, *axes)]
    return torch.cat(rows) * (1 / layout.scale)


def turned(layout: Layout, vector: Tensor) -> Tensor:
    """World vectors [M, 3] along the axes of every object [3, M]."""
    (cos, sin), (x, y, z) = layout.turn.unbind(1), vector.unbind(1)
    return torch.stack([cos * x + sin * y, cos * y - sin * x, z])


# Whether parts of tiles matter to their owners, by owners, first columns and rows, int64 [n] each.
Reaches = Callable[[Tensor, Tensor, Tensor], Tensor]


def rays_by_shape(
    tiles: Tiles, layout: Layout, table: Tensor, grid: Grid, reaches: Reaches
) -> Iterator[tuple[Any, ...]]:
    """The rays of all samples that matter in the tiles, in the frames of their owners, by shape.

    Yields the shape, the columns of `table` (from `local_rays`) of n parts of tiles, the directions
    [PART², n], and the places [PART² · n] among the samples of all images. A part matters if
    `reaches` is true for its owner.
    """
    device, each = grid.device, TILE // PART
    step = torch.arange(each, device=device) * PART
    owner, x, y = (one.to(device)[:, None, None] for one in (tiles.owner, tiles.x, tiles.y))
    parts = torch.broadcast_tensors(owner, x + step, y + step[:, None])
    owner, x, y = (one.reshape(-1) for one in parts)
    mine = torch.nonzero(reaches(owner, x, y)).squeeze(1)
    owner, x, y = (one.index_select(0, mine) for one in (owner, x, y))
    step = torch.arange(PART * PART, device=device)[:, None]
    column, line = step % PART, step // PART
    scene = layout.scene.to(device)
    for kind, mine in by_kind(layout.shape, owner):
        one, left, top = (of.index_select(0, mine) for of in (owner, x, y))
        corner = (scene.index_select(0, one) * grid.height + top) * grid.width + left
        right, up = grid.plane(left.to(torch.float32) + column, top.to(torch.float32) + line)
        row = table.index_select(1, one).unbind(0)
        place = (corner + (line * grid.width + column)).view(-1)
        yield shapes.SOLIDS[kind], one, row, ray_direction(row, right, up), place


def by_kind(kinds: Tensor, owner: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each kind (0 to 255) that owners have, and the places [n] of these owners, in order.

    `kinds` [M] are on the CPU, `owner` [T] on the device.
    """
    of_owner = kinds.to(owner.device, torch.uint8).index_select(0, owner)
    order, first = of_owner.sort(stable=True).indices, 0
    for kind, number in enumerate(torch.bincount(of_owner).tolist()):
        if number:
            yield kind, order[first : first + number]
            first += number


def shows(layout: Layout, table: Tensor, grid: Grid) -> Reaches:
    """Whether a ray of a part of a tile could hit its owner: bounds by its box and its ball.

    All its rays pass within `apart` of the middle one where the owner is; a solid has a margin for
    rounding, and for the torus, whose surface is met to 8e-3.
    """
    extent, radius = (of.to(grid.device) for of in (shapes.EXTENTS[layout.shape], shapes.RADII[layout.shape]))
    reach = (PART - 1) / 2
    slope = reach * 2**0.5 / (grid.half * FOCAL) + 1e-6  # of the outermost rays from the middle one

    def reaches(owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
        row = table.index_select(1, owner).unbind(0)
        right, up = grid.plane(x.to(torch.float32) + reach, y.to(torch.float32) + reach)
        origin, direction = (row[0], row[1], row[2]), ray_direction(row, right, up)
        ball, away = radius.index_select(0, owner), shapes.dot(origin, origin)
        apart = (away.sqrt() + ball) * slope + MARGIN
        near, far = shapes.slabs(origin, direction, [side + apart for side in extent.index_select(0, owner).unbind(1)])
        middle = shapes.dot(origin, direction)
        aside = away - middle * middle / shapes.dot(direction, direction)
        return (near <= far) & (aside <= (ball + apart) ** 2)

    return reaches


def first_hits(layout: Layout, rays: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """The places [T] of samples that show an object, among all; these objects, and their depths.

    `rays` [12, M] are on the device, `layout` on the CPU. The nearest hit is found by an integer
    minimum over (depth, object), which no order of evaluation changes.
    """
    nearest = torch.full((len(layout.count) * grid.height * grid.width,), _FAR, dtype=torch.int64, device=rays.device)
    tiles, reaches = object_tiles(layout, grid), shows(layout, rays, grid)
    for shape, owner, row, direction, place in rays_by_shape(tiles, layout, rays, grid, reaches):
        depth = shape.intersect(row[:3], direction)
        found = depth.view(torch.int32).to(torch.int64).bitwise_left_shift_(32).add_(owner)
        nearest.scatter_reduce_(0, place, found.view(-1), "amin")
    place = torch.nonzero(nearest < _MISSED).squeeze(1)
    found = nearest.index_select(0, place)
    depth = (found >> 32).to(torch.int32).view(torch.float32)
    return place, found.bitwise_and_(0xFFFFFFFF), depth


def ray_direction(row: Sequence[Tensor], right: Tensor, up: Tensor) -> shapes.Vector:
    """Direction of rays with these slopes, from rows 3.. of `local_rays` (forward, right, up)."""
    x, y, z = (right * row[axis + 3] + row[axis] + up * row[axis + 6] for axis in (3, 4, 5))
    return x, y, z
