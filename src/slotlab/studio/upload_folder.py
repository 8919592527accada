"""The folder of what browsers upload: removed when the studio ends, or by the next studio if it was killed."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "slotlab-studio-"
IN_USE = "in-use"  # a file in the folder, locked while its studio runs
YOUNG = 60.0  # seconds in which a new folder may not be locked yet


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A temporary folder for the time of the block; folders that killed studios of this user left are removed."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, FileLock(Path(name) / IN_USE):
        _remove_left(Path(name).stat().st_uid)
        uploads = Path(name) / "uploads"
        uploads.mkdir()
        yield uploads


def _remove_left(user: int) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            known = folder.lstat()
            if known.st_uid == user and time.time() - known.st_mtime > YOUNG and not folder.is_symlink():
                with FileLock(folder / IN_USE, blocking=False):
                    pass
                shutil.rmtree(folder)
