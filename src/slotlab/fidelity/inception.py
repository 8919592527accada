"""The Inception network of 2015-12-05 that FID is defined by: found, or downloaded once, and always checked."""

import http.client
import os
import urllib.request
from pathlib import Path

from slotlab.atomic import replacing
from slotlab.checksum import sha256_of
from slotlab.errors import CheckpointError

FILE_NAME = "inception-2015-12-05.pt"
URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{FILE_NAME}"
SHA256 = (
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"  # as pinned by k-diffusion; 95,607,719 bytes
)
VARIABLE = "SLOTLAB_INCEPTION"


def cached_file() -> Path:
    """Where the network is kept: slotlab's folder in $XDG_CACHE_HOME, or in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "slotlab" / FILE_NAME


def is_published(digest: str) -> bool:
    """Whether a SHA-256 is that of the published network."""
    return digest == SHA256


def find_inception(path: str | Path | None = None, download: bool = True) -> Path:
    """The file of the network: `path`, or that of $SLOTLAB_INCEPTION, or the cached one, or a download.

    Args:
        path: where the file is, if it is known.
        download: whether it may be fetched (95.6 MB, once) when it is nowhere.

    Returns:
        A file whose SHA-256 is that of the published network.

    Raises:
        CheckpointError: if a file is missing or another than the published one, or cannot be downloaded.
    """
    given = path or os.environ.get(VARIABLE)
    if given:
        origin = "the given file" if path else f"${VARIABLE}"
        if not Path(given).is_file():
            raise CheckpointError(f"{given}: no such file ({origin})")
        return _checked(Path(given), f"To use another network, name it as features: features={str(given)!r}")
    cached = cached_file()
    if cached.is_file():
        return _checked(cached, "Delete it, so that it is downloaded again")
    if not download:
        raise CheckpointError(f"no Inception network at hand. {_remedy()}")
    return _download(cached)


def _checked(path: Path, remedy: str) -> Path:
    found = sha256_of(path)
    if not is_published(found):
        raise CheckpointError(
            f"{path} is not the Inception network that FID is defined by: its SHA-256 is {found}, not {SHA256}. "
            f"{remedy}"
        )
    return path


def _download(target: Path) -> Path:
    try:
        with replacing(target) as temporary:
            request = urllib.request.Request(URL, headers={"User-Agent": "slotlab"})
            with urllib.request.urlopen(request, timeout=30) as response, temporary.open("wb") as file:
                while piece := response.read(1 << 20):
                    file.write(piece)
            _checked(temporary, "The download was cut short or changed; try again")
    except (OSError, http.client.HTTPException) as error:
        raise CheckpointError(f"the Inception network could not be downloaded ({error}). {_remedy()}") from error
    return target


def _remedy() -> str:
    return (
        f"Fetch {URL} on a machine that can, and put it at {cached_file()}, or set {VARIABLE} to its path, or pass "
        "its path. Without it, features='efficientnet-lite0' gives FD-efficientnet-lite0, which is not FID"
    )
