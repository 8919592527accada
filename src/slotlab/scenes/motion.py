"""Scenes that move: objects roll, turn, collide, enter and leave; the camera rests or pans."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from slotlab.errors import ConfigError
from slotlab.scenes import shapes
from slotlab.scenes.layout import OF_OBJECTS, VARIANT_TABLE, Dress, Layout, draw_dress, select
from slotlab.scenes.noise import uniform
from slotlab.scenes.patterns import sine_turns
from slotlab.scenes.rendering import SHADE_SAMPLES, describe, look, render, settle, shade
from slotlab.scenes.visibility import Grid

MOST_FRAMES = 1000
START = 12  # the layout of the still scene is that of one of the first so many frames
SUBSTEPS = 4  # of a frame, for collisions
SPEED, SPIN = 0.3, 0.03  # most per frame, in units and turns
CURVE, PAN = 0.06, 0.012  # most per frame, as the tangent of half the angle
STILL, STRAIGHT = 0.15, 0.6  # shares of the objects that rest, and that rest or roll straight on
WALL = 6.0  # objects turn back here, out of sight, so that none gets behind the camera
VARYING = ("3d_coords", "pixel_coords", "rotation", "visible_pixels")
_MOTION, _START, _PAN = 11, 12, 13  # streams of random numbers, after those of `layout`


@dataclass(frozen=True)
class VideoBatch:
    """Rendered clips of T frames."""

    image: Tensor  # float32 [B, T, 3, H, W] in [0, 1]
    mask: Tensor  # int64 [B, T, H, W], 0 = ground; an object keeps its id, also when it is out of sight
    metadata: list[dict[str, Any]]  # one per clip, see `render_videos`


def render_video(index: int, frames: int = 12, *, variant: str = "plain", **options: Any) -> tuple[Tensor, Tensor]:
    """Renders one clip: `render_videos` of one index, without its metadata.

    Returns:
        The frames, float32 [T, 3, H, W] in [0, 1], and their masks, int64 [T, H, W].

    Example:
        >>> import slotlab
        >>> frames, masks = slotlab.render_video(0, frames=3, resolution=32)
        >>> tuple(frames.shape), tuple(masks.shape)
        ((3, 3, 32, 32), (3, 32, 32))
    """
    clip = render_videos([index], frames, variant=variant, **options)
    return clip.image[0], clip.mask[0]


@torch.no_grad()
def render_videos(
    indices: Sequence[int],
    frames: int = 12,
    *,
    variant: str = "plain",
    seed: int = 0,
    resolution: int | tuple[int, int] = 64,
    min_objects: int = 3,
    max_objects: int = 10,
    supersample: int = 1,
    device: str | torch.device = "cpu",
    framing: float = 1.0,
) -> VideoBatch:
    """Renders labelled clips from a seed.

    One of the first 12 frames (`start` in the metadata) is the still scene of the same arguments,
    bit for bit; before and after it objects rest, roll straight on or along curves, turn around
    their axes, bounce off each other, pass behind each other, leave the view and enter it. In half
    of the clips the camera pans. A clip is the same in any batch, and a longer clip begins with the
    shorter one.

    Args:
        indices: numbers of the clips, each 0 or more.
        frames: frames T of a clip, 1 to 1,000.
        variant: one of `VARIANTS`.
        seed: 0 or more; another seed gives other clips.
        resolution: side of the frames, or (height, width), 16 to 1024.
        min_objects: fewest objects in a clip, 1 to `max_objects`.
        max_objects: most objects in a clip, up to 16.
        supersample: rays per pixel and axis, 1 to 4.
        device: where to render.
        framing: as for `render`.

    Returns:
        `image` float32 [B, T, 3, H, W] in [0, 1], `mask` int64 [B, T, H, W] (0 = ground), and a
        dict for each clip: that of `render` with `frames` and `start`, `camera` as a list of T, and
        for each object lists of T `3d_coords`, `pixel_coords`, `rotation` and `visible_pixels`.

    Raises:
        ConfigError: an argument is out of its range, or the objects do not fit into the scene.

    Example:
        >>> clips = render_videos([0, 1], frames=2, resolution=16, max_objects=4)
        >>> tuple(clips.image.shape), clips.metadata[0]["frames"]
        ((2, 2, 3, 16, 16), 2)
    """
    options: dict[str, Any] = {"variant": variant, "seed": seed, "resolution": resolution, "framing": framing}
    options |= {"min_objects": min_objects, "max_objects": max_objects, "supersample": supersample}
    render([], **options)  # checks them
    if not 1 <= frames <= MOST_FRAMES:
        raise ConfigError(f"frames: must be in 1..{MOST_FRAMES}, got {frames}")
    index = torch.as_tensor(list(indices), dtype=torch.int64)
    if bool((index < 0).any()):
        raise ConfigError(f"indices: clip numbers start at 0, got {int(index.min())}")
    height, width = resolution if isinstance(resolution, tuple | list) else (resolution, resolution)
    view, vocabulary = Grid(int(height), int(width), framing, torch.device(device)), VARIANT_TABLE[variant]
    images = [torch.empty(0, 3, view.height, view.width, device=view.device)]
    masks = [torch.empty(0, view.height, view.width, dtype=torch.int64, device=view.device)]
    metadata: list[dict[str, Any]] = []
    if len(index):
        still, attempts, _, _ = settle(index, vocabulary, seed, min_objects, max_objects, view)
        layout, dress, start = _moving(still, draw_dress(still, vocabulary), frames)
        most = SHADE_SAMPLES * (1 if view.device.type == "cpu" else 64)
        at_once = max(1, most // (view.height * view.width * supersample**2))
        scenes: list[dict[str, Any]] = []
        for first in range(0, len(layout.count), at_once):
            last = min(first + at_once, len(layout.count))
            some, clothes = select(layout, dress, first, last)
            mask, depth = look(some, view)
            images.append(shade(some, clothes, mask, depth, supersample, view))
            masks.append(mask)
            numbers = torch.arange(first, last) // frames
            scenes += describe(some, clothes, index[numbers], attempts[numbers], mask, view)
        clips = [scenes[first : first + frames] for first in range(0, len(scenes), frames)]
        metadata = [_of_clip(clip, begin) for clip, begin in zip(clips, start.tolist(), strict=True)]
    image, mask = torch.cat(images), torch.cat(masks)
    return VideoBatch(image.unflatten(0, (len(index), frames)), mask.unflatten(0, (len(index), frames)), metadata)


def _of_clip(frames: list[dict[str, Any]], start: int) -> dict[str, Any]:
    """The dicts of a clip's frames as one."""
    objects = [
        one | {name: [frame["objects"][place][name] for frame in frames] for name in VARYING}
        for place, one in enumerate(frames[0]["objects"])
    ]
    about = {"frames": len(frames), "start": start, "camera": [frame["camera"] for frame in frames]}
    return frames[0] | about | {"objects": objects}


def _moving(still: Layout, dress: Dress, frames: int) -> tuple[Layout, Dress, Tensor]:
    """All frames of B clips as a layout of B · T scenes; and the frame that is the still [B]."""
    clips, most = len(still.count), int(still.number.max())
    start = (uniform(still.keys, _START, 1)[:, 0] * START).to(torch.int64)
    there = torch.arange(most) < still.count[:, None]
    kind, speed, heading, curve, spin = uniform(still.keys, _MOTION, 5 * most).view(clips, most, 5).unbind(2)
    moves = (kind >= STILL).float()
    speed = (0.15 + 0.85 * speed) * SPEED * moves
    velocity = speed * sine_turns(heading + 0.25), speed * sine_turns(heading)
    curve = (2 * curve - 1) * CURVE * (kind >= STRAIGHT).float()
    spin = (2 * spin - 1) * SPIN * moves
    # Places in the table that no object has are far from all others, and stay there.
    x, y = (torch.arange(most) * 1e3 + 1e4).repeat(2, clips, 1).unbind(0)
    x[there], y[there] = still.centre[:, 0], still.centre[:, 1]
    radius = torch.zeros(clips, most)
    radius[there] = shapes.FOOTPRINTS[still.shape] * still.scale
    velocity = velocity[0] * there, velocity[1] * there
    after = _paths((x, y), velocity, curve, radius, frames - 1)
    before = _paths((x, y), (-velocity[0], -velocity[1]), -curve, radius, START - 1)
    path = torch.stack([*reversed(before[1:]), *after], dim=1)  # [B, START - 1 + T, O, 2]
    when = torch.arange(frames) - start[:, None]  # [B, T]
    centre = path[torch.arange(clips)[:, None], when + START - 1]
    # One row per object and frame, frame after frame.
    clip = torch.arange(clips * frames) // frames
    count = still.count[clip]
    scene = torch.repeat_interleave(torch.arange(len(count)), count)
    number = torch.arange(len(scene)) - (count.cumsum(0) - count)[scene] + 1
    chosen = still.first[clip[scene]] + number - 1
    objects = {name: getattr(still, name)[chosen] for name in OF_OBJECTS}
    rows, time = clip[scene], when.flatten()[scene]
    yaw = objects["yaw"] + spin[rows, number - 1] * time
    ground = centre.flatten(0, 1)[scene, number - 1]
    objects |= {"scene": scene, "number": number, "yaw": yaw}
    objects["centre"] = torch.cat([ground, objects["centre"][:, 2:]], dim=1)
    objects["turn"] = torch.stack([sine_turns(yaw + 0.25), sine_turns(yaw)], dim=1)
    camera = _panned(still, when).flatten(0, 1)
    layout = replace(still, keys=still.keys[clip], camera=camera, count=count, ok=still.ok[clip], **objects)
    clothes = Dress(
        dress.key[clip],
        dress.fill[clip],
        dress.material[chosen],
        dress.coefficients[:, chosen],
        dress.ground[clip],
        dress.ground_coefficients[:, clip],
    )
    return layout, clothes, start


def _paths(
    place: tuple[Tensor, Tensor], velocity: tuple[Tensor, Tensor], curve: Tensor, radius: Tensor, frames: int
) -> list[Tensor]:
    """Places [B, O, 2] at the start and after each frame, of circles that bounce elastically.

    Only elementwise operations of exactly rounded results: a clip does not depend on its batch.
    """
    (x, y), (vx, vy) = place, velocity
    step, most = 1 / SUBSTEPS, x.shape[1]
    half = curve * step
    cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    mass = radius * radius + 1e-6
    found = [torch.stack([x, y], dim=2)]
    for _ in range(frames):
        for _ in range(SUBSTEPS):
            x, y = x + vx * step, y + vy * step
            vx, vy = vx * cosine - vy * sine, vx * sine + vy * cosine
            for speed, at in ((vx, x), (vy, y)):
                outwards = (at.abs() > WALL) & (at.abs() < 1e4) & (at * speed > 0)
                speed[outwards] *= -1
            pushed = torch.zeros_like(vx), torch.zeros_like(vy)
            for other in range(most):
                one = slice(other, other + 1)
                dx, dy = x - x[:, one], y - y[:, one]
                squared = dx * dx + dy * dy
                nearing = dx * (vx - vx[:, one]) + dy * (vy - vy[:, one])
                reach = radius + radius[:, one]
                meets = (squared < reach * reach) & (nearing < 0) & (squared > 0)
                share = 2 * mass[:, one] / (mass + mass[:, one]) * nearing / squared.clamp(min=1e-6) * meets
                pushed = pushed[0] - share * dx, pushed[1] - share * dy
            vx, vy = vx + pushed[0], vy + pushed[1]
        found.append(torch.stack([x, y], dim=2))
    return found


def _panned(still: Layout, when: Tensor) -> Tensor:
    """Cameras [B, T, 12], in half of the clips turned around the vertical; frames `when` [B, T]."""
    pans, rate = uniform(still.keys, _PAN, 2).unbind(1)
    half = (2 * rate - 1) * PAN * (pans < 0.5).float()
    cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    turned, axes = {0: still.camera}, still.camera
    for time in range(1, int(when.abs().max()) + 1):
        for sign in (-1, 1):
            x, y = turned[sign * (time - 1)][:, 3::3], turned[sign * (time - 1)][:, 4::3]
            axes = still.camera.clone()
            axes[:, 3::3] = x * cosine[:, None] - y * (sign * sine)[:, None]
            axes[:, 4::3] = x * (sign * sine)[:, None] + y * cosine[:, None]
            turned[sign * time] = axes
    first, last = min(turned), max(turned)
    table = torch.stack([turned[time] for time in range(first, last + 1)], dim=1)
    return table[torch.arange(len(when))[:, None], when - first]
