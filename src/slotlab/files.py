"""The checksum by which files are known again."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotlab.errors import CheckpointError, ConfigError, DataError, SlotlabError


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


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | Path, remedy: str, error: type[SlotlabError] = CheckpointError) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        remedy: what the user can do if it is missing or damaged; ends the error message.
        error: the class of error to raise.

    Raises:
        SlotlabError: of class `error`, if the file is missing, cannot be read, or holds no JSON object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: missing; {remedy}") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{path}: not readable as JSON ({problem}); {remedy}") from None
    if not isinstance(content, dict):
        raise error(f"{path}: not a JSON object; {remedy}")
    return content


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON to a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Workspace:
    """A folder that knows the settings of the work in it, so that re-running the same command resumes it.

    Attributes:
        folder: where the work is written.
        file: name of the JSON file in it that holds the settings.
        settings: what the work depends on, as JSON values.
        holds: what the folder is for, in error messages, e.g. "a composition".
    """

    folder: Path
    file: str
    settings: dict[str, Any]
    holds: str

    def check(self) -> bool:
        """Whether the same work was begun here before; False if the folder is new or empty. Writes nothing.

        Raises:
            ConfigError: the folder holds something else, or the same work with other settings.
        """
        path = self.folder / self.file
        if not path.is_file():
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise ConfigError(f"{self.folder}: is not empty and does not hold {self.holds}; name a new folder")
            return False
        found = read_json(path, "name a new folder", ConfigError)
        wanted = json.loads(json.dumps(self.settings))
        differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if differing:
            said = [_difference(key, found.get(key), wanted.get(key)) for key in differing]
            raise ConfigError(
                f"{self.folder}: holds {self.holds} with other settings ({'; '.join(said)}); "
                f"name a new folder, or use those settings to resume it"
            )
        return True

    def begin(self) -> None:
        """Makes the folder, removes what a killed process left half-written in it, and writes the settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.rglob(".*.tmp"):
            remove(left)
        write_json(self.folder / self.file, self.settings)


def _difference(key: str, found: Any, wanted: Any) -> str:
    if isinstance(found, dict) or isinstance(wanted, dict):
        return key
    return f"{key} is {found!r} there and {wanted!r} here"
