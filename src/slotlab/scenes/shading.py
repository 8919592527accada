"""Shading under a soft key light, a fill light and a sky, and the curve to display colours."""

import torch
from torch import Tensor

from slotlab.scenes import shapes
from slotlab.scenes.layout import FOCAL, Dress, Layout
from slotlab.scenes.shadows import object_shadows
from slotlab.scenes.shapes import Vector, dot, normalise, step
from slotlab.scenes.textures import Surface, box_coordinates, paint
from slotlab.scenes.visibility import Grid, local_rays, ray_direction, turned

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
    layout: Layout, dress: Dress, table: Tensor, shown: Tensor, depth: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Places of the samples that show an object, int64 [T], and their linear light [3, T]."""
    place = torch.nonzero(shown >= 0).squeeze(1)
    owner = shown.index_select(0, place)
    row = table.index_select(1, owner).unbind(0)
    within = place % (grid.height * grid.width)
    right, up = grid.plane((within % grid.width).to(torch.float32), (within // grid.width).to(torch.float32))
    point = shapes.along(row[:3], ray_direction(row, right, up), depth.index_select(0, place))
    scale, half = row[18], row[19]
    normal = _normals(layout, owner, point)
    lx, ly, lz = row[12] - point[0], row[13] - point[1], row[14] - point[2]
    squared = lx * lx + ly * ly + lz * lz
    inverse = 1 / squared.sqrt()
    light = (lx * inverse, ly * inverse, lz * inverse)
    # A sample's width on the surface, from the ray's length in the object's frame.
    width = depth.index_select(0, place) * (1 / (grid.half * FOCAL))
    surface = _surfaces(dress, owner, tuple(p * scale for p in point), normal, light, width)  # type: ignore[arg-type]
    view = normalise((row[0] - point[0], row[1] - point[1], row[2] - point[2]))
    fill = normalise((row[15] - point[0], row[16] - point[1], row[17] - point[2]))
    gloss, metal = surface.gloss, surface.metal
    facing = dot(normal, light)
    facing = (facing - surface.rise * step(facing)).clamp_(min=0) * object_shadows(layout, dress, table, owner, point)
    power = (KEY * KEY_DISTANCE**2) / (squared * scale * scale)
    above = (point[2] + half) * scale
    closed = 0.4 + 0.6 * above / (above + 0.12)
    ambient = (SKY * (0.62 + 0.38 * normal[2]) + FILL * dot(normal, fill).clamp_(min=0)) * closed
    half_way = normalise((light[0] + view[0], light[1] + view[1], light[2] + view[2]))
    peak = dot(normal, half_way).clamp_(min=0)
    sharp = 8 + 220 * gloss * gloss * gloss
    lobe = peak / (sharp - sharp * peak + peak)
    shine = lobe * lobe * gloss * power * step(facing)
    towards = dot(normal, view)
    graze = 1 - towards.clamp(0, 1)
    graze = graze * graze
    mirrored = (2 * towards * normal[2] - view[2]) * 0.5 + 0.5
    surround = (0.12 + 0.75 * mirrored * mirrored) * closed
    mirror = gloss * (0.04 + 0.6 * metal + 0.35 * graze * graze) * surround
    diffuse = (facing * power + ambient) * (1 - 0.7 * metal)
    glint = shine * 0.6 + mirror
    plain, tinted = glint * (1 - metal), diffuse + glint * metal
    return place, torch.stack([plain + tinted * c for c in (surface.red, surface.green, surface.blue)])


def _normals(layout: Layout, owner: Tensor, point: Vector) -> Vector:
    """Outward normals at surface points [T] of the objects `owner`, in their frames."""
    normal = torch.empty(3, len(owner), device=owner.device)
    kinds = layout.shape.to(owner.device, torch.uint8).index_select(0, owner)
    for kind in layout.shape.unique().tolist():
        mine = torch.nonzero(kinds == kind).squeeze(1)
        there = tuple(p.index_select(0, mine) for p in point)
        parts = shapes.SOLIDS[kind].normal(there)  # type: ignore[arg-type]
        for axis in range(3):
            normal[axis].index_copy_(0, mine, parts[axis])
    return normal[0], normal[1], normal[2]


def _surfaces(dress: Dress, owner: Tensor, point: Vector, normal: Vector, light: Vector, width: Tensor) -> Surface:
    """The materials at surface points [T]; each is evaluated on the points that show it."""
    painted = torch.empty(6, len(owner), device=owner.device)
    coefficients = dress.coefficients.to(owner.device)
    kinds = dress.material.to(owner.device, torch.uint8).index_select(0, owner)
    u, v, on_x, on_side = box_coordinates(point, normal)
    # The light direction runs along the same two axes as u and v (offsets aside).
    ahead_u = light[0] + on_x * (light[1] - light[0])
    ahead_v = light[1] + on_side * (light[2] - light[1])
    inputs = torch.stack([u, v, width, ahead_u, ahead_v])
    for material in dress.material.unique().tolist():
        mine = torch.nonzero(kinds == material).squeeze(1)
        row = coefficients.index_select(1, owner.index_select(0, mine)).unbind(0)
        x, y, w, du, dv = inputs.index_select(1, mine).unbind(0)
        for whole, part in zip(painted, paint(material, row, x, y, w, (du, dv)), strict=True):
            whole.index_copy_(0, mine, part.expand_as(x))
    return Surface(*painted.unbind(0))


def display(light: Tensor) -> Tensor:
    """Linear light to display values in [0, 1], in place: a filmic, then the sRGB curve."""
    x = light.mul_(EXPOSURE)
    below = (x * 2.43).add_(0.59).mul_(x).add_(0.14)
    root = (x * 2.51).add_(0.03).mul_(x).div_(below).clamp_(0, 1).sqrt_()
    out = torch.mul(root, 0.585122381, out=x)
    root = root.sqrt_()
    out += root.mul(0.783140355)
    out -= root.sqrt_().mul_(0.368262736)
    return out.clamp_(0, 1)
