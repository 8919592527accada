"""Image files in folders, and readers of image folders and of CLEVRTex."""

import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

from slotlab.data.dataset import SPLIT_NAMES, BrokenFile, Opening, PixelDataset
from slotlab.data.images import LOSSY, Decoded, decode_image, decode_mask, with_mask
from slotlab.errors import DataError
from slotlab.files import read_json

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".webp", ".avif"),
    *(".bmp", ".tif", ".tiff", ".gif", ".tga", ".ppm", ".pgm", ".pnm"),
)
# Folders and files that hold masks, by name: labels/0.png; 0_mask.png or 0_seg_01.png beside 0.png.
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "segmentations", "segmentation", "segments", "seg"),
    *("annotations", "instances", "groundtruth", "gt"),
)
MASK_NAME = re.compile(r"(.+?)[_-](?:(?:mask|seg|segment|segmentation|label|instance)s?|gt|flat)(?:[_-]?\d+)?", re.I)


def folders_below(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """`root` and each folder below it except hidden ones, with the sorted names of its files.

    Links to folders are followed, because large data sets may be spread over disks, but no folder
    is entered twice.

    Raises:
        DataError: a folder may not be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from error

    entered: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=refuse):
        status = Path(folder).stat()
        seen = (status.st_dev, status.st_ino) in entered
        entered.add((status.st_dev, status.st_ino))
        subfolders[:] = [] if seen else sorted(name for name in subfolders if not name.startswith("."))
        if not seen:
            yield Path(folder), sorted(names)


def image_files(folder: Path, *, nested: bool = True) -> list[Path]:
    """The image files in `folder` (and below it if `nested`) by suffix, sorted, no hidden ones."""
    return sorted(
        place / name
        for place, names in islice(folders_below(folder), None if nested else 1)
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
    )


def by_numbers(name: str) -> list[Any]:
    """A key that sorts names by the numbers in them.

    Example:
        >>> sorted(["frame10.png", "frame9.png"], key=by_numbers)
        ['frame9.png', 'frame10.png']
    """
    return [int(word) if place % 2 else word for place, word in enumerate(re.split(r"(\d+)", name))]


def check_no_masks(paths: Sequence[Path]) -> None:
    """DataError if files are masks of others by name, such as 0_mask_00.png beside 0_image.png."""
    known = {path.with_suffix("") for path in paths}
    masks = [
        path
        for path in paths
        if (found := MASK_NAME.fullmatch(path.stem))
        and any(path.with_name(f"{found[1]}{end}") in known for end in ("", "_image", "_img", "_rgb"))
    ]
    if masks:
        raise DataError(
            f"{masks[0]}: a mask, not an image ({len(masks):,} of {len(paths):,} files by their names); move "
            "the images to images/, and one mask each (pixel = object id) to masks/ beside it, named as its image"
        )


def find_images(folder: str | Path) -> list[Path]:
    """The image files in a folder of images alone and below it, sorted, without hidden ones.

    Raises:
        DataError: the folder is missing, has no image, or has the masks of a data set as well.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.jpg", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [path.name for path in find_images(folder)]
        ['a.jpg', 'b.png']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = image_files(folder)
    if not found:
        raise DataError(f"{folder}: no image file in this folder or below it ({', '.join(IMAGE_SUFFIXES)})")
    beside = (folder / "images").is_dir()
    for path in found:
        if path.name.endswith("_flat.png") or (beside and path.relative_to(folder).parts[0].lower() in MASK_FOLDERS):
            raise DataError(
                f"{path}: a mask, not an image; name a folder of images alone, such as images/ beside masks/"
            )
        if path.name.endswith("_segmentation.png") and path.with_name(f"{path.name[:-17]}_overlay.png").is_file():
            raise DataError(f"{path}: a mask that `slotlab segment` wrote; name a folder of images alone")
    check_no_masks(found)
    return found


IMAGE_NAME = re.compile(r"CLEVRTEX_(?P<variant>.+)_(?P<index>\d{6})\.png")
WHOLE_VARIANTS = ("outd",)
RESTORE = "restore it, or pass skip_broken=True (--skip-broken) to use the next image instead"


class ClevrTex(PixelDataset):
    """CLEVRTex and every data set in its layout.

    Dataset format:

    * images: `**/CLEVRTEX_{variant}_{index:06d}.png`, RGB or RGBA, in any nesting
    * masks: `CLEVRTEX_{variant}_{index:06d}_flat.png` beside the image, palette PNG: the pixel
      value is the object's number in the json, 0 the ground
    * metadata: `CLEVRTEX_{variant}_{index:06d}.json` beside the image; optional

    Splits by sorted index, as in the published loader: test [0, 10 %), val [10, 20 %), train the
    rest; `outd` is used whole for any split. Crop 0.8 of the shorter side, then resize. A repeated
    index and an image without its mask are errors; gaps in the numbering are not.
    """

    kind = "clevrtex"
    default_crop = 0.8

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether a folder has a scene; `images/` without `masks/`, one with its mask beside it."""
        images = path / "images"
        unpacked_there = images.is_dir()
        if not path.is_dir() or (unpacked_there and (path / "masks").is_dir()):
            return False
        return any(
            IMAGE_NAME.fullmatch(name) and (not unpacked_there or _mask_path(folder / name).name in names)
            for folder, names in folders_below(images if unpacked_there else path)
            for name in names
        )

    def __init__(self, root: str | Path, *, variant: str | None = None, **opening: Unpack[Opening]) -> None:
        images, self.variant, problems = _scan(Path(root), variant)
        if problems and not opening.get("skip_broken"):
            more = f" ({len(problems)} such problems)" if len(problems) > 1 else ""
            raise DataError(f"{problems[0][1].reason}{more}")
        self.numbers, self.paths = sorted(images), [images[number] for number in sorted(images)]
        super().__init__(root, {"all": len(self.paths)}, whole=self.variant in WHOLE_VARIANTS, **opening)
        wanted = {self.numbers[row] for row in self.rows}
        self.broken += [file for number, file in problems if number in wanted]

    def read(self, row: int) -> Decoded:
        """Decodes the image and its mask."""
        path, mask = self.paths[row], _mask_path(self.paths[row])
        ids = decode_mask(mask, str(mask), palette_only=True)
        return with_mask(decode_image(path, str(path)), ids, str(path), str(mask))

    def name(self, row: int) -> str:
        """The image's path."""
        return str(self.paths[row])

    def number(self, row: int) -> int:
        """The index in the file's name."""
        return self.numbers[row]

    def metadata(self, position: int) -> dict[str, Any]:
        """The scene's json (`num_objects`, `objects`, ...); DataError if missing or broken."""
        return self._metadata(self.rows[position])

    def objects(self, numbers: Sequence[int]) -> list[list[dict[str, Any]]]:
        """The objects of these scenes in the order of their ids; DataError without a json."""
        scenes = [self._metadata(bisect_left(self.numbers, number)) for number in numbers]
        if not all(isinstance(scene.get("objects"), list) for scene in scenes):
            raise DataError(f"{self.data}: the json of a scene has no list `objects`")
        return [scene["objects"] for scene in scenes]

    def _metadata(self, row: int) -> dict[str, Any]:
        return read_json(self.paths[row].with_suffix(".json"), "write the json again", DataError)

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, with the variant."""
        return super().describe() | {"variant": self.variant}


def _mask_path(image: Path) -> Path:
    return image.with_name(f"{image.stem}_flat.png")


def _scan(root: Path, variant: str | None) -> tuple[dict[int, Path], str, list[tuple[int, BrokenFile]]]:
    """Images by index, their variant, and what is wrong with which index."""
    images: dict[int, Path] = {}
    variants: set[str] = set()
    problems: list[tuple[int, BrokenFile]] = []
    for folder, names in folders_below(root):
        for found in filter(None, map(IMAGE_NAME.fullmatch, names)):
            variants.add(found["variant"])
            if variant not in (None, found["variant"]):
                continue
            path, index = folder / found[0], int(found["index"])
            first = images.setdefault(index, path)
            problem = None
            if first is not path:
                problem = f"index {index} is also that of {first}; remove one of the two"
            elif _mask_path(path).name not in names:
                problem = f"its mask {_mask_path(path).name} is missing; {RESTORE}"
            if problem:
                problems.append((index, BrokenFile(str(path), f"{path}: {problem}")))
    if variant is None and len(variants) > 1:
        raise DataError(f"{root}: has the variants {', '.join(sorted(variants))}; pass variant=, or one's folder")
    if not images:
        wanted = "" if variant is None else f" of variant {variant!r}, only {', '.join(sorted(variants)) or 'nothing'}"
        raise DataError(
            f"{root}: no CLEVRTEX_<variant>_<six digits>.png{wanted} below this folder; name the folder "
            "that holds the unpacked images, or write scenes with `slotlab scenes write`"
        )
    return images, variant or variants.pop(), problems


MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".webp")
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jp2", ".avif")


class ImageFolder(PixelDataset):
    """A folder of images, optionally with a mask of object ids for each.

    Dataset format: one of

    * `images/**/{stem}.png` and optionally `masks/**/{stem}.png` (the same path below)
    * `images/{train,val,test}/...` and optionally `masks/{train,val,test}/...`: each split with or
      without masks; training, validation, valid, dev and testing are other names for them
    * images directly in the folder, without masks

    Images: any of `slotlab.data.folders.IMAGE_SUFFIXES`. Masks: png, tif, tiff, bmp, gif, pgm or
    lossless webp; a pixel is an object id, 0 = background, in palette, grey (8 or 16 bits) or RGB
    files whose channels agree; ids may have gaps. Without split folders: CLEVRTex's rule on sorted
    paths. Images are cropped to the centred square (1.0 of the shorter side), then resized. Masks
    that lie elsewhere by their names (`0_mask.png` beside `0.png`, `labels/`) are an error.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from slotlab.data import ImageFolder
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in range(10):
        ...     Image.new("RGB", (40, 30)).save(folder / f"{number}.png")
        >>> data = ImageFolder(folder, resolution=16)
        >>> len(data), tuple(data[0]["image"].shape)
        (8, (3, 16, 16))
    """

    kind = "images"

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether a folder has `images/`, or images directly in it."""
        return (path / "images").is_dir() or (path.is_dir() and bool(image_files(path, nested=False)))

    def __init__(self, root: str | Path, **opening: Unpack[Opening]) -> None:
        base = Path(root)
        images = base / "images" if (base / "images").is_dir() else base
        named = split_folders(images) if images != base else {}
        files = {split: image_files(images / folder) for split, folder in named.items()}
        if not named:
            files = {"all": image_files(images, nested=images != base)}
        self.paths = [path for paths in files.values() for path in paths]
        if not self.paths:
            raise DataError(f"{images}: no image file here ({', '.join(IMAGE_SUFFIXES)}); name another folder")
        self._images, self._masks = images, base / "masks"
        check_no_masks(self.paths)
        for folder in sorted(base.iterdir()):
            expected = images != base and folder.name == "masks"
            if folder.name.lower() in MASK_FOLDERS and not expected and folder.is_dir() and image_files(folder):
                raise DataError(
                    f"{folder}: holds masks by its name, but masks are read from masks/ beside images/; arrange them "
                    "so (pixel = object id), or move the folder away to use the images without masks"
                )
        folders = list(named.values()) or [""]
        self._masked = [folder for folder in folders if images != base and (self._masks / folder).is_dir()]
        if self._masked:
            _check_names(self.paths)
        split = opening.get("split", "train")
        has_masks = named[split] in self._masked if split in named else self._masked == folders
        super().__init__(root, {name: len(paths) for name, paths in files.items()}, has_masks, **opening)
        if self.has_masks and not self.skip_broken:
            for row in self.rows:
                self._mask_path(row)

    def read(self, row: int) -> Decoded:
        """Decodes the image and its mask."""
        path = self.paths[row]
        decoded = decode_image(path, str(path))
        if not any(self._images / name in path.parents for name in self._masked):
            return decoded
        mask = self._mask_path(row)
        return with_mask(decoded, decode_mask(mask, str(mask)), str(path), str(mask))

    def name(self, row: int) -> str:
        """The image's path."""
        return str(self.paths[row])

    def _mask_path(self, row: int) -> Path:
        image = self.paths[row]
        stem = self._masks / image.relative_to(self._images).with_suffix("")
        own = [image.suffix] if image.suffix.lower() in MASK_SUFFIXES else []
        for suffix in (*own, *MASK_SUFFIXES, *map(str.upper, MASK_SUFFIXES), *LOSSY_SUFFIXES):
            path = stem.with_name(stem.name + suffix)
            if path.is_file() and suffix in LOSSY_SUFFIXES:
                raise DataError(f"{path}: {LOSSY}")
            if path.is_file():
                return path
        raise DataError(f"{image}: its mask {stem.with_name(stem.name + '.png')} is missing; {RESTORE}")


def split_folders(images: Path) -> dict[str, str]:
    """The folder of each split that has one."""
    found: dict[str, str] = {}
    for split, names in SPLIT_NAMES.items():
        folders = [name for name in names if (images / name).is_dir()]
        if len(folders) > 1:
            raise DataError(f"{images}: {' and '.join(folders)} both name the split {split!r}; join them")
        if folders:
            found[split] = folders[0]
    return found


def _check_names(paths: list[Path]) -> None:
    """DataError if two images would share a mask because only their suffixes differ."""
    known: dict[Path, Path] = {}
    for path in paths:
        other = known.setdefault(path.with_suffix(""), path)
        if other is not path:
            raise DataError(f"{path}: shares its mask with {other.name}; remove or rename one of the two")
