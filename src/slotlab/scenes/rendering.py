"""Renders scenes from a seed: images, instance masks and metadata."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from slotlab.errors import ConfigError, nearest
from slotlab.scenes import shapes
from slotlab.scenes.layout import (
    FOCAL,
    SIZES,
    VARIANT_TABLE,
    VARIANTS,
    Dress,
    Layout,
    Variant,
    draw_dress,
    draw_layout,
    in_camera,
    select,
    without,
)
from slotlab.scenes.noise import scene_keys
from slotlab.scenes.shading import display, ground_shadows, object_table, shade_ground, shade_objects
from slotlab.scenes.textures import MATERIALS, colours_of
from slotlab.scenes.visibility import Grid, first_hits, local_rays

RENDERER = "slotlab scenes 1"  # changes whenever a scene of the same seed and index would come out different
MIN_VISIBLE = 20 / 64**2  # part of the frame that every object must show
MAX_ATTEMPTS = 400
# Samples worked on at a time on a CPU; on a GPU 64 times as many. Of the ground, what is cached.
SETTLE_SAMPLES, LOOK_SAMPLES, SHADE_SAMPLES, GROUND_SAMPLES = 1 << 21, 1 << 17, 1 << 20, 1 << 16


@dataclass(frozen=True)
class SceneBatch:
    """Rendered scenes."""

    image: Tensor  # float32 [B, 3, H, W] in [0, 1]
    mask: Tensor  # int64 [B, H, W], 0 = ground, 1.. = objects in the order of `metadata`
    metadata: list[dict[str, Any]]  # one per scene, see `describe`


@torch.no_grad()
def render(
    indices: Sequence[int],
    *,
    variant: str = "textured",
    seed: int = 0,
    resolution: int | tuple[int, int] = 64,
    min_objects: int = 3,
    max_objects: int = 10,
    supersample: int = 1,
    device: str | torch.device = "cpu",
    framing: float = 1.0,
    leave_out: Sequence[int] | None = None,
) -> SceneBatch:
    """Renders labelled scenes from a seed.

    A scene depends on its index, `variant`, `seed` and the object counts only: on one device it is
    the same, bit for bit, in any batch. Masks are taken at the pixels' centres, whatever
    `supersample` is.

    Args:
        indices: numbers of the scenes, each 0 or more.
        variant: "plain" (grey ground, even colours), "textured", "photographic" (mostly the
            colours of soil, wood and stone, grain, a camera that may be nearer, objects at the border),
            "camouflage" (objects of the ground's material) or "outd" (other shapes and textures).
        seed: 0 or more; another seed gives other scenes.
        resolution: side of the image, or (height, width), 16 to 1024.
        min_objects: fewest objects in a scene, 1 to `max_objects`.
        max_objects: most objects in a scene, up to 16.
        supersample: rays per pixel and axis, 1 to 4.
        device: where to render.
        framing: the part of the shorter side that the objects fill, 0.5 to 1. At 0.8 there is more
            ground around them, and the centred 0.8 crop equals what 1.0 gives.
        leave_out: for each scene, the number of an object to leave out with its shadow, or 0. This
            is what an edit that removes the object should paint; later numbers move up.

    Returns:
        `image` float32 [B, 3, H, W] in [0, 1], `mask` int64 [B, H, W] (0 = ground), and B dicts.

    Raises:
        ConfigError: an argument is out of its range, the objects do not fit into the scene, or an
            object to leave out is not in it.

    Example:
        >>> from slotlab import render
        >>> scenes = render(range(2), variant="plain", resolution=32, max_objects=4)
        >>> tuple(scenes.image.shape), scenes.mask.amax(dim=(1, 2)).tolist()
        ((2, 3, 32, 32), [4, 4])
        >>> [thing["shape"] for thing in scenes.metadata[0]["objects"]]
        ['cube', 'cube', 'sphere', 'cylinder']
    """
    if variant not in VARIANT_TABLE:
        raise ConfigError(f"variant: there is no {variant!r}{nearest(str(variant), VARIANTS)}")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed: must be 0 or more (below 2**63), got {seed}")
    height, width = resolution if isinstance(resolution, tuple | list) else (resolution, resolution)
    if not all(isinstance(side, Integral) and 16 <= side <= 1024 for side in (height, width)):
        raise ConfigError(f"resolution: must be in 16..1024, got {height}x{width}")
    if not 1 <= min_objects <= max_objects <= 16:
        counts = f"got {min_objects} and {max_objects}"
        raise ConfigError(f"min_objects, max_objects: need 1 <= min_objects <= max_objects <= 16, {counts}")
    if supersample not in (1, 2, 3, 4):
        raise ConfigError(f"supersample: must be 1, 2, 3 or 4, got {supersample}")
    if not 0.5 <= framing <= 1:
        raise ConfigError(f"framing: must be in 0.5..1, got {framing}")
    index = torch.as_tensor(list(indices), dtype=torch.int64)
    if bool((index < 0).any()):
        raise ConfigError(f"indices: scene numbers start at 0, got {int(index.min())}")
    left_out = torch.zeros_like(index) if leave_out is None else torch.as_tensor(list(leave_out), dtype=torch.int64)
    if len(left_out) != len(index):
        raise ConfigError(f"leave_out: expected one number for each of {len(index)} scenes, got {len(left_out)}")
    view, vocabulary = Grid(int(height), int(width), framing, torch.device(device)), VARIANT_TABLE[variant]
    images = [torch.empty(0, 3, view.height, view.width, device=view.device)]
    masks = [torch.empty(0, view.height, view.width, dtype=torch.int64, device=view.device)]
    metadata: list[dict[str, Any]] = []
    most, pixels = _at_once(view), view.height * view.width
    at_once = max(1, most * SETTLE_SAMPLES // pixels)
    for start in range(0, len(index), at_once):
        part, gone = index[start : start + at_once], left_out[start : start + at_once]
        layout, attempts, mask, depth = settle(part, vocabulary, seed, min_objects, max_objects, view)
        dress = draw_dress(layout, vocabulary)
        if bool(gone.any()):
            for scene, number, objects in zip(part.tolist(), gone.tolist(), layout.count.tolist(), strict=True):
                if not 0 <= number <= objects:
                    there = f"scene {scene} has objects 1 to {objects}, not {number}"
                    raise ConfigError(f"leave_out: {there}; 0 leaves none out")
            layout, dress = without(layout, dress, gone)
            mask, depth = look(layout, view)
        masks.append(mask)
        metadata += describe(layout, dress, part, attempts, mask, view)
        scenes = max(1, most * SHADE_SAMPLES // (pixels * supersample**2))
        for start in range(0, len(part), scenes):
            stop = min(start + scenes, len(part))
            some, clothes = select(layout, dress, start, stop)
            images.append(shade(some, clothes, mask[start:stop], depth[start:stop], supersample, view))
    return SceneBatch(torch.cat(images), torch.cat(masks), metadata)


def _at_once(view: Grid) -> int:
    """How many times as many samples as on a CPU are worked on at a time."""
    return 1 if view.device.type == "cpu" else 64


def settle(
    index: Tensor, vocabulary: Variant, seed: int, min_objects: int, max_objects: int, view: Grid
) -> tuple[Layout, Tensor, Tensor, Tensor]:
    """Draws each scene until every object is visible enough; the attempt is part of its key.

    Returns the layout, the attempts used [B], the mask and the depth, both [B, H, W].
    """
    shorter = min(view.height, view.width)
    side = min(int(shorter * view.framing + 1e-6), shorter)
    top, left = (view.height - side) // 2, (view.width - side) // 2
    enough = max(1, round(MIN_VISIBLE * side * side))
    count_keys = scene_keys(seed, index, torch.zeros_like(index))
    attempts = torch.zeros_like(index)
    mask = torch.empty(len(index), view.height, view.width, dtype=torch.int64, device=view.device)
    depth = torch.empty_like(mask, dtype=torch.float32)
    waiting, most = torch.arange(len(index)), _at_once(view)
    while len(waiting):
        if int(attempts.max()) >= MAX_ATTEMPTS:
            raise ConfigError(
                f"max_objects: scene {int(index[waiting[0]])} found no layout of {min_objects} to {max_objects} "
                f"objects in {MAX_ATTEMPTS} draws; lower min_objects and max_objects"
            )
        # When few scenes wait, try several attempts of each; the first good one counts.
        spare = min(64, most * LOOK_SAMPLES // (view.height * view.width)) // len(waiting)
        ahead = 1 if int(attempts.max()) == 0 else min(8, max(1, spare))
        trial = torch.repeat_interleave(waiting, ahead)
        number = attempts[trial] + 1 + torch.arange(ahead).repeat(len(waiting))
        layout = draw_layout(
            scene_keys(seed, index[trial], number), count_keys[trial], vocabulary, min_objects, max_objects
        )
        shown, far = look(layout, view)
        # Counted within the square that the scene is composed for.
        visible = _pixels(shown[:, top : top + side, left : left + side], layout)
        good = layout.ok.clone()
        good[layout.scene[visible < enough]] = False
        found, first = good.view(-1, ahead).max(dim=1)
        attempts[waiting] += torch.where(found, first + 1, ahead)
        chosen = torch.nonzero(found).squeeze(1)
        source = chosen * ahead + first[chosen]
        rows, source = waiting[chosen].to(view.device), source.to(view.device)
        mask.index_copy_(0, rows, shown.index_select(0, source))
        depth.index_copy_(0, rows, far.index_select(0, source))
        waiting = waiting[~found]
    layout = draw_layout(scene_keys(seed, index, attempts), count_keys, vocabulary, min_objects, max_objects)
    return layout, attempts, mask, depth


def look(layout: Layout, view: Grid) -> tuple[Tensor, Tensor]:
    """The mask, and the depth of the object that each pixel shows (0: ground), both [B, H, W]."""
    place, owner, far = first_hits(layout, local_rays(layout).to(view.device), view)
    shape = (len(layout.count), view.height, view.width)
    mask = torch.zeros(shape, dtype=torch.int64, device=view.device)
    depth = torch.zeros(shape, device=view.device)
    before = layout.first[layout.scene].to(view.device)
    mask.view(-1).index_copy_(0, place, owner + 1 - before.index_select(0, owner))
    depth.view(-1).index_copy_(0, place, far)
    return mask, depth


def _pixels(mask: Tensor, layout: Layout) -> Tensor:
    """Pixels that show each object, int64 [M], on the CPU."""
    ids = mask.flatten(1) + 32 * torch.arange(len(mask), device=mask.device)[:, None]
    return torch.bincount(ids.view(-1), minlength=32 * len(mask)).cpu()[32 * layout.scene + layout.number]


def shade(layout: Layout, dress: Dress, mask: Tensor, depth: Tensor, supersample: int, view: Grid) -> Tensor:
    """The images [b, 3, H, W] of a layout whose pixels show `mask` at `depth` [b, H, W]."""
    scenes, device = len(layout.count), view.device
    grid = replace(view, height=view.height * supersample, width=view.width * supersample)
    table = object_table(layout, dress).to(device)
    if supersample > 1:
        hits = first_hits(layout, table[:12], grid)
    else:
        place = torch.nonzero(mask.reshape(-1)).squeeze(1)
        before = layout.first.to(device).index_select(0, place // (grid.height * grid.width))
        owner = mask.reshape(-1).index_select(0, place) - 1 + before
        hits = place, owner, depth.reshape(-1).index_select(0, place)
    lit, sky = ground_shadows(layout, dress, table, grid)
    at_once = _at_once(view) * GROUND_SAMPLES
    light = shade_ground(layout, dress, grid, lit, sky, at_once)
    place, colour = shade_objects(layout, dress, table, hits, grid)
    light.view(3, -1).index_copy_(1, place, colour)
    for part in light.view(-1).split(at_once):
        display(part)
    image = light.view(3, scenes, view.height, supersample, view.width, supersample)
    total = image[:, :, :, 0, :, 0]
    for sample in range(1, supersample**2):
        total = total + image[:, :, :, sample // supersample, :, sample % supersample]
    return (total * (1 / supersample**2)).transpose(0, 1).contiguous()


def describe(
    layout: Layout, dress: Dress, index: Tensor, attempts: Tensor, mask: Tensor, view: Grid
) -> list[dict[str, Any]]:
    """One dict per scene, with the names of the published CLEVRTex json.

    `image_index`, `num_objects`, `ground_material`, `layout_tries`, `directions` (unit vectors on
    the ground as the camera sees it), `camera` and `lights` (positions), and `objects`: `index`
    (its id in the mask), `shape`, `size`, `scale`, `material`, `color` (the material's first, red,
    green, blue in [0, 1]), `rotation` (degrees), `3d_coords` of the centre (z up, ground at 0),
    `pixel_coords` (column, row, depth), `visible_pixels`.
    """
    depth, right, up = in_camera(layout.camera[layout.scene], layout.centre.unbind(1))
    half = view.half * FOCAL
    column, row = right / depth * half + view.width / 2, view.height / 2 - up / depth * half
    columns = {
        "index": layout.number.tolist(),
        "shape": [shapes.NAMES[shape] for shape in layout.shape.tolist()],
        "size": [tuple(SIZES)[size] for size in layout.size.tolist()],
        "scale": layout.scale.tolist(),
        "material": [MATERIALS[material] for material in dress.material.tolist()],
        "color": colours_of(dress.coefficients).tolist(),
        "rotation": (layout.yaw * 360).tolist(),
        "3d_coords": layout.centre.tolist(),
        "pixel_coords": [[int(x), int(y), z] for x, y, z in torch.stack([column, row, depth], dim=1).tolist()],
        "visible_pixels": _pixels(mask, layout).tolist(),
    }
    objects = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    scenes = []
    for row, (number, count, first, camera) in enumerate(
        zip(index.tolist(), layout.count.tolist(), layout.first.tolist(), layout.camera.tolist(), strict=True)
    ):
        x, y = camera[6:8]
        level = {"behind": [-y, x, 0.0], "front": [y, -x, 0.0], "right": [x, y, 0.0], "left": [-x, -y, 0.0]}
        scenes.append(
            {
                "image_index": number,
                "num_objects": count,
                "ground_material": MATERIALS[int(dress.ground[row])],
                "directions": {**level, "above": [0.0, 0.0, 1.0], "below": [0.0, 0.0, -1.0]},
                "objects": objects[first : first + count],
                "layout_tries": int(attempts[row]),
                "camera": {"location": camera[:3], "forward": camera[3:6], "right": camera[6:9], "up": camera[9:12]},
                "lights": {"key": dress.key[row].tolist(), "fill": dress.fill[row].tolist()},
            }
        )
    return scenes
