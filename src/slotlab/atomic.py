"""Writing files and folders so that a reader sees either the old content or the whole of the new, never a part."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slotlab.errors import DataError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; what was written there takes `path`'s place when the block ends.

    Works for a file or a folder: the block creates whichever it wants at the yielded name. If the block raises,
    the temporary is removed and `path` stays as it was. Parent folders are made.

    A link stays a link: what it leads to is replaced.

    Raises:
        DataError: `path` is where a disk is mounted, which cannot be renamed.
        FileNotFoundError: if the block created nothing.
    """
    path = Path(path).resolve()
    if path.is_mount():
        raise DataError(f"{path}: a place where a disk is mounted cannot be replaced; name a folder inside it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    remove(temporary)
    try:
        yield temporary
        if path.is_dir() and temporary.is_dir():
            retired = path.with_name(f".{path.name}.{os.getpid()}.old")
            remove(retired)  # of a process of the same number that was killed
            path.rename(retired)
            temporary.rename(path)
            remove(retired)
        else:
            temporary.replace(path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Removes a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
