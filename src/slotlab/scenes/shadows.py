"""Soft shadows of the key light: from the objects onto the ground, and onto each other."""

import torch
from torch import Tensor

from slotlab.scenes import shapes
from slotlab.scenes.layout import CONTACT, LIGHT_RADIUS, Dress, Layout
from slotlab.scenes.shapes import Shape, Vector, dot, normalise, step
from slotlab.scenes.visibility import (
    MARGIN,
    PART,
    Grid,
    Reaches,
    bounding_radius,
    by_kind,
    ray_direction,
    rays_by_shape,
    shadow_tiles,
)

# Places along a shadow ray, around its point nearest the solid: for small and large images.
_FEW, _MANY = tuple(0.3 * i for i in range(-3, 4)), tuple(0.15 * i for i in range(-6, 7))


def soft_shadow(shape: Shape, point: Vector, light: Vector, fine: bool) -> Tensor:
    """Part of the key light (0..1) that reaches `point` past a solid, in the solid's frame.

    `light` is the unit vector towards the light. The part of the light's disc that is free is
    estimated from the smallest signed distance of the ray to the solid, per distance travelled, at
    places along the ray (`fine`: more). Three places tell of most rays that they are in full light
    or in full shadow, because a signed distance changes no faster than one moves; the others follow
    for the rest only, with the same result.
    """
    closest, shifts = dot(point, light).neg_(), _MANY if fine else _FEW
    each = len(shifts) // 6
    first = shifts[each :: 2 * each]
    best, clear = (torch.full_like(closest, torch.inf) for _ in range(2))
    at, *place = (torch.empty_like(closest) for _ in range(4))
    for shift in first:
        torch.add(closest, shift, out=at).clamp_(min=0.03)
        gap = shape.distance(shapes.along(point, light, at, place))
        torch.minimum(clear, gap - LIGHT_RADIUS * at, out=clear)
        torch.minimum(best, gap.div_(at), out=best)
    apart = (first[1] - first[0]) / 2
    unsure = (clear < (1.1 + LIGHT_RADIUS) * apart) & (best > -1.01 * LIGHT_RADIUS) & (closest > -1.21)
    chosen = torch.nonzero(unsure.view(-1)).squeeze(1)
    (x, y, z), (dx, dy, dz) = ([part.view(-1).index_select(0, chosen) for part in of] for of in (point, light))
    middle, least = (part.view(-1).index_select(0, chosen) for part in (closest, best))
    at, *place = (torch.empty_like(middle) for _ in range(4))
    for shift in shifts:
        if shift not in first:
            torch.add(middle, shift, out=at).clamp_(min=0.03)
            gap = shape.distance(shapes.along((x, y, z), (dx, dy, dz), at, place))
            torch.minimum(least, gap.div_(at), out=least)
    best.view(-1).index_copy_(0, chosen, least)
    part = best.mul_(0.5 / LIGHT_RADIUS).add_(0.5).clamp_(0, 1)
    part = (part * part).mul_((part * -2).add_(3))
    return part.add_(step(-1.2 - closest)).clamp_(max=1)


def ground_shadows(layout: Layout, dress: Dress, table: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Parts of key light and sky (0..1) at each sample of the ground, [B · height · width].

    `table` (of `object_table`) is on the device.
    """
    tiles = shadow_tiles(layout, dress.key, grid)
    lit, sky = torch.ones(2, len(layout.count) * grid.height * grid.width, device=table.device)
    reaches = _darkens(layout, table, grid)
    for shape, _, row, (dx, dy, dz), place in rays_by_shape(tiles, layout, table, grid, reaches):
        depth = (-shape.half_height - row[2]) / dz.clamp_(max=-1e-3)
        x, y = (depth * dx).add_(row[0]), (depth * dy).add_(row[1])
        z = torch.full_like(x, -shape.half_height)
        towards = normalise((row[12] - x, row[13] - y, row[14] - z))
        part = soft_shadow(shape, (x, y, z), towards, fine=grid.half > 64)
        near = (1 - shape.distance((x, y, z)).mul_(1 / CONTACT)).clamp_(0, 1)
        lit.scatter_reduce_(0, place, part.view(-1), "amin")
        sky.scatter_reduce_(0, place, (1 - 0.55 * near * near).view(-1), "amin")
    return lit, sky


def _darkens(layout: Layout, table: Tensor, grid: Grid) -> Reaches:
    """Whether a part of a tile has ground that its owner could take light or sky from.

    The way from the middle of that ground to the light must pass the solid's box, which is made
    wider by what lies around the middle and by the width of the half-shadow; or the solid is near.
    """
    extent, steep = (of[layout.shape].to(grid.device) for of in (shapes.EXTENTS, shapes.STEEPNESS))
    corner = torch.arange(4, device=grid.device)[:, None]
    column, line = corner % 2 * (PART - 1), corner // 2 * (PART - 1)

    def reaches(owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
        row = table.index_select(1, owner).unbind(0)
        box, slow = extent.index_select(0, owner).unbind(1), steep.index_select(0, owner)
        right, up = grid.plane(x.to(torch.float32) + column, y.to(torch.float32) + line)
        dx, dy, dz = ray_direction(row, right, up)
        depth = (-box[2] - row[2]) / dz.clamp(max=-1e-3)
        px, py = row[0] + depth * dx, row[1] + depth * dy
        gx, gy = px.mean(dim=0), py.mean(dim=0)
        around = ((px - gx) ** 2 + (py - gy) ** 2).amax(dim=0).sqrt() + MARGIN
        start, towards = (gx, gy, -box[2]), (row[12] - gx, row[13] - gy, row[14] + box[2])
        blur = LIGHT_RADIUS / slow * (shapes.dot(start, start).sqrt() + around + 1)
        near, far = shapes.slabs(start, towards, [side + around + blur for side in box])
        beside = torch.maximum(gx.abs() - box[0], gy.abs() - box[1]) - around
        return (near <= far) & (far >= 0) | (beside < CONTACT / slow) | (dz > -0.01).any(dim=0)  # the horizon

    return reaches


def object_shadows(layout: Layout, dress: Dress, table: Tensor, owner: Tensor, point: Vector) -> Tensor:
    """Part of the key light (0..1) at surface points [T] of the objects `owner`.

    `table` (of `shading.object_table`), `owner` and `point` (in the owner's frame) are on the
    device.
    """
    lit = torch.ones(len(owner), device=owner.device)
    receiver, caster = _shadow_pairs(layout, dress)
    if not len(receiver):
        return lit
    number = torch.bincount(receiver, minlength=len(layout.scene))
    first = (number.cumsum(0) - number).to(owner.device)
    each = number.to(owner.device).index_select(0, owner)
    sample = torch.repeat_interleave(torch.arange(len(owner), device=owner.device), each)
    order = torch.arange(len(sample), device=owner.device) - (each.cumsum(0) - each).index_select(0, sample)
    pair = first.index_select(0, owner.index_select(0, sample)) + order
    # From the receiver's frame to the caster's: turn and scale in the plane, then shift.
    across = layout.scale[receiver] / layout.scale[caster]
    cos_r, sin_r = layout.turn[receiver].unbind(1)
    cos_c, sin_c = layout.turn[caster].unbind(1)
    shift = (layout.centre[receiver] - layout.centre[caster]) / layout.scale[caster, None]
    rows = torch.stack(
        [
            (cos_r * cos_c + sin_r * sin_c) * across,
            (sin_r * cos_c - cos_r * sin_c) * across,
            across,
            cos_c * shift[:, 0] + sin_c * shift[:, 1],
            cos_c * shift[:, 1] - sin_c * shift[:, 0],
            shift[:, 2],
        ]
    )
    rows = torch.cat([rows.to(owner.device), table[12:15].index_select(1, caster.to(owner.device))])
    for kind, mine in by_kind(layout.shape[caster], pair):
        row = rows.index_select(1, pair.index_select(0, mine)).unbind(0)
        where = sample.index_select(0, mine)
        px, py, pz = (p.index_select(0, where) for p in point)
        x, y, z = row[0] * px - row[1] * py + row[3], row[1] * px + row[0] * py + row[4], row[2] * pz + row[5]
        towards = normalise((row[6] - x, row[7] - y, row[8] - z))
        lit.scatter_reduce_(0, where, soft_shadow(shapes.SOLIDS[kind], (x, y, z), towards, fine=False), "amin")
    return lit


def _shadow_pairs(layout: Layout, dress: Dress) -> tuple[Tensor, Tensor]:
    """Pairs (receiver, caster) [Q] where a shadow can reach, sorted by receiver, on the CPU."""
    number = layout.count[layout.scene]
    receiver = torch.repeat_interleave(torch.arange(len(number)), number)
    caster = torch.arange(len(receiver)) - (number.cumsum(0) - number)[receiver] + layout.first[layout.scene][receiver]
    light = dress.key[layout.scene]
    radius = bounding_radius(layout)
    offset = layout.centre - light
    reach = (offset[:, 0] * offset[:, 0] + offset[:, 1] * offset[:, 1] + offset[:, 2] * offset[:, 2]).sqrt()
    axis = (offset / reach[:, None])[caster]
    there = offset[receiver]
    along = there[:, 0] * axis[:, 0] + there[:, 1] * axis[:, 1] + there[:, 2] * axis[:, 2]
    aside = reach[receiver] * reach[receiver] - along * along
    beyond = along - reach[caster]
    wide = radius[caster] * along / reach[caster] + radius[receiver] + LIGHT_RADIUS * beyond.clamp(min=0)
    reached = (receiver != caster) & (aside < wide * wide) & (beyond > -radius[receiver])
    return receiver[reached], caster[reached]
