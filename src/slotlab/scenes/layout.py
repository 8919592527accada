"""Where the camera, lights and objects are, and their materials: drawn on the CPU."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from slotlab.scenes import shapes
from slotlab.scenes.noise import uniform
from slotlab.scenes.patterns import sine_turns
from slotlab.scenes.textures import MATERIALS, NUMBERS, prepare

SIZES: dict[str, float] = {"small": 0.4, "medium": 0.6, "large": 0.9}


@dataclass(frozen=True)
class Variant:
    """Shapes and materials of a variant; `shared_material`: objects take the ground's."""

    shapes: tuple[str, ...]
    materials: tuple[str, ...]
    grounds: tuple[str, ...]
    shared_material: bool = False


_SHAPES = ("sphere", "cube", "cylinder", "cone", "torus", "capsule")
_TEXTURES = (
    "uniform", "marble", "wood", "planks", "bricks", "checker", "stripes", "dots", "cells", "noise", "brushed",
    "speckled", "weave", "rust",
)  # fmt: skip
_HELD_OUT = ("chevron", "tartan", "rings", "leopard", "mosaic", "crackle")

VARIANT_TABLE: dict[str, Variant] = {
    "plain": Variant(("sphere", "cube", "cylinder"), ("rubber", "metal"), ("backdrop",)),
    "textured": Variant(_SHAPES, _TEXTURES, _TEXTURES),
    "camouflage": Variant(_SHAPES, _TEXTURES[1:], _TEXTURES[1:], shared_material=True),
    "outd": Variant(("ellipsoid", "dome", "pyramid", "tetrahedron", "prism"), _HELD_OUT, _HELD_OUT),
}
VARIANTS: tuple[str, ...] = tuple(VARIANT_TABLE)

FOCAL = 3.2  # distance of the image plane, in halves of the image's shorter side
GAP = 0.08  # clearance between the circles around two objects
REACH = 3.1  # objects stand within this square around the origin
FRAME = 0.82  # and project their centres within this part of the (square) frame
CANDIDATES = 32
CONTACT = 0.7  # how far the contact shadow reaches, in sizes of the object
LIGHT_RADIUS = 0.09  # of the key light, as an angle (tangent) seen from the ground

STRIP = 0.1375  # what must stay uncovered of an object behind another, in halves of the image's shorter side

OF_OBJECTS = ("scene", "number", "shape", "size", "centre", "scale", "yaw", "turn")  # fields of a `Layout`

# Streams of random numbers; one number per use.
_COUNT, _CAMERA, _LIGHT, _SHAPE, _SIZE, _YAW, _MATERIAL, _NUMBERS, _GROUND, _GROUND_NUMBERS, _PLACE = range(11)


@dataclass(frozen=True)
class Layout:
    """The geometry of B scenes with M objects in all, scene after scene; on the CPU.

    `keys` [B]: of the random numbers. `camera` [B, 12]: position, forward, right, up. `count` [B]:
    objects per scene. `ok` [B]: False where no free place was found for some object. `scene` [M]:
    the scene an object belongs to; `number` [M]: 1.. within it. `shape`, `size` [M]: places in
    `shapes.NAMES` and `SIZES`. `centre` [M, 3], `scale` [M], `yaw` [M] in turns, `turn` [M, 2]: its
    cosine and sine.
    """

    keys: Tensor
    camera: Tensor
    count: Tensor
    ok: Tensor
    scene: Tensor
    number: Tensor
    shape: Tensor
    size: Tensor
    centre: Tensor
    scale: Tensor
    yaw: Tensor
    turn: Tensor

    @property
    def first(self) -> Tensor:
        """Place of every scene's first object among all [B]."""
        return self.count.cumsum(0) - self.count


@dataclass(frozen=True)
class Dress:
    """What a layout is made of and lit by.

    `key`, `fill` [B, 3]: positions of the lights. `material` [M], `ground` [B]: places in
    `MATERIALS`; `coefficients` [21, M], `ground_coefficients` [21, B]: what `textures.paint` needs
    of each.
    """

    key: Tensor
    fill: Tensor
    material: Tensor
    coefficients: Tensor
    ground: Tensor
    ground_coefficients: Tensor


@lru_cache(maxsize=1)
def _shape_table() -> Tensor:
    """Footprint and half height of every shape [S, 2]."""
    return torch.tensor([[s.footprint, s.half_height] for s in shapes.SHAPES.values()])


def draw_layout(keys: Tensor, count_keys: Tensor, variant: Variant, min_objects: int, max_objects: int) -> Layout:
    """Draws one layout per key (int64 [B]); `count_keys`, which attempts share, give the counts."""
    scenes = len(keys)
    camera = _camera(uniform(keys, _CAMERA, 6))
    count = min_objects + _pick(uniform(count_keys, _COUNT, 1)[:, 0], max_objects - min_objects + 1)
    shape_choice = torch.tensor([shapes.NAMES.index(name) for name in variant.shapes])
    shape = shape_choice[_pick(uniform(keys, _SHAPE, max_objects), len(variant.shapes))]
    size_number = uniform(keys, _SIZE, max_objects)
    # Crowded scenes lean to small objects, else no place is found.
    crowd = ((count[:, None] - 8) * 0.15).clamp(0, 0.75)
    size = _pick(size_number * (1 - crowd), 3)
    scale = torch.tensor(list(SIZES.values()))[size]
    table = _shape_table()
    height = table[shape, 1] * scale
    place, ok = _places(keys, camera, table[shape, 0] * scale, height, count)
    yaw = uniform(keys, _YAW, max_objects)
    slots = torch.arange(max_objects)
    scene, slot = torch.nonzero(slots[None] < count[:, None], as_tuple=True)
    flat = scene * max_objects + slot

    def packed(values: Tensor) -> Tensor:
        return values.reshape(scenes * max_objects, *values.shape[2:])[flat]

    yaw = packed(yaw)
    return Layout(
        keys=keys,
        camera=camera,
        count=count,
        ok=ok,
        scene=scene,
        number=slot + 1,
        shape=packed(shape),
        size=packed(size),
        centre=packed(torch.cat([place, height[..., None]], dim=2)),
        scale=packed(scale),
        yaw=yaw,
        turn=torch.stack([sine_turns(yaw + 0.25), sine_turns(yaw)], dim=1),
    )


def draw_dress(layout: Layout, variant: Variant) -> Dress:
    """Draws lights and materials for a layout."""
    keys, scene, most = layout.keys, layout.scene, int(layout.number.max())
    key, fill = _lights(uniform(keys, _LIGHT, 6))
    choice = torch.tensor([MATERIALS.index(name) for name in variant.materials])
    ground_choice = torch.tensor([MATERIALS.index(name) for name in variant.grounds])
    ground = ground_choice[_pick(uniform(keys, _GROUND, 1)[:, 0], len(ground_choice))]
    ground_numbers = uniform(keys, _GROUND_NUMBERS, NUMBERS)
    numbers = uniform(keys, _NUMBERS, NUMBERS * most).view(-1, most, NUMBERS)
    numbers = numbers[scene, layout.number - 1]
    if variant.shared_material:
        material = ground[scene]
        # Objects keep their offsets (the first two numbers) and take the ground's pattern.
        numbers = torch.cat([numbers[:, :2], ground_numbers[scene, 2:]], dim=1)
    else:
        material = choice[_pick(uniform(keys, _MATERIAL, most), len(choice))][scene, layout.number - 1]
    # Grounds are less vivid than objects, unless these are to vanish in them.
    vividness = 1.0 if variant.shared_material else 0.65
    return Dress(key, fill, material, prepare(material, numbers), ground, prepare(ground, ground_numbers, vividness))


def select(layout: Layout, dress: Dress, start: int, stop: int) -> tuple[Layout, Dress]:
    """The scenes `start` to `stop`."""
    own, rows = (layout.scene >= start) & (layout.scene < stop), slice(start, stop)
    of_scenes = {name: getattr(layout, name)[rows] for name in ("keys", "camera", "count", "ok")}
    of_objects = {name: getattr(layout, name)[own] for name in OF_OBJECTS}
    lights = {name: getattr(dress, name)[rows] for name in ("key", "fill", "ground")}
    clothes = Dress(
        material=dress.material[own],
        coefficients=dress.coefficients[:, own],
        ground_coefficients=dress.ground_coefficients[:, rows],
        **lights,
    )
    return Layout(**of_scenes, **{**of_objects, "scene": of_objects["scene"] - start}), clothes


def without(layout: Layout, dress: Dress, numbers: Tensor) -> tuple[Layout, Dress]:
    """The scenes, each without its object of that number [B] (0: none); later numbers move up."""
    stays = layout.number != numbers[layout.scene]
    fewer = replace(layout, **{name: getattr(layout, name)[stays] for name in OF_OBJECTS})
    fewer = replace(fewer, count=torch.bincount(fewer.scene, minlength=len(layout.count)))
    number = torch.arange(len(fewer.scene)) - fewer.first[fewer.scene] + 1
    clothes = replace(dress, material=dress.material[stays], coefficients=dress.coefficients[:, stays])
    return replace(fewer, number=number), clothes


def _pick(number: Tensor, options: int) -> Tensor:
    """Uniform choice among `options` from numbers in [0, 1)."""
    return (number * options).to(torch.int64).clamp(max=options - 1)


def _camera(numbers: Tensor) -> Tensor:
    """A camera near CLEVR's, shifted by up to half a unit, looking near the middle [B, 12]."""
    position = torch.tensor([7.8, -6.9, 5.6]) + (numbers[:, :3] - 0.5)
    target = torch.tensor([0.0, 0.0, 0.45]) + (numbers[:, 3:] - 0.5) * 0.4
    ahead = target - position
    forward = shapes.normalise((ahead[:, 0], ahead[:, 1], ahead[:, 2]))
    zero = torch.zeros_like(forward[0])
    right = shapes.normalise((forward[1], -forward[0], zero))
    up = (
        right[1] * forward[2] - right[2] * forward[1],
        right[2] * forward[0] - right[0] * forward[2],
        right[0] * forward[1] - right[1] * forward[0],
    )
    return torch.stack([*position.unbind(1), *forward, *right, *up], dim=1)


def _lights(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the key light (high, beside the camera) and of the fill light opposite."""
    side = torch.where(numbers[:, 0] < 0.5, 0.06 + 0.3 * numbers[:, 0], -0.36 + 0.3 * numbers[:, 0])
    turns = -0.115 + side  # the camera stands at about -0.115 turns
    distance, height = 5.2 + 1.6 * numbers[:, 1], 6.2 + 2.2 * numbers[:, 2]
    key = torch.stack([distance * sine_turns(turns + 0.25), distance * sine_turns(turns), height], dim=1)
    turns = turns + 0.4 + 0.2 * numbers[:, 3]
    fill = torch.stack([7 * sine_turns(turns + 0.25), 7 * sine_turns(turns), 3.5 + 2 * numbers[:, 4]], dim=1)
    return key, fill


def _places(keys: Tensor, camera: Tensor, radius: Tensor, height: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Places on the ground [B, O, 2] without overlap, and whether all were found [B]."""
    scenes, objects = radius.shape
    spots = uniform(keys, _PLACE, objects * CANDIDATES * 2).view(scenes, objects, CANDIDATES, 2)
    spots = (spots * 2 - 1) * REACH
    # Position from the camera, in its axes: depth, right, up.
    offset = [spots[..., 0], spots[..., 1], height[:, :, None]]
    dx, dy, dz = (part - camera[:, axis, None, None] for axis, part in enumerate(offset))
    axis = camera[:, :, None, None].unbind(1)
    depth, right, up = (dx * axis[i] + dy * axis[i + 1] + dz * axis[i + 2] for i in (3, 6, 9))
    right, up = right / depth, up / depth
    seen = torch.maximum(radius, height)[:, :, None] / depth  # radius on the image plane
    framed = (right.abs() <= FRAME / FOCAL) & (up.abs() <= FRAME / FOCAL)
    offered = torch.stack([spots[..., 0], spots[..., 1], depth, right, up, seen])
    chosen = torch.zeros(6, scenes, objects)
    ok = torch.ones(scenes, dtype=torch.bool)
    rows = torch.arange(scenes)
    for slot in range(objects):
        free = framed[:, slot]
        if slot:
            x, y, far, across, high, wide = (
                new[:, slot, :, None] - old[:, None, :slot] for new, old in zip(offered, chosen, strict=True)
            )
            apart = radius[:, slot, None, None] + radius[:, None, :slot] + GAP
            clear = x * x + y * y >= apart * apart
            # Of the farther one of two, a strip must show beside the nearer one.
            need = (STRIP / FOCAL - far.sign() * wide).clamp(min=0)
            clear &= across * across + high * high >= need * need
            free = free & clear.all(dim=2)
        found, first = free.max(dim=1)
        ok &= found | (slot >= count)
        chosen[:, :, slot] = offered[:, rows, slot, first]
    return chosen[:2].permute(1, 2, 0), ok
