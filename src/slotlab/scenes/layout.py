"""Where the camera, lights and objects are, and their materials: drawn on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slotlab.scenes import shapes
from slotlab.scenes.noise import uniform
from slotlab.scenes.patterns import sine_turns
from slotlab.scenes.textures import MATERIALS, NUMBERS, TEXTURES, prepare

SIZES: dict[str, float] = {"small": 0.4, "medium": 0.6, "large": 0.9}


@dataclass(frozen=True)
class Variant:
    """What scenes of a variant are made of, and how they are seen.

    Attributes:
        shapes, materials: of objects, chosen uniformly.
        grounds: materials of the ground.
        shared_material: objects take the ground's.
        vividness: how much of their materials' saturation grounds keep.
        frame: the part of the (square) frame in which objects project their centres.
        nearer: the largest share of its distance by which the camera stands nearer.
    """

    shapes: tuple[str, ...]
    materials: tuple[str, ...]
    grounds: tuple[str, ...]
    shared_material: bool = False
    vividness: float = 0.65
    frame: float = 0.82
    nearer: float = 0.0


_SHAPES = ("sphere", "cube", "cylinder", "cone", "torus", "capsule")
_GRAINED = tuple(f"grained-{name}" for name in TEXTURES)
_HELD_OUT = ("chevron", "tartan", "rings", "leopard", "mosaic", "crackle")

VARIANT_TABLE: dict[str, Variant] = {
    "plain": Variant(("sphere", "cube", "cylinder"), ("rubber", "metal"), ("backdrop",)),
    "textured": Variant(_SHAPES, TEXTURES, TEXTURES),
    "camouflage": Variant(_SHAPES, TEXTURES[1:], TEXTURES[1:], shared_material=True, vividness=1.0),
    "outd": Variant(("ellipsoid", "dome", "pyramid", "tetrahedron", "prism"), _HELD_OUT, _HELD_OUT),
    "photographic": Variant(_SHAPES, _GRAINED, _GRAINED, vividness=0.4, frame=1.0, nearer=0.25),
}
VARIANTS: tuple[str, ...] = tuple(VARIANT_TABLE)

FOCAL = 3.2  # distance of the image plane, in halves of the image's shorter side
GAP = 0.08  # clearance between the circles around two objects
REACH = 3.1  # objects stand within this square around the origin
CANDIDATES = 32
CONTACT = 0.7  # how far the contact shadow reaches, in sizes of the object
LIGHT_RADIUS = 0.09  # of the key light, as an angle (tangent) seen from the ground

STRIP = 0.1375  # what must stay uncovered of an object behind another, in halves of the image's shorter side

OF_OBJECTS = ("scene", "number", "shape", "size", "centre", "scale", "yaw", "turn")  # fields of a `Layout`

# Streams of random numbers; one number per use.
_COUNT, _CAMERA, _LIGHT, _SHAPE, _SIZE, _YAW, _MATERIAL, _NUMBERS, _GROUND, _GROUND_NUMBERS, _PLACE = range(11)


@dataclass(frozen=True)
class Layout:
    """The geometry of B scenes with M objects in all, scene after scene; on the CPU."""

    keys: Tensor  # [B], of the random numbers
    camera: Tensor  # [B, 12]: position, forward, right, up
    count: Tensor  # [B], objects per scene
    ok: Tensor  # [B], False where no free place was found for some object
    scene: Tensor  # [M], the scene an object belongs to
    number: Tensor  # [M], 1.. within it
    shape: Tensor  # [M], place in `shapes.NAMES`
    size: Tensor  # [M], place in `SIZES`
    centre: Tensor  # [M, 3]
    scale: Tensor  # [M]
    yaw: Tensor  # [M], in turns
    turn: Tensor  # [M, 2], its cosine and sine

    @property
    def first(self) -> Tensor:
        """Place of every scene's first object among all [B]."""
        return self.count.cumsum(0) - self.count


@dataclass(frozen=True)
class Dress:
    """What a layout is made of and lit by."""

    key: Tensor  # [B, 3], position of the main light
    fill: Tensor  # [B, 3], of the weaker one
    material: Tensor  # [M], place in `MATERIALS`
    coefficients: Tensor  # [21, M], what `textures.paint` needs
    ground: Tensor  # [B], place in `MATERIALS`
    ground_coefficients: Tensor  # [21, B]


def draw_layout(keys: Tensor, count_keys: Tensor, variant: Variant, min_objects: int, max_objects: int) -> Layout:
    """Draws one layout per key (int64 [B]); `count_keys`, which attempts share, give the counts."""
    camera = _camera(uniform(keys, _CAMERA, 7), variant.nearer)
    count = min_objects + _pick(uniform(count_keys, _COUNT, 1)[:, 0], max_objects - min_objects + 1)
    shape = _chosen(variant.shapes, shapes.NAMES, uniform(keys, _SHAPE, max_objects))
    # Crowded scenes lean to small objects, else no place is found.
    crowd = ((count[:, None] - 8) * 0.15).clamp(0, 0.75)
    size = _pick(uniform(keys, _SIZE, max_objects) * (1 - crowd), 3)
    scale = torch.tensor(list(SIZES.values()))[size]
    height = shapes.EXTENTS[shape, 2] * scale
    place, ok = _places(keys, camera, shapes.FOOTPRINTS[shape] * scale, height, count, variant.frame)
    there = torch.arange(max_objects) < count[:, None]
    scene, slot = there.nonzero(as_tuple=True)
    yaw = uniform(keys, _YAW, max_objects)[there]
    return Layout(
        keys=keys,
        camera=camera,
        count=count,
        ok=ok,
        scene=scene,
        number=slot + 1,
        shape=shape[there],
        size=size[there],
        centre=torch.cat([place, height[..., None]], dim=2)[there],
        scale=scale[there],
        yaw=yaw,
        turn=torch.stack([sine_turns(yaw + 0.25), sine_turns(yaw)], dim=1),
    )


def draw_dress(layout: Layout, variant: Variant) -> Dress:
    """Draws lights and materials for a layout."""
    keys, scene, most = layout.keys, layout.scene, int(layout.number.max())
    key, fill = _lights(uniform(keys, _LIGHT, 6))
    ground = _chosen(variant.grounds, MATERIALS, uniform(keys, _GROUND, 1)[:, 0])
    ground_numbers = uniform(keys, _GROUND_NUMBERS, NUMBERS)
    numbers = uniform(keys, _NUMBERS, NUMBERS * most).view(-1, most, NUMBERS)
    numbers = numbers[scene, layout.number - 1]
    if variant.shared_material:
        material = ground[scene]
        # Objects keep their offsets (the first two numbers) and take the ground's pattern.
        numbers = torch.cat([numbers[:, :2], ground_numbers[scene, 2:]], dim=1)
    else:
        material = _chosen(variant.materials, MATERIALS, uniform(keys, _MATERIAL, most))[scene, layout.number - 1]
    return Dress(
        key, fill, material, prepare(material, numbers), ground, prepare(ground, ground_numbers, variant.vividness)
    )


def select(layout: Layout, dress: Dress, start: int, stop: int) -> tuple[Layout, Dress]:
    """The scenes `start` to `stop`."""
    own, rows = (layout.scene >= start) & (layout.scene < stop), slice(start, stop)
    some = Layout(**{name: of[own if name in OF_OBJECTS else rows] for name, of in vars(layout).items()})
    materials = dress.material[own], dress.coefficients[:, own], dress.ground[rows], dress.ground_coefficients[:, rows]
    return replace(some, scene=some.scene - start), Dress(dress.key[rows], dress.fill[rows], *materials)


def without(layout: Layout, dress: Dress, numbers: Tensor) -> tuple[Layout, Dress]:
    """The scenes, each without its object of that number [B] (0: none); later numbers move up."""
    stays = layout.number != numbers[layout.scene]
    count = torch.bincount(layout.scene[stays], minlength=len(layout.count))
    fewer = replace(layout, count=count, **{name: getattr(layout, name)[stays] for name in OF_OBJECTS})
    number = torch.arange(len(fewer.scene)) - fewer.first[fewer.scene] + 1
    clothes = replace(dress, material=dress.material[stays], coefficients=dress.coefficients[:, stays])
    return replace(fewer, number=number), clothes


def in_camera(camera: Tensor, point: Sequence[Tensor]) -> shapes.Vector:
    """World points to depth, right and up in the axes of cameras [..., 12, ...] (dimension 1)."""
    ox, oy, oz, *axes = camera.unbind(1)
    offset = point[0] - ox, point[1] - oy, point[2] - oz
    return shapes.dot(axes[:3], offset), shapes.dot(axes[3:6], offset), shapes.dot(axes[6:], offset)


def _pick(number: Tensor, options: int) -> Tensor:
    """Uniform choice among `options` from numbers in [0, 1)."""
    return (number * options).to(torch.int64).clamp(max=options - 1)


def _chosen(options: tuple[str, ...], vocabulary: tuple[str, ...], number: Tensor) -> Tensor:
    """Places in `vocabulary` of options chosen uniformly by numbers in [0, 1)."""
    return torch.tensor([vocabulary.index(name) for name in options])[_pick(number, len(options))]


def _camera(numbers: Tensor, nearer: float) -> Tensor:
    """A camera near CLEVR's, shifted by up to half a unit, looking near the middle [B, 12].

    It stands nearer by up to the share `nearer` of its distance.
    """
    position = torch.tensor([7.8, -6.9, 5.6]) + (numbers[:, :3] - 0.5)
    position = position * (1 - nearer * numbers[:, 6:])
    target = torch.tensor([0.0, 0.0, 0.45]) + (numbers[:, 3:6] - 0.5) * 0.4
    forward = shapes.normalise((target - position).unbind(1))
    right = shapes.normalise((forward[1], -forward[0], torch.zeros_like(forward[0])))
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


def _places(
    keys: Tensor, camera: Tensor, radius: Tensor, height: Tensor, count: Tensor, frame: float
) -> tuple[Tensor, Tensor]:
    """Places on the ground [B, O, 2] without overlap, and whether all were found [B]."""
    scenes, objects = radius.shape
    spots = uniform(keys, _PLACE, objects * CANDIDATES * 2).view(scenes, objects, CANDIDATES, 2)
    spots = (spots * 2 - 1) * REACH
    x, y = spots.unbind(3)
    depth, right, up = in_camera(camera[:, :, None, None], (x, y, height[:, :, None]))
    right, up = right / depth, up / depth
    seen = torch.maximum(radius, height)[:, :, None] / depth  # radius on the image plane
    framed = (right.abs() <= frame / FOCAL) & (up.abs() <= frame / FOCAL)
    offered = torch.stack([x, y, depth, right, up, seen])
    chosen, ok = torch.zeros(6, scenes, objects), torch.ones(scenes, dtype=torch.bool)
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
        chosen[:, :, slot] = offered[:, torch.arange(scenes), slot, first]
    return chosen[:2].permute(1, 2, 0), ok
