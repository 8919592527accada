"""Released models: unchanging folders, bundled with the package or on the Hugging Face Hub.

A released folder is a model folder (`config.json`, `model.safetensors`) with scores, card, images,
a concept library, and `manifest.json` with the SHA-256 of every file. `slotlab.publish` makes one.
"""

import re
import shlex
from pathlib import Path
from typing import Any

from slotlab.config import preset_names
from slotlab.errors import CheckpointError, nearest
from slotlab.files import read_json, sha256_of, write_json

WEIGHTS = Path(__file__).parent / "weights"
MANIFEST_FILE, CARD_FILE, LIBRARY_FOLDER = "manifest.json", "card.md", "concepts"
HUB_PREFIX = "hf:"
PHOTOS = "photos"  # the bundled model that finds objects in photographs and cannot paint
HUB_FILES = ["*.json", "*.safetensors", "*.md", "*.png"]
FORMAT, VERSION = "slotlab-release", 1


def released_names() -> list[str]:
    """Names of the bundled trained models, sorted."""
    return sorted(path.parent.name for path in WEIGHTS.glob(f"*/{MANIFEST_FILE}"))


def model_folder(name: str | Path) -> Path:
    """The folder of a model; one on the hub is downloaded once, then found without a network.

    Args:
        name: a folder; else a name from `released_names()`; else `owner/name` of a model on the hub
            (`hf:owner/name` if a folder has that name); `@revision` names a branch, tag or commit.

    Raises:
        CheckpointError: an unknown name (the nearest is suggested), or the hub cannot be reached.
    """
    text, path = str(name), Path(name)
    bundled = text in released_names()
    if path.is_dir() and (not bundled or (path / "config.json").is_file()):
        return path
    if bundled:
        return WEIGHTS / text
    on_hub = re.fullmatch(rf"({HUB_PREFIX})?([A-Za-z0-9][\w.-]*)(/[A-Za-z0-9][\w.-]*)(?:@(\S+))?", text)
    if on_hub is not None and (on_hub[1] or not Path(on_hub[2]).is_dir()):
        return _downloaded(text, on_hub[2] + on_hub[3], on_hub[4])
    if text in preset_names():
        hint = f": it is a preset without trained weights; train it with: slotlab train {text} --out RUN"
    elif len(path.parts) > 1:
        hint = "; give the folder that `slotlab train ... --out FOLDER` wrote"
    else:
        hint = f", and no trained model of that name{nearest(text, released_names())}"
    raise CheckpointError(f"{text}: no such model folder{hint}")


def library_folder(name: str | Path) -> Path:
    """The folder of a concept library: `name` itself, or the library of a released model.

    A run without a library gives its own folder, which `ConceptLibrary.load` refuses.

    Raises:
        CheckpointError: an unknown name, or a release without a library.
    """
    if (Path(name) / "library.json").is_file():
        return Path(name)
    try:
        folder = model_folder(name)
    except CheckpointError as error:
        made = f"slotlab concepts fit RUN --data DATA --out {shlex.quote(str(name))}"
        raise CheckpointError(f"{error}; a concept library is made with: {made}") from None
    if not (folder / LIBRARY_FOLDER).is_dir():
        if is_released(folder):
            make = f"slotlab concepts fit {shlex.quote(str(name))} --data DATA --out LIBRARY"
            raise CheckpointError(
                f"{name}: comes without a concept library; make one with: {make}, and name its folder"
            )
        return folder
    check(folder, *(f"{LIBRARY_FOLDER}/{file}" for file in ("library.json", "slots.safetensors")))
    return folder / LIBRARY_FOLDER


def is_released(folder: Path) -> bool:
    """Whether a folder is a release, which nothing may write into."""
    return (folder / MANIFEST_FILE).is_file()


def write_manifest(folder: Path) -> None:
    """Makes `folder` a release: writes the SHA-256 of every file in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    hashes = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    write_json(folder / MANIFEST_FILE, {"format": FORMAT, "version": VERSION, "sha256": hashes})


def check(folder: Path, *files: str) -> None:
    """CheckpointError if one of `files` (all by default) of a release is missing or changed."""
    if not is_released(folder):
        return
    path, remedy = folder / MANIFEST_FILE, _remedy(folder)
    content = read_json(path, remedy)
    if content.get("format") != FORMAT or not isinstance(content.get("sha256"), dict):
        raise CheckpointError(f"{path}: not the manifest of a released model; {remedy}")
    if content.get("version") != VERSION:
        version = content.get("version")
        raise CheckpointError(f"{path}: {FORMAT} version {version}; this slotlab reads version {VERSION}")
    known = content["sha256"]
    for path in (folder / name for name in files or known):
        found = sha256_of(path) if path.is_file() else None
        wanted = known.get(path.relative_to(folder).as_posix(), "nothing")
        if found != wanted:
            said = "missing" if found is None else f"changed or damaged: its SHA-256 begins with {found[:12]}"
            raise CheckpointError(f"{path}: {said}, {MANIFEST_FILE} has {str(wanted)[:12]}; {remedy}")


def machines_of(training: dict[str, Any]) -> str:
    """The machines that a released model was trained on, in order, by its `training.json`."""
    return " and ".join(dict.fromkeys(run["machine"] for run in training["runs"] if "machine" in run))


def released_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """`config`, `metrics` and `training` of a release; CheckpointError if one is damaged."""
    names = ("config", "metrics", "training")
    check(folder, *(f"{name}.json" for name in names))
    return {name: read_json(folder / f"{name}.json", _remedy(folder)) for name in names}


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remedy(folder: Path) -> str:
    if folder.resolve().parent == WEIGHTS:
        return "reinstall slotlab: pip install --force-reinstall --no-deps ."
    if folder.parent.name == "snapshots":
        return f"remove {folder.parent.parent} to download it again"
    return f"publish it again, or remove {MANIFEST_FILE} if you changed the folder on purpose"


def _downloaded(shown: str, repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=HUB_FILES))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        missing = "no such model folder here, and no such public model or revision on the hub"
        raise CheckpointError(f"{shown}: {missing}; log in for a private one: hf auth login") from None
    except Exception as error:  # offline, proxy, time-out, full disk: errors of several libraries
        reason = str(error).strip().partition("\n")[0]
        remedy = "check the name and the network, or copy the model's folder here and give its path"
        raise CheckpointError(
            f"{shown}: no such model folder here, and the hub gave nothing ({reason}); {remedy}"
        ) from None
    if not is_released(folder):
        raise CheckpointError(f"{shown}: its repository has no {MANIFEST_FILE}: slotlab publish did not write it")
    return folder
