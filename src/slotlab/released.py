"""Released models: folders that no longer change, found by name in the package or on the Hugging Face Hub.

A released folder is a model's folder (`config.json`, `model.safetensors`) with its scores, card, pictures and concept
library, and `manifest.json`, which holds the SHA-256 of every file. `slotlab.publish` makes one.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from slotlab.config import preset_names
from slotlab.errors import CheckpointError, nearest
from slotlab.files import sha256_of

WEIGHTS = Path(__file__).parent / "weights"
MANIFEST_FILE, CARD_FILE, LIBRARY_FOLDER = "manifest.json", "card.md", "concepts"
HUB_PREFIX = "hf:"
HUB_FILES = ["*.json", "*.safetensors", "*.md", "*.png"]
FORMAT, VERSION = "slotlab-release", 1


def released_names() -> list[str]:
    """Names of the trained models that come with the package, sorted."""
    return sorted(path.parent.name for path in WEIGHTS.glob(f"*/{MANIFEST_FILE}"))


def model_folder(name: str | Path) -> Path:
    """The folder of a model.

    Args:
        name: a folder; else a name from `released_names()`; else `owner/name`, or `hf:owner/name` where a folder is
            called so too, of a model on the hub, at choice with `@revision`: a branch, tag or commit. It is downloaded
            once, and found in the cache of `huggingface_hub` from then on, also without a network.

    Raises:
        CheckpointError: nothing of that name (the nearest is suggested), or the hub cannot be reached.
    """
    text, path = str(name), Path(name)
    bundled = text in released_names()
    if path.is_dir() and (not bundled or (path / "config.json").is_file()):
        return path
    if bundled:
        return WEIGHTS / text
    on_hub = re.fullmatch(rf"({HUB_PREFIX})?([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)(?:@(\S+))?", text)
    if on_hub is not None:
        forced, owner, repository, revision = on_hub.groups()
        if forced or not Path(owner).is_dir():
            return _downloaded(text, f"{owner}/{repository}", revision)
    if text in preset_names():
        hint = f": it is a preset without trained weights; train it with: slotlab train {text} --out RUN"
    elif len(path.parts) > 1:
        hint = "; give the folder that `slotlab train ... --out FOLDER` wrote"
    else:
        hint = f", and no trained model of that name{nearest(text, released_names())}"
    raise CheckpointError(f"{text}: no such model folder{hint}")


def library_folder(name: str | Path) -> Path:
    """The folder of a concept library: itself, or the one that came with the model of that name.

    Returns:
        The folder; one that turns out to hold no library is left to `ConceptLibrary.load` to complain of.

    Raises:
        CheckpointError: nothing of that name, or its files are not those that were released.
    """
    path = Path(name)
    if (path / "library.json").is_file():
        return path
    try:
        folder = model_folder(name)
    except CheckpointError as error:
        made = f"slotlab concepts fit RUN --data DATA --out {shlex.quote(str(name))}"
        raise CheckpointError(f"{error}; a concept library is made with: {made}") from None
    if not (folder / LIBRARY_FOLDER).is_dir():
        return folder
    check(folder, *(f"{LIBRARY_FOLDER}/{file}" for file in ("library.json", "slots.safetensors")))
    return folder / LIBRARY_FOLDER


def is_released(folder: Path) -> bool:
    """Whether a folder is to stay as it is: nothing writes into it."""
    return (folder / MANIFEST_FILE).is_file()


def write_manifest(folder: Path) -> None:
    """Writes the SHA-256 of every file in `folder`, which makes it a released one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    hashes = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    content = {"format": FORMAT, "version": VERSION, "sha256": hashes}
    (folder / MANIFEST_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check(folder: Path, *files: str) -> None:
    """Raises CheckpointError, naming file and remedy, if one of a released folder is not the one that was released.

    Args:
        folder: any; one without a manifest is not checked.
        files: which, relative to it; none means all.
    """
    if not is_released(folder):
        return
    known = _manifest(folder)
    for name in files or known:
        path = folder / name
        found = sha256_of(path) if path.is_file() else None
        if found is None or found != known.get(name):
            said = "missing" if found is None else f"changed or damaged: its SHA-256 begins with {found[:12]}"
            wanted = known.get(name, "nothing")
            raise CheckpointError(f"{path}: {said}, {MANIFEST_FILE} has {wanted[:12]}; {_remedy(folder)}")


def machines_of(training: dict[str, Any]) -> str:
    """The machines that a released model was trained on (`training` of `released_facts`), the first runs' first."""
    return " and ".join(dict.fromkeys(run["machine"] for run in training["runs"] if "machine" in run))


def released_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """What a released folder says of itself: `config`, `metrics` and `training`, each as JSON values.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    facts = {}
    for name in ("config", "metrics", "training"):
        check(folder, f"{name}.json")
        facts[name] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return facts


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _manifest(folder: Path) -> dict[str, str]:
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind, version, known = content["format"], content["version"], content["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not readable as a manifest ({error}); {_remedy(folder)}") from None
    if (kind, version) != (FORMAT, VERSION):
        raise CheckpointError(f"{path}: {kind} version {version}; this slotlab reads {FORMAT} version {VERSION}")
    return known


def _remedy(folder: Path) -> str:
    if folder.resolve().parent == WEIGHTS:
        return "install slotlab anew, with: pip install --force-reinstall --no-deps ."
    if folder.parent.name == "snapshots":
        return f"remove {folder.parent.parent} to download it anew"
    return f"publish it anew, or remove {MANIFEST_FILE} if you changed the folder on purpose"


def _downloaded(shown: str, repository: str, revision: str | None) -> Path:
    """The snapshot of a repository in the cache, downloaded if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=HUB_FILES))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        raise CheckpointError(
            f"{shown}: no such model folder here, and no such model or revision on the hub that may be read; for one "
            "that is private, log in with: hf auth login"
        ) from None
    except Exception as error:  # offline, proxy, time-out, full disk: errors of several libraries
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{shown}: no such model folder here, and the hub gave nothing ({reason}); look at the name and the "
            "network, or copy the model's folder here and give its path"
        ) from None
    if not is_released(folder):
        raise CheckpointError(f"{shown}: its repository has no {MANIFEST_FILE}: slotlab publish did not write it")
    return folder
