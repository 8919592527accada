"""Finding image files in folders, and those that are masks by their names."""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from slotlab.errors import DataError

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
