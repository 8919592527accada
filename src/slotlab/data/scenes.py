"""Rendered scenes to disk, in the published CLEVRTex layout."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slotlab.data.dataset import BrokenFile, checked_position, choose
from slotlab.data.images import to_batch
from slotlab.data.sample import Batch, Sample, only
from slotlab.errors import ConfigError, DataError
from slotlab.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from slotlab.scenes import SceneBatch


FIRST_INDEX = {"test": 0, "val": 10_000, "train": 20_000}
MOST = {"test": 10_000, "val": 10_000, "train": 2_000_000_000}
DEFAULT_COUNT = {"test": 1_000, "val": 1_000, "train": 10_000}


class Scenes:
    """Scenes of one variant, rendered when they are asked for.

    Dataset format: none. Scene `i` of a seed and a resolution is always the same picture; the splits are ranges of `i`:
    test from 0, val from 10,000 (at most 10,000 each), train from 20,000 on. `count` is the number of scenes in the
    chosen split (by default 10,000 for train, 1,000 for val and test); split "all" is test, val and train, `count` of
    each. Scenes are rendered at `resolution` (default 64) and not cropped.

    Attributes:
        device: where scenes are rendered and batches lie.
    """

    kind = "scenes"
    has_masks = True

    def __init__(
        self,
        variant: str,
        *,
        split: str = "train",
        resolution: int | None = None,
        crop: float | None = None,
        count: int | None = None,
        skip_broken: bool = False,
        seed: int = 0,
        min_objects: int = 3,
        max_objects: int = 10,
        supersample: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        if crop not in (None, 1, 1.0):
            raise ConfigError(f"crop={crop}: scenes are rendered at their resolution; leave crop out")
        if resolution is not None and resolution < 1:
            raise ConfigError(f"resolution={resolution}: expected a whole number of pixels, at least 1")
        counts = {name: DEFAULT_COUNT[name] if count is None else count for name in FIRST_INDEX}
        wanted = {name: size for name, size in counts.items() if split in (name, "all")}
        for name, size in wanted.items():
            if not 1 <= size <= MOST[name]:
                raise ConfigError(f"count={size}: split {name!r} of scenes holds 1 to {MOST[name]:,} scenes")
        self.splits: dict[str, range] = {}
        for name, size in counts.items():
            start = sum(len(rows) for rows in self.splits.values())
            self.splits[name] = range(start, start + size)
        total = sum(counts.values())
        self.variant, self.seed, self.supersample = variant, seed, supersample
        self.min_objects, self.max_objects = min_objects, max_objects
        self.rows, self.split = choose(self.splits, split, total, f"scenes:{variant}")
        self.resolution, self.device = resolution or 64, torch.device(device)
        self.broken: list[BrokenFile] = []
        self._rendered([])  # refuses what cannot be rendered, now

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Sample:
        return only(self.batch([position]))

    def batch(self, positions: Sequence[int]) -> Batch:
        """Renders the scenes at `positions` in one go."""
        numbers = [self.number(self.rows[checked_position(position, len(self))]) for position in positions]
        rendered = self._rendered(numbers)
        index: Tensor = torch.tensor(numbers, device=self.device)
        return Batch(image=rendered.image, mask=rendered.mask, index=index)

    def objects(self, numbers: Sequence[int]) -> list[list[dict[str, Any]]]:
        """The objects of the scenes of these numbers (a batch's `index`), in the order of their ids."""
        return [scene["objects"] for scene in self._rendered(numbers).metadata]

    def number(self, row: int) -> int:
        """The scene's number, by which the renderer knows it."""
        name = next(name for name, rows in self.splits.items() if row in rows)
        return FIRST_INDEX[name] + row - self.splits[name].start

    def _rendered(self, numbers: Sequence[int]) -> "SceneBatch":
        from slotlab import scenes

        return scenes.render(
            numbers,
            variant=self.variant,
            seed=self.seed,
            resolution=self.resolution,
            min_objects=self.min_objects,
            max_objects=self.max_objects,
            supersample=self.supersample,
            device=self.device,
        )

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, with all that decides the pictures."""
        return {
            "data": f"scenes:{self.variant}",
            "kind": self.kind,
            "split": self.split,
            "crop": 1.0,
            "resolution": self.resolution,
            "count": len(self),
            "variant": self.variant,
            "seed": self.seed,
            "min_objects": self.min_objects,
            "max_objects": self.max_objects,
            "supersample": self.supersample,
        }


RENDERED_TOGETHER = 128


class Remembered:
    """Scenes whose pixels stay in memory as uint8 once rendered: 4 bytes a pixel, so 41 MB for 10,000 of 32x32.

    On a CPU rendering takes as long as a small model's training step; the second epoch then costs nothing.
    """

    has_masks = True

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes
        count, side = len(scenes), scenes.resolution
        self._known = np.zeros(count, dtype=bool)
        self._images = np.empty((count, side, side, 3), dtype=np.uint8)
        self._masks = np.empty((count, side, side), dtype=np.uint8)
        self._indices = np.empty(count, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, position: int) -> Sample:
        return only(self.batch([position]))

    def batch(self, positions: Sequence[int]) -> Batch:
        """The scenes at `positions`, stacked; others not yet rendered come along, for a large batch renders faster."""
        rows = np.array([checked_position(position, len(self)) for position in positions])
        missing = np.unique(rows[~self._known[rows]])
        if len(missing):
            company = np.setdiff1d(np.flatnonzero(~self._known)[:RENDERED_TOGETHER], missing)
            missing = np.concatenate([missing, company[: max(0, RENDERED_TOGETHER - len(missing))]])
            rendered = self.scenes.batch(missing.tolist())
            pixels = (rendered["image"] * 255).round().byte().permute(0, 2, 3, 1)
            self._images[missing] = pixels.cpu().numpy()
            self._masks[missing] = rendered["mask"].byte().cpu().numpy()  # pyright: ignore
            self._indices[missing] = rendered["index"].cpu().numpy()
            self._known[missing] = True
        return to_batch(self._images[rows], self._masks[rows], self._indices[rows])

    def describe(self) -> dict[str, Any]:
        """What the scenes say of themselves."""
        return self.scenes.describe()


SETTINGS_FILE = "scenes.json"
FRAMING = 0.8  # readers take the centred 0.8 crop: the scene is composed for it
_BATCH_SAMPLES = 1 << 20

# Colours of the palette in the mask files: black for the ground, then well separated hues. Readers take the ids.
_PALETTE = [0, 0, 0] + [
    channel
    for colour in [
        "e6194b",
        "3cb44b",
        "ffe119",
        "4363d8",
        "f58231",
        "911eb4",
        "46f0f0",
        "f032e6",
        "bcf60c",
        "fabebe",
        "008080",
        "e6beff",
        "9a6324",
        "fffac8",
        "800000",
        "aaffc3",
        "808000",
        "ffd8b1",
        "000075",
        "808080",
    ]
    for channel in bytes.fromhex(colour)
]


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
    progress: bool = True,
) -> Path:
    """Renders scenes 0..count-1 of (`variant`, `seed`) into the folder `out`.

    The tree is that of CLEVRTex, so that one reader serves both::

        OUT/scenes.json                                            the settings
        OUT/clevrtex_{variant}/{index // 1000}/CLEVRTEX_{variant}_{index:06d}.png        RGB
        OUT/clevrtex_{variant}/{index // 1000}/CLEVRTEX_{variant}_{index:06d}_flat.png   8-bit palette; pixel = id
        OUT/clevrtex_{variant}/{index // 1000}/CLEVRTEX_{variant}_{index:06d}.json       written last

    Pictures show more ground than `slotlab.scenes.render` does by itself (`framing=0.8`), because readers of CLEVRTex
    take the centred 0.8 crop: after it, the objects lie in the frame as `render` has them. An object's 20 visible
    pixels at 64x64 are counted within that crop.

    A second call goes on where an earlier one stopped, and may raise `count`; complete scenes are kept.

    Args:
        out: the folder; made if missing.
        variant: one of `slotlab.scenes.VARIANTS`.
        count: number of scenes, 1..1,000,000.
        resolution: side of the pictures, 16..1024.
        seed: 0 or more; `scenes:VARIANT` tests on the first scenes of seed 0.
        min_objects: fewest objects in a scene.
        max_objects: most objects in a scene.
        supersample: samples per pixel and axis, 1..4.
        device: where to render.
        progress: whether to show a progress bar on standard error.

    Returns:
        The folder `OUT/clevrtex_{variant}`.

    Raises:
        ConfigError: an argument is out of its range.
        DataError: `out` holds something else, scenes of other settings, or more scenes than `count`.
    """
    from slotlab.scenes import render
    from slotlab.scenes.rendering import RENDERER

    if not 1 <= count <= 1_000_000:
        raise ConfigError(f"count: must lie in 1..1000000, got {count}")
    options: dict[str, Any] = {
        "variant": variant,
        "seed": seed,
        "resolution": resolution,
        "min_objects": min_objects,
        "max_objects": max_objects,
        "supersample": supersample,
    }
    render([], **options, framing=FRAMING)  # checks the arguments before anything is written
    out = Path(out)
    folder = out / f"clevrtex_{variant}"
    _claim(out, {"renderer": RENDERER, "framing": FRAMING, **options})
    todo = [index for index in range(count) if not _complete(folder, variant, index)]
    if (beyond := _first_beyond(folder, variant, count)) is not None:
        raise DataError(
            f"{beyond}: {out} holds more scenes than count={count}; ask for as many, or write to another folder"
        )
    batch = max(1, _BATCH_SAMPLES // (resolution * supersample) ** 2)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), disable=not progress) as bar:
        task = bar.add_task(f"{variant} scenes", total=count, completed=count - len(todo), speed="")
        for start in range(0, len(todo), batch):
            indices = todo[start : start + batch]
            scenes = render(indices, **options, framing=FRAMING, device=device)
            pictures = (scenes.image * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            masks = scenes.mask.to(torch.uint8).cpu().numpy()
            for index, picture, mask, metadata in zip(indices, pictures, masks, scenes.metadata, strict=True):
                _write_scene(_stem(folder, variant, index), variant, picture, mask, metadata)
                bar.advance(task)
            speed = bar.tasks[0].speed
            bar.update(task, speed=f"{speed:.0f} scenes/s" if speed else "")
    return folder


def _stem(folder: Path, variant: str, index: int) -> Path:
    return folder / str(index // 1000) / f"CLEVRTEX_{variant}_{index:06d}"


def _files(stem: Path) -> tuple[Path, Path, Path]:
    """Picture, mask and json of a scene."""
    return (
        stem.with_name(f"{stem.name}.png"),
        stem.with_name(f"{stem.name}_flat.png"),
        stem.with_name(f"{stem.name}.json"),
    )


def _complete(folder: Path, variant: str, index: int) -> bool:
    return all(path.is_file() and path.stat().st_size for path in _files(_stem(folder, variant, index)))


def _first_beyond(folder: Path, variant: str, count: int) -> Path | None:
    """A scene of this folder whose number is `count` or more."""
    for path in sorted(folder.glob(f"*/CLEVRTEX_{variant}_??????.json")):
        number = path.stem[-6:]
        if number.isdigit() and int(number) >= count:
            return path
    return None


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Sees to it that `out` is ours: writes the settings, or compares them with those found."""
    path = out / SETTINGS_FILE
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file, not a folder; name another folder")
    if not path.exists():
        foreign = sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) if out.exists() else []
        if foreign:
            raise DataError(
                f"{out}: holds '{foreign[0]}' and no {SETTINGS_FILE}, so it was not written by this command; "
                "name an empty or a new folder"
            )
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n")
        return
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON ({error}); name another folder, or delete this one") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: does not hold the settings of scenes; name another folder, or delete this one")
    other = [key for key in sorted({*settings, *found}) if settings.get(key) != found.get(key)]
    if other:
        changes = ", ".join(f"{key} is {found.get(key)!r} there, {settings.get(key)!r} here" for key in other)
        raise DataError(
            f"{path}: the scenes there have other settings ({changes}); name another folder, or the same settings"
        )


def _write_scene(stem: Path, variant: str, picture: Any, mask: Any, metadata: dict[str, Any]) -> None:
    image_path, mask_path, json_path = _files(stem)
    with replacing(image_path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    flat = Image.fromarray(mask)
    flat.putpalette(_PALETTE)
    with replacing(mask_path) as temporary:
        flat.save(temporary, format="PNG")
    from slotlab.scenes.rendering import RENDERER

    content = {
        "image_index": metadata["image_index"],
        "image_filename": image_path.name,
        "mask_filename": mask_path.name,
        "split": variant,
        **{key: value for key, value in metadata.items() if key != "image_index"},
        "renderer": RENDERER,
    }
    with replacing(json_path) as temporary:
        temporary.write_text(json.dumps(content))
