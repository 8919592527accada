"""Soft shadows; shading under a key light, a fill light and a sky; the curve to display colours."""

import torch
from torch import Tensor

from slotlab.scenes import shapes
from slotlab.scenes.layout import CONTACT, FOCAL, LIGHT_RADIUS, Dress, Layout
from slotlab.scenes.shapes import Shape, Vector, dot, normalise, step
from slotlab.scenes.textures import Surface, box_coordinates, paint
from slotlab.scenes.visibility import (
    MARGIN,
    PART,
    Grid,
    Reaches,
    bounding_radius,
    by_kind,
    local_rays,
    ray_direction,
    rays_by_shape,
    shadow_tiles,
    turned,
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


KEY, FILL, SKY = 2.1, 0.35, 0.5  # strengths of the lights
EXPOSURE = 0.8
FADE = 0.004  # how the light falls off towards the rim of the ground
KEY_DISTANCE = 9.5  # at which the key light has its nominal strength


def shade_ground(layout: Layout, dress: Dress, grid: Grid, lit: Tensor, sky: Tensor, at_once: int) -> Tensor:
    """Linear light from the ground to the camera, [3, B, height, width]; `at_once` samples a time.

    `lit` and `sky` are [B · height · width].
    """
    device, scenes, samples = lit.device, len(layout.count), grid.height * grid.width
    right, up = (torch.arange(side, device=device).to(torch.float32) for side in (grid.width, grid.height))
    right, up = grid.plane(right, up[:, None])
    rows = torch.cat([layout.camera.T, dress.key.T, dress.fill.T, dress.ground_coefficients]).to(device)
    out = torch.empty(3, scenes, grid.height, grid.width, device=device)
    lit, sky = lit.view(out.shape[1:]), sky.view(out.shape[1:])
    for material in dress.ground.unique().tolist():
        for chosen in torch.nonzero(dress.ground == material).squeeze(1).split(max(1, at_once // samples)):
            alone = slice(int(chosen[0]), int(chosen[0]) + 1) if len(chosen) == 1 else None
            chosen = chosen.to(device)
            row = rows.index_select(1, chosen)[:, :, None, None].unbind(0)
            lines = max(1, at_once // (len(chosen) * grid.width))
            for top in range(0, grid.height, lines):
                strip = slice(top, top + lines)
                here = [part[alone or slice(None), strip] for part in (lit, sky, *out)]
                shades = here[:2] if alone else [part.index_select(0, chosen) for part in here[:2]]
                colours, light = _ground(material, row, grid, (right, up[strip]), *shades)
                for whole, colour in zip(here[2:], colours, strict=True):
                    if alone:
                        torch.mul(colour, light, out=whole)
                    else:
                        whole.index_copy_(0, chosen, colour * light)
    return out


def _ground(
    material: int, row: tuple[Tensor, ...], grid: Grid, slopes: tuple[Tensor, Tensor], shade: Tensor, open_sky: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """The ground's colours, and the light on it, where rays of these slopes (right, up) meet it."""
    camera, key, fill = row[:12], row[12:15], row[15:18]
    dx, dy, dz = ray_direction(camera, *slopes)
    depth = -camera[2] / dz.clamp_(max=-0.03)
    x, y = dx.mul_(depth).add_(camera[0]), dy.mul_(depth).add_(camera[1])
    lx, ly, lz = key[0] - x, key[1] - y, key[2]
    inverse = (lx * lx).add_(ly * ly).add_(lz * lz).sqrt_().reciprocal_()
    width = depth.mul_(1 / (grid.half * FOCAL))
    surface = paint(material, row[18:], x, y, width, (lx.mul_(inverse), ly.mul_(inverse)))
    fx, fy, fz = fill[0] - x, fill[1] - y, fill[2]
    softer = fx.mul_(fx).add_(fy.mul_(fy)).add_(fz * fz).reciprocal_()
    fade = x.mul_(x).add_(y.mul_(y)).mul_(FADE).add_(1).reciprocal_()
    facing = (lz * inverse).sub_(surface.rise).clamp_(min=0)
    direct = facing.mul_(KEY * KEY_DISTANCE**2).mul_(inverse.mul_(inverse)).mul_(shade)
    light = softer.mul_(FILL * 7 * fz).add_(SKY).mul_(open_sky).add_(direct).mul_(fade)
    return (surface.red, surface.green, surface.blue), light


def object_table(layout: Layout, dress: Dress) -> Tensor:
    """Rays, lights, size and height in every object's frame [20, M], on the CPU."""
    lights = [turned(layout, light[layout.scene] - layout.centre) / layout.scale for light in (dress.key, dress.fill)]
    return torch.cat([local_rays(layout), *lights, torch.stack([layout.scale, layout.centre[:, 2] / layout.scale])])


def shade_objects(
    layout: Layout, dress: Dress, table: Tensor, hits: tuple[Tensor, Tensor, Tensor], grid: Grid
) -> tuple[Tensor, Tensor]:
    """Places of the samples that show an object, int64 [T], and their linear light [3, T].

    `hits`: from `first_hits`; the result has another order.
    """
    place, owner, depth = hits
    # In the order of materials, so that each paints a piece of the samples.
    pieces = dict(by_kind(dress.material, owner))
    order = torch.cat([place[:0], *pieces.values()])
    place, owner, depth = (of.index_select(0, order) for of in (place, owner, depth))
    row = table.index_select(1, owner).unbind(0)
    within = place % (grid.height * grid.width)
    right, up = grid.plane((within % grid.width).to(torch.float32), (within // grid.width).to(torch.float32))
    point = shapes.along(row[:3], ray_direction(row, right, up), depth)
    scale, half = row[18], row[19]
    normal = _normals(layout, owner, point)
    lx, ly, lz = row[12] - point[0], row[13] - point[1], row[14] - point[2]
    squared = dot((lx, ly, lz), (lx, ly, lz))
    inverse = squared.sqrt().reciprocal_()
    light = (lx.mul_(inverse), ly.mul_(inverse), lz.mul_(inverse))
    # A sample's width on the surface, from the ray's length in the object's frame.
    width = depth * (1 / (grid.half * FOCAL))
    painted = {material: len(piece) for material, piece in pieces.items()}
    where: Vector = (point[0] * scale, point[1] * scale, point[2] * scale)
    surface = _surfaces(dress, owner, painted, where, normal, light, width)
    view = normalise((row[0] - point[0], row[1] - point[1], row[2] - point[2]))
    fill = normalise((row[15] - point[0], row[16] - point[1], row[17] - point[2]))
    gloss, metal = surface.gloss, surface.metal
    facing = dot(normal, light)
    facing.sub_(surface.rise * step(facing)).clamp_(min=0).mul_(object_shadows(layout, dress, table, owner, point))
    power = squared.mul_(scale).mul_(scale).reciprocal_().mul_(KEY * KEY_DISTANCE**2)
    above = (point[2] + half).mul_(scale)
    closed = (above * 0.6).div_(above + 0.12).add_(0.4)
    ambient = (normal[2] * 0.38).add_(0.62).mul_(SKY).add_(dot(normal, fill).clamp_(min=0).mul_(FILL)).mul_(closed)
    half_way = normalise((light[0] + view[0], light[1] + view[1], light[2] + view[2]))
    peak = dot(normal, half_way).clamp_(min=0)
    sharp = (gloss * 220).mul_(gloss).mul_(gloss).add_(8)
    lobe = peak / sharp.sub_(sharp * peak).add_(peak)
    shine = lobe.mul_(lobe).mul_(gloss).mul_(power).mul_(step(facing))
    towards = dot(normal, view)
    graze = 1 - towards.clamp(0, 1)
    graze.mul_(graze)
    mirrored = (towards * 2).mul_(normal[2]).sub_(view[2]).mul_(0.5).add_(0.5)
    surround = (mirrored * 0.75).mul_(mirrored).add_(0.12).mul_(closed)
    mirror = (metal * 0.6).add_(0.04).add_((graze * 0.35).mul_(graze)).mul_(gloss).mul_(surround)
    diffuse = facing.mul_(power).add_(ambient).mul_(1 - 0.7 * metal)
    glint = shine.mul_(0.6).add_(mirror)
    plain, tinted = glint * (1 - metal), diffuse.add_(glint * metal)
    return place, torch.stack([(tinted * c).add_(plain) for c in (surface.red, surface.green, surface.blue)])


def _normals(layout: Layout, owner: Tensor, point: Vector) -> Vector:
    """Outward normals at surface points [T] of the objects `owner`, in their frames."""
    normal = torch.empty(3, len(owner), device=owner.device)
    for kind, mine in by_kind(layout.shape, owner):
        there = tuple(p.index_select(0, mine) for p in point)
        parts = shapes.SOLIDS[kind].normal(there)  # type: ignore[arg-type]
        for axis in range(3):
            normal[axis].index_copy_(0, mine, parts[axis])
    return normal[0], normal[1], normal[2]


def _surfaces(
    dress: Dress, owner: Tensor, painted: dict[int, int], point: Vector, normal: Vector, light: Vector, width: Tensor
) -> Surface:
    """The materials at surface points [T], sorted by material; `painted`: how many show each."""
    whole, first = torch.empty(6, len(owner), device=owner.device), 0
    coefficients = dress.coefficients.to(owner.device)
    u, v, on_x, on_side = box_coordinates(point, normal)
    # The light direction runs along the same two axes as u and v (offsets aside).
    ahead_u = light[0] + on_x * (light[1] - light[0])
    ahead_v = light[1] + on_side * (light[2] - light[1])
    for material, number in painted.items():
        piece = slice(first, first + number)
        row = coefficients.index_select(1, owner[piece]).unbind(0)
        surface = paint(material, row, u[piece], v[piece], width[piece], (ahead_u[piece], ahead_v[piece]))
        for out, values in zip(whole, surface, strict=True):
            out[piece] = values
        first += number
    return Surface(*whole.unbind(0))


def display(light: Tensor) -> Tensor:
    """Linear light to display values in [0, 1], in place: a filmic, then the sRGB curve."""
    x = light.mul_(EXPOSURE)
    below = (x * 2.43).add_(0.59).mul_(x).add_(0.14)
    root = (x * 2.51).add_(0.03).mul_(x).div_(below).clamp_(0, 1).sqrt_()
    out = torch.mul(root, 0.585122381, out=x)
    root = root.sqrt_()
    out += torch.mul(root, 0.783140355, out=below)
    out -= root.sqrt_().mul_(0.368262736)
    return out.clamp_(0, 1)
