"""Rendered scenes as a data set, and written to disk in the published CLEVRTex layout."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from PIL import Image

from slotlab.data.dataset import Opening, RowsDataset, in_a_row
from slotlab.data.images import to_batch, to_pixels
from slotlab.data.sample import Batch, SlotDataset
from slotlab.data.video import CLIPS_FILE, need_video, write_film
from slotlab.errors import ConfigError, DataError
from slotlab.files import Workspace, replacing, write_json
from slotlab.progress import Stage, in_steps

if TYPE_CHECKING:
    from slotlab.scenes import SceneBatch, VideoBatch

FIRST_INDEX = {"test": 0, "val": 10_000, "train": 20_000}
MOST = {"test": 10_000, "val": 10_000, "train": 2_000_000_000}
MOVING, CLIP = "moving", 12  # variants of clips begin with this; frames of a clip
DEFAULT_COUNT = {"test": 1_000, "val": 1_000, "train": 10_000}


class Scenes(RowsDataset):
    """Scenes of one variant, rendered on demand: images, or clips in which the objects move.

    Dataset format: none. Scene `i` of a seed and a resolution is always the same image. The splits
    are ranges of `i`: test from 0, val from 10,000 (at most 10,000 each), train from 20,000.

    Args:
        variant: one of `slotlab.scenes.VARIANTS`; `moving-VARIANT` for clips of it, which are
            samples `image` [T, 3, H, W] and `mask` [T, H, W]; `moving` is `moving-plain`.
        split: train, val, test or all: the three together.
        resolution: side of the images, 64 by default; they are not cropped.
        count: scenes in each split; by default 10,000 for train, 1,000 for val and test.
        seed, min_objects, max_objects, supersample, device: as for `slotlab.scenes.render`.
        frames: frames T of a clip, 12 by default.

    Example:
        >>> scenes = Scenes("plain", split="val", resolution=32, count=3)
        >>> len(scenes), scenes[2]["index"].item(), tuple(scenes[2]["image"].shape)
        (3, 10002, (3, 32, 32))
    """

    kind = "scenes"
    has_masks = True

    def __init__(
        self,
        variant: str,
        *,
        seed: int = 0,
        min_objects: int = 3,
        max_objects: int = 10,
        supersample: int = 1,
        frames: int | None = None,
        device: str | torch.device = "cpu",
        **opening: Unpack[Opening],
    ) -> None:
        count = opening.pop("count", None)
        sizes = {name: usual if count is None else count for name, usual in DEFAULT_COUNT.items()}
        for name, size in sizes.items():
            if opening.get("split", "train") in (name, "all") and not 1 <= size <= MOST[name]:
                raise ConfigError(f"count={size}: split {name!r} of scenes holds 1 to {MOST[name]:,} scenes")
        super().__init__(f"scenes:{variant}", in_a_row(sizes), sum(sizes.values()), **opening)
        if self.crop != 1:
            raise ConfigError(f"crop={self.crop}: scenes are rendered at their resolution; leave crop out")
        if self.ignore is not None:
            raise ConfigError(f"ignore={self.ignore}: every id in rendered masks is an object; leave ignore out")
        self.variant, self.device = variant, torch.device(device)
        self.resolution = 64 if self.resolution is None else self.resolution
        self.check_mask_resolution()
        still = variant.removeprefix(MOVING).removeprefix("-") or "plain"
        self._options: dict[str, Any] = {"resolution": self.resolution, "variant": still, "seed": seed}
        self._options |= {"min_objects": min_objects, "max_objects": max_objects, "supersample": supersample}
        self.frames = None
        if variant.startswith(MOVING):
            self.frames = self._options["frames"] = CLIP if frames is None else frames
        elif frames is not None:
            raise ConfigError(f"frames={frames}: scenes:{variant} are images; take scenes:{MOVING}-{variant} for clips")
        self._rendered([])  # checks the arguments

    def batch(self, positions: Sequence[int]) -> Batch:
        """The scenes at `positions`, rendered together."""
        numbers = [self._number(row) for row in self.at(positions)]
        rendered = self._rendered(numbers)
        return Batch(image=rendered.image, mask=rendered.mask, index=torch.tensor(numbers, device=self.device))

    def objects(self, numbers: Sequence[int]) -> list[list[dict[str, Any]]]:
        """The objects of scenes by number (a batch's `index`), in the order of their ids."""
        return [scene["objects"] for scene in self._rendered(numbers).metadata]

    def _number(self, row: int) -> int:
        name = next(name for name, rows in self.splits.items() if row in rows)
        return FIRST_INDEX[name] + row - self.splits[name].start

    def _rendered(self, numbers: Sequence[int]) -> "SceneBatch | VideoBatch":
        from slotlab.scenes import render, render_videos

        return (render if self.frames is None else render_videos)(numbers, **self._options, device=self.device)

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, with all that decides the images."""
        return super().describe() | self._options


RENDERED_TOGETHER = 128


class ScenesInMemory(SlotDataset):
    """Scenes that are rendered once and kept in memory as uint8, 4 bytes a pixel.

    On a CPU, rendering takes as long as a training step of a small model; the second epoch then
    costs nothing. 10,000 scenes of 32x32 take 41 MB.

    Example:
        >>> scenes = ScenesInMemory(Scenes("plain", split="test", resolution=32, count=3))
        >>> scenes.batch([2, 0])["index"].tolist()
        [2, 0]
    """

    has_masks = True

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes
        count, side = len(scenes), scenes.resolution
        shape = (count, side, side) if scenes.frames is None else (count, scenes.frames, side, side)
        self._images = np.empty((*shape, 3), dtype=np.uint8)
        self._masks = np.empty(shape, dtype=np.uint8)
        self._indices = np.full(count, -1)  # -1: not rendered yet

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, positions: Sequence[int]) -> Batch:
        """The scenes at `positions`, stacked; renders others too, as a large batch is faster."""
        rows = np.array(self.scenes.at(positions)) - self.scenes.rows.start
        missing = np.unique(rows[self._indices[rows] < 0])
        if len(missing):
            together = RENDERED_TOGETHER // (self.scenes.frames or 1)
            others = np.setdiff1d(np.flatnonzero(self._indices < 0)[:together], missing)
            missing = np.concatenate([missing, others[: max(0, together - len(missing))]])
            rendered = self.scenes.batch(missing.tolist())
            self._images[missing], masks = to_pixels(rendered)
            self._masks[missing] = np.asarray(masks)
            self._indices[missing] = rendered["index"].cpu()
        return to_batch(self._images[rows], self._masks[rows], self._indices[rows])

    def describe(self) -> dict[str, Any]:
        """As the scenes describe themselves."""
        return self.scenes.describe()


FRAMING = 0.8  # readers of CLEVRTex take the centred 0.8 crop, which then shows what `render` does
SAMPLES_AT_ONCE = 1 << 20

# Palette of the mask files: black for the ground, then well separated hues. Readers take the ids.
PALETTE = bytes.fromhex(
    "000000e6194b3cb44bffe1194363d8f58231911eb446f0f0f032e6bcf60cfabebe"
    "008080e6beff9a6324fffac8800000aaffc3808000ffd8b1000075808080"
)


@in_steps
def write_scenes(
    out: str | Path,
    *,
    variant: str = "textured",
    count: int = 200,
    resolution: int = 128,
    seed: int = 1,
    min_objects: int = 3,
    max_objects: int = 10,
    supersample: int = 2,
    device: str = "cpu",
) -> Generator[Stage, None, Path]:
    """Renders scenes 0 to `count` - 1 of a variant and a seed into a folder; a second call resumes.

    The files are those of CLEVRTex, so that one reader serves both::

        OUT/scenes.json                                 the settings
        OUT/clevrtex_{variant}/{index // 1000}/
            CLEVRTEX_{variant}_{index:06d}.png          RGB
            CLEVRTEX_{variant}_{index:06d}_flat.png     8-bit palette; pixel = id
            CLEVRTEX_{variant}_{index:06d}.json         objects; written last

    Images show more ground than those of `slotlab.scenes.render`, because readers of CLEVRTex take
    the centred 0.8 crop. An object's 20 visible pixels at 64x64 are counted within that crop.

    Args:
        out: the folder; made if missing. Complete scenes in it are kept, and `count` may grow.
        variant: one of `slotlab.scenes.VARIANTS`.
        count: number of scenes, 1 to 1,000,000.
        resolution: side of the images, 16 to 1024.
        seed: 0 or more; `scenes:VARIANT` tests on the first scenes of seed 0.
        min_objects: fewest objects in a scene.
        max_objects: most objects in a scene.
        supersample: rays per pixel and axis, 1 to 4.
        device: where to render.

    Returns:
        The folder `OUT/clevrtex_{variant}`.

    Raises:
        ConfigError: an argument is out of its range, or `out` holds something else or scenes with
            other settings.
        DataError: `out` holds more scenes than `count`.
    """
    from slotlab.scenes import render
    from slotlab.scenes.rendering import RENDERER

    if not 1 <= count <= 1_000_000:
        raise ConfigError(f"count: must lie in 1..1000000, got {count}")
    options: dict[str, Any] = {"variant": variant, "resolution": resolution, "seed": seed, "supersample": supersample}
    options |= {"min_objects": min_objects, "max_objects": max_objects, "framing": FRAMING}
    render([], **options)  # checks the arguments before anything is written
    out = Path(out)
    work = Workspace(out, "scenes.json", {"renderer": RENDERER, **options}, "rendered scenes")
    if not work.check():
        work.begin()
    folder = out / f"clevrtex_{variant}"
    for path in sorted(folder.glob(f"*/CLEVRTEX_{variant}_{'[0-9]' * 6}.json")):
        if int(path.stem[-6:]) >= count:
            raise DataError(f"{path}: {out} holds more scenes than count={count}; raise it or name a new folder")
    stems = [folder / str(index // 1000) / f"CLEVRTEX_{variant}_{index:06d}" for index in range(count)]
    todo = [index for index, stem in enumerate(stems) if not all(map(_written, _files(stem)))]
    done, batch = count - len(todo), max(1, SAMPLES_AT_ONCE // (resolution * supersample) ** 2)
    for start in range(0, len(todo), batch):
        indices = todo[start : start + batch]
        scenes = render(indices, **options, device=device)
        images = (scenes.image * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        masks = scenes.mask.to(torch.uint8).cpu().numpy()
        for index, image, mask, metadata in zip(indices, images, masks, scenes.metadata, strict=True):
            image_path, mask_path, json_path = _files(stems[index])
            _write_pair(image, mask, image_path, mask_path)
            names = {"image_filename": image_path.name, "mask_filename": mask_path.name, "split": variant}
            content = {"image_index": index, **names, **metadata, "renderer": RENDERER}
            write_json(json_path, content, indent=None)
            done += 1
            yield f"{variant} scenes", done, count
    return folder


@in_steps
def write_clips(
    out: str | Path, *, variant: str, count: int, frames: int, mp4: bool = False, device: str = "cpu", **options: Any
) -> Generator[Stage, None, Path]:
    """Renders clips 0 to `count` - 1 into a folder; a second call resumes.

    `slotlab.data.Clips` reads them::

        OUT/clips.json                          the settings
        OUT/images/{index:06d}/{frame:04d}.png  RGB
        OUT/masks/{index:06d}/{frame:04d}.png   8-bit palette; pixel = id, the same in all frames
        OUT/videos/{index:06d}.mp4              with `mp4`
        OUT/objects/{index:06d}.json            see `slotlab.scenes.render_videos`; written last

    Args:
        out: the folder; made if missing. Complete clips in it are kept, and `count` may grow.
        variant: one of `slotlab.scenes.VARIANTS`.
        count: number of clips, 1 to 1,000,000.
        frames: frames of each clip.
        mp4: also write each clip as a film, 12 frames a second; needs the extra `video`.
        device: where to render.
        **options: as for `slotlab.scenes.render_videos`.

    Raises:
        ConfigError: as `write_scenes`; PyAV is missing.
    """
    from slotlab.scenes import render_videos
    from slotlab.scenes.rendering import RENDERER

    if not 1 <= count <= 1_000_000:
        raise ConfigError(f"count: must lie in 1..1000000, got {count}")
    options |= {"variant": variant, "frames": frames}
    render_videos([], **options)  # checks the arguments before anything is written
    if mp4:
        need_video()
    out = Path(out)
    work = Workspace(out, CLIPS_FILE, {"renderer": RENDERER, **options}, "rendered clips")
    if not work.check():
        work.begin()
    for index in range(count):
        last = out / "objects" / f"{index:06d}.json"
        film = out / "videos" / f"{index:06d}.mp4"
        if not (_written(last) and (_written(film) or not mp4)):
            clip = render_videos([index], **options, device=device)
            images, masks = to_pixels(Batch(image=clip.image[0], mask=clip.mask[0], index=torch.zeros(1)))
            for frame, (image, mask) in enumerate(zip(images, np.asarray(masks).astype(np.uint8), strict=True)):
                name = f"{index:06d}/{frame:04d}.png"
                _write_pair(image, mask, out / "images" / name, out / "masks" / name)
            if mp4:
                write_film(film, images)
            write_json(last, {**clip.metadata[0], "renderer": RENDERER}, indent=None)
        yield f"{variant} clips", index + 1, count
    return out


def _write_pair(image: np.ndarray, mask: np.ndarray, image_path: Path, mask_path: Path) -> None:
    """Writes an image and its mask as PNGs, each whole or not at all."""
    flat = Image.fromarray(mask)
    flat.putpalette(PALETTE)
    for path, drawn in ((image_path, Image.fromarray(image)), (mask_path, flat)):
        with replacing(path) as temporary:
            drawn.save(temporary, format="PNG")


def _files(stem: Path) -> list[Path]:
    """Image, mask and json of a scene."""
    return [stem.with_name(f"{stem.name}{end}") for end in (".png", "_flat.png", ".json")]


def _written(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
