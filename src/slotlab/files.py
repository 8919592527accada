"""Files: write then rename, JSON, checksums, and folders whose work can be resumed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotlab.errors import CheckpointError, ConfigError, DataError, SlotlabError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; the file or folder written there replaces `path`.

    If the block raises, the temporary is removed and `path` is unchanged. Parent folders are made.
    A symbolic link is kept: its target is replaced.

    Raises:
        DataError: `path` is a mount point, which cannot be renamed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "notes.txt") as temporary:
        ...         _ = temporary.write_text("written whole or not at all")
        ...     print([path.name for path in Path(folder).iterdir()])
        ['notes.txt']
    """
    path = Path(path).resolve()
    if path.is_mount():
        raise DataError(f"{path}: is a mount point and cannot be replaced; name a folder inside it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    remove(temporary)  # left by a killed process with the same number
    try:
        yield temporary
        if path.is_dir() and temporary.is_dir():
            retired = temporary.with_suffix(".old")
            remove(retired)
            path.rename(retired)
            temporary.rename(path)
            remove(retired)
        else:
            temporary.replace(path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Removes a file or a whole folder, if it exists."""
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
        remedy: what the user can do if the file is missing or damaged; ends the error message.
        error: class of the error that is raised then.
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


def write_json(path: str | Path, content: Mapping[str, Any], indent: int | None = 2) -> None:
    """Writes a JSON object to a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two settings, one sentence per key; nested keys are dotted.

    Example:
        >>> differences({"count": 3, "model": {"slots": 7}}, {"count": 4, "model": {"slots": 7}})
        ['count was 3, now 4']
    """
    said = []
    for key in sorted({*found, *wanted}):
        before, now = found.get(key), wanted.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            said += differences(before, now, f"{prefix}{key}.")
        elif before != now:
            said.append(f"{prefix}{key} was {before!r}, now {now!r}")
    return said


@dataclass(frozen=True)
class Workspace:
    """A folder that knows the settings of the work in it: re-running the same command resumes it.

    Call `check` in every process, before anything slow; then `begin` in the first process only.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     work = Workspace(Path(folder) / "out", "work.json", {"seed": 0}, "an example")
        ...     print(work.check())
        ...     work.begin()
        ...     print(work.check())
        False
        True
    """

    folder: Path
    file: str  # name of the JSON file with the settings
    settings: Mapping[str, Any]  # what the work depends on, as JSON values
    holds: str  # what the folder is for, in error messages: "a composition"

    def check(self) -> bool:
        """Whether the same work was begun here; False if the folder is new or empty.

        Raises:
            ConfigError: the folder holds something else, or the same work with other settings.
        """
        path = self.folder / self.file
        if not path.is_file():
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise ConfigError(f"{self.folder}: not empty and does not hold {self.holds}; name a new folder")
            return False
        found = read_json(path, "name a new folder", ConfigError)
        differing = differences(found, json.loads(json.dumps(self.settings)))
        if differing:
            other = f"holds {self.holds} with other settings ({'; '.join(differing)})"
            raise ConfigError(f"{self.folder}: {other}; name a new folder, or use those settings to resume it")
        return True

    def begin(self) -> None:
        """Makes the folder, removes leftovers of a killed process, writes the settings."""
        for path in [*self.folder.rglob(".*.[0-9]*.tmp")]:
            remove(path)
        write_json(self.folder / self.file, self.settings)
