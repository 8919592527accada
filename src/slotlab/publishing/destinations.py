"""Publishing a model: into a folder, or onto the Hugging Face Hub."""

import shutil
import tempfile
from pathlib import Path

import torch

from slotlab.atomic import replacing
from slotlab.composition.scoring import OnProgress
from slotlab.errors import CheckpointError
from slotlab.publishing.card import write_card
from slotlab.publishing.folder import check_place, prepare
from slotlab.released import CARD_FILE, HUB_PREFIX, check, is_released, model_folder, write_manifest


def publish(
    run: str | Path,
    to: str | Path,
    *,
    data: str | None = None,
    private: bool = False,
    device: str | torch.device = "cpu",
    on_progress: OnProgress | None = None,
) -> str:
    """Publishes a run, or a released model again under another name.

    Args:
        run: a run folder, see `prepare`; or the folder or name of a released model, which goes out as it is but for the
            name on its card.
        to: a new or empty folder, or that of an earlier release, whose last part becomes the name; or
            `hf:owner/name`, which needs a login (`hf auth login`, or `HF_TOKEN`).
        data: where the run's data is now, if not where it was.
        private: make a new repository on the hub private.
        device: where the model runs.
        on_progress: as for `prepare`.

    Returns:
        What `slotlab.load` takes: the folder, or `owner/name`.

    Raises:
        CheckpointError: as `prepare`; a released file that was changed; or the hub refuses, or cannot be reached.
        ConfigError, DataError: as `prepare`.
    """
    folder = model_folder(run)
    if not str(to).startswith(HUB_PREFIX):
        out = Path(to)
        _release(folder, out, out.resolve().name, data, device, on_progress)
        return str(out)
    repository = str(to).removeprefix(HUB_PREFIX)
    _make_repository(repository, private)  # first, as it shows whether one is logged in and may write there
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "release"
        _release(folder, out, repository, data, device, on_progress)
        shutil.copy(out / CARD_FILE, out / "README.md")  # which the hub shows
        _upload(repository, out)
    return repository


def _release(
    folder: Path, out: Path, name: str, data: str | None, device: str | torch.device, on_progress: OnProgress | None
) -> None:
    if not is_released(folder):
        prepare(folder, out, name=name, data=data, device=device, on_progress=on_progress)
        return
    check(folder)
    check_place(out)
    with replacing(out) as copy:
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("README.md"))  # the hub's copy of the old card
        write_card(copy, name)
        write_manifest(copy)


def _make_repository(repository: str, private: bool) -> None:
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(repository, private=private, exist_ok=True)
    except Exception as error:  # offline, no login, no right to write, no such owner: errors of several libraries
        raise _refused(repository, error) from None


def _upload(repository: str, folder: Path) -> None:
    from huggingface_hub import HfApi

    try:
        HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message="slotlab publish")
    except Exception as error:
        raise _refused(repository, error) from None


def _refused(repository: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().partition("\n")[0]
    return CheckpointError(
        f"{HUB_PREFIX}{repository}: not published ({reason}); log in with: hf auth login, as someone who may write "
        "there, or publish to a folder"
    )
