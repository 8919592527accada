"""Which images to take apart, and under which names: found and checked before anything is computed."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slotlab.data.image_folder import IMAGE_SUFFIXES, image_files
from slotlab.errors import ConfigError, DataError

SEGMENTATION, OVERLAY = "_segmentation", "_overlay"


@dataclass(frozen=True)
class Source:
    """An image file, and the name of its outputs: its path below `folder`, common to all images, without suffix."""

    path: Path
    name: str
    folder: Path


def find_sources(images: str | Path | Iterable[str | Path], out: Path, slots: int) -> list[Source]:
    """The images that files and folders name, each once, in that order; folders with all that is below them, sorted.

    Args:
        images: files (of any kind: what is no image is found out later) and folders.
        out: where the outputs go.
        slots: of the model, which decides the names of the outputs.

    Raises:
        DataError: a file or folder is missing, a folder has no images, or has masks beside them.
        ConfigError: images and outputs would mix, or two images would write the same file.
    """
    given = [Path(one) for one in ([images] if isinstance(images, str | Path) else images)]
    found: dict[Path, Path] = {}
    for path in given:
        for file in _files(path):
            found.setdefault(file.resolve(), file)
    if not found:
        raise DataError("no images: name image files, or folders that hold some")
    folders = [(path if path.is_dir() else path.parent).resolve() for path in given]
    _check_apart(out.resolve(), [path.resolve() for path in given if path.is_dir()], list(found))
    common = Path(os.path.commonpath(folders))
    names = [(file.parent.resolve() / file.stem).relative_to(common).as_posix() for file in found.values()]
    sources = [Source(path, name, common) for path, name in zip(found.values(), names, strict=True)]
    _check_names(sources, slots)
    return sources


def mask_suffix(slot: int) -> str:
    """What follows an image's name in the file of a slot's mask."""
    return f"_{slot}"


def _files(path: Path) -> Sequence[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    files = image_files(path, nested=True)
    if not files:
        raise DataError(f"{path}: no image file in this folder or below it ({', '.join(IMAGE_SUFFIXES)})")
    masks = [file for file in files if file.stem.endswith("_flat") or _in_masks(file.relative_to(path), path)]
    if masks:
        raise DataError(
            f"{masks[0]}: a mask, not an image; name a folder without masks, such as images/ beside masks/, or the "
            f"image files themselves"
        )
    return files


def _in_masks(relative: Path, folder: Path) -> bool:
    """Whether a file lies in masks/ beside images/, the layout of image folders."""
    return relative.parts[0] == "masks" and (folder / "images").is_dir()


def _check_apart(out: Path, folders: Sequence[Path], files: Sequence[Path]) -> None:
    """Raises a ConfigError if the outputs would lie among the images, or images among the outputs."""
    around = [folder for folder in folders if out == folder or folder in out.parents]
    inside = [file for file in files if out in file.parents]
    if around or inside:
        mixed = f"inside the input folder {around[0]}" if around else f"around the input {inside[0]}"
        raise ConfigError(f"{out}: lies {mixed}, so that outputs and inputs would mix; name another --out")


def _check_names(sources: Sequence[Source], slots: int) -> None:
    """Raises a ConfigError if two images would write the same file (in whatever case of letters)."""
    known: dict[str, Source] = {}
    for source in sources:
        other = known.setdefault(source.name.casefold(), source)
        if other is not source:
            _refuse(other, source, f"{source.name}.png")
    for suffix in (*(mask_suffix(slot) for slot in range(slots)), SEGMENTATION, OVERLAY):
        for name, source in known.items():
            other = known.get(name.removesuffix(suffix)) if name.endswith(suffix) else None
            if other is not None:
                _refuse(other, source, f"{source.name}.png")


def _refuse(one: Source, other: Source, file: str) -> None:
    raise ConfigError(f"{one.path} and {other.path}: both would write {file}; rename one, or give each its own --out")
