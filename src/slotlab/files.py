"""Files: write then rename, JSON, checksums, and folders whose work can be resumed."""

import errno
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotlab.errors import CheckpointError, ConfigError, DataError, SlotlabError

# Temporary names end in process number, machine and a mark of the process: machines may share a
# volume, and numbers return. Old versions wrote the number alone.
MACHINE, MARK = f"{zlib.crc32(platform.node().encode()):08x}", secrets.token_hex(3)
LEFT = re.compile(r"\.(.+)\.(\d+)(?:-(\w+)-(\w+))?\.(tmp|old)")


class DiskFull(SlotlabError):
    """There is no space left for a file or folder; the message names it and how much it needs."""


@contextmanager
def replacing(path: str | Path, *, synced: bool = False, size: int = 0) -> Iterator[Path]:
    """Yields a temporary name beside `path`; the file or folder written there replaces `path`.

    If the block raises, the temporary is removed and `path` is unchanged. Parent folders are made.
    A symbolic link is kept: its target is replaced. What killed processes left of `path` is
    removed.

    Args:
        path: a file or folder.
        synced: wait until all is on the disk, so that a power cut leaves the old or the new.
        size: bytes that will be written, if known: for the message when the disk is full.

    Raises:
        DataError: `path` is a mount point, which cannot be renamed.
        DiskFull: there is no space left.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "notes.txt") as temporary:
        ...         _ = temporary.write_text("written whole or not at all")
        ...     print([path.name for path in Path(folder).iterdir()])
        ['notes.txt']
    """
    path = Path(os.path.realpath(path))  # no error for a link to itself, which is replaced
    if path.is_mount():
        raise DataError(f"{path}: is a mount point and cannot be replaced; name a folder inside it")
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(_left_in(path.parent), path.name)
    temporary = _hidden(path, "tmp")
    try:
        yield temporary
        if synced:
            for file in [*temporary.rglob("*"), temporary]:
                _sync(file)
        if path.is_dir() and temporary.is_dir():
            retired = path.rename(_hidden(path, "old"))
            temporary.rename(path)
            remove(retired)
        else:
            temporary.replace(path)
        if synced:
            _sync(path.parent)
    except Exception as error:
        if not _means_full(error):
            raise
        written = sum(file.stat().st_size for file in [*temporary.rglob("*"), temporary] if file.is_file())
        remove(temporary)
        needs = f"{size / 1e6:,.2f} MB" if size else f"more than {written / 1e6:,.2f} MB"
        free = shutil.disk_usage(path.parent).free / 1e6
        raise DiskFull(
            f"{path}: the disk is full: it needs {needs}, {free:,.2f} MB are free; free some space, then run the "
            "command again (training: with --resume)"
        ) from error
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Removes a file or a whole folder, if it exists; a kill leaves no half under its name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path if path.name.startswith(".") else path.rename(_hidden(path, "tmp")))
    else:
        path.unlink(missing_ok=True)


def clear_leftovers(folder: Path) -> None:
    """Removes what `replacing` left in a folder: of other machines all, of this one what killed processes left."""
    _clear(folder.rglob(".*"))


@functools.lru_cache(64)
def _left_in(folder: Path) -> list[Path]:
    """What processes left in a folder, listed once: each file of a large folder is written fast."""
    return [path for path in folder.glob(".*") if LEFT.fullmatch(path.name)]


def _clear(paths: Iterable[Path], name: str | None = None) -> None:
    """Removes leftovers, but brings back a folder whose successor did not get its name.

    With a `name`, only those of that file or folder, by processes that are surely gone.
    """
    for path in sorted(paths):
        found = LEFT.fullmatch(path.name)
        if found is None or name not in (None, found[1]):
            continue
        # Where it cannot be known whether a process lives, all but our own.
        elsewhere = name is None and (found[3] != MACHINE or (os.name != "posix" and found[4] != MARK))
        if not (elsewhere or _is_dead(*found.group(2, 3, 4))):
            continue
        visible = path.with_name(found[1])
        if found[5] == "old" and path.exists() and not visible.exists():
            path.rename(visible)
        else:
            remove(path)


def is_free(folder: Path, *known: str) -> bool:
    """Whether a folder is new, or holds only files named `known` and what killed processes left."""
    if not folder.is_dir():
        return not folder.exists()
    named = [(path.name in known, LEFT.fullmatch(path.name)) for path in folder.iterdir()]
    return all(is_known or (left and _is_dead(*left.group(2, 3, 4))) for is_known, left in named)


def _hidden(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{MACHINE}-{MARK}.{ending}")


def _is_dead(number: str, machine: str | None, mark: str | None) -> bool:
    """Whether the process that left a file is surely gone."""
    if machine not in (None, MACHINE) or os.name != "posix":
        return False
    if int(number) == os.getpid():
        return mark != MARK
    try:
        os.kill(int(number), 0)
    except (OSError, OverflowError) as error:
        return not isinstance(error, PermissionError)
    return False


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot
            raise
    finally:
        os.close(descriptor)


def _means_full(error: BaseException | None) -> bool:
    """Whether the disk is full, by the error or by one that a library hides behind its own."""
    while error is not None:
        if isinstance(error, DiskFull) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__context__
    return False


def regular(path: Path) -> Path:
    """`path`; OSError if it is a named pipe or device, whose reading might never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | Path, remedy: str, error: type[SlotlabError] = CheckpointError) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        remedy: what the user can do if the file is missing or damaged; ends the error message.
        error: class of the error that is raised then.
    """
    try:
        content = json.loads(regular(Path(path)).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: missing; {remedy}") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{path}: not readable as JSON ({problem}); {remedy}") from None
    if not isinstance(content, dict):
        raise error(f"{path}: not a JSON object; {remedy}")
    return content


def write_json(path: str | Path, content: Mapping[str, Any], indent: int | None = 2, synced: bool = False) -> None:
    """Writes a JSON object to a file, whole or not at all; `synced` as for `replacing`."""
    with replacing(path, synced=synced) as temporary:
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
            if not is_free(self.folder):
                raise ConfigError(f"{self.folder}: not empty and does not hold {self.holds}; name a new folder")
            return False
        found = read_json(path, "name a new folder", ConfigError)
        differing = differences(found, json.loads(json.dumps(self.settings)))
        if any(line.startswith("model.fingerprint ") for line in differing):
            differing = ["another model", *(line for line in differing if not line.startswith("model."))]
        if differing:
            other = f"holds {self.holds} with other settings ({'; '.join(differing)})"
            raise ConfigError(f"{self.folder}: {other}; name a new folder, or use those settings to resume it")
        return True

    def begin(self) -> None:
        """Makes the folder, removes leftovers of a killed process, writes the settings."""
        clear_leftovers(self.folder)
        write_json(self.folder / self.file, self.settings)
