"""Rendered scenes to disk, in the published CLEVRTex layout."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slotlab.atomic import replacing
from slotlab.errors import ConfigError, DataError

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
