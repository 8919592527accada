"""Going through folders of files."""

import os
from collections.abc import Iterator
from pathlib import Path

from slotlab.errors import DataError


def folders_below(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """`root` and each folder below it, hidden ones left out, with the sorted names of its files.

    Links to folders are followed, for large data sets lie on several disks; a folder is entered once, so that a link
    to one above it does no harm.

    Raises:
        DataError: a folder that may not be read.
    """
    entered: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse):
        status = Path(folder).stat()
        place = (status.st_dev, status.st_ino)
        if place in entered:
            subfolders.clear()
            continue
        entered.add(place)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield Path(folder), sorted(names)


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}); see who may read it") from error
