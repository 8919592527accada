"""Data to start with: sample photographs that ship with the package, and published data sets."""

import filecmp
import hashlib
import shutil
import tarfile
import urllib.request
import zipfile
from collections.abc import Generator
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError

from slotlab.errors import ConfigError, DataError, nearest
from slotlab.files import read_json, remove, replacing, write_json
from slotlab.progress import Stage, in_steps, stage

SAMPLES = Path(__file__).parents[1] / "samples"


def copy_samples(out: str | Path) -> list[Path]:
    """Copies five sample photographs (COCO, CC BY 2.0) and their credits into a folder.

    Returns:
        The photographs' paths in `out`, sorted.

    Raises:
        ConfigError: `out` has another file of the same name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in copy_samples(folder)]
        ['bus.jpg', 'cyclist.jpg', 'flowers.jpg', 'fruit.jpg', 'giraffes.jpg']
    """
    files = sorted(path for path in SAMPLES.iterdir() if path.suffix in (".jpg", ".md"))
    out = Path(out)
    for file in files:
        target = out / file.name
        if target.exists() and not (target.is_file() and filecmp.cmp(file, target, shallow=False)):
            raise ConfigError(f"{target}: exists and is another file; name a new folder")
    for file in files:
        with replacing(out / file.name) as temporary:
            shutil.copyfile(file, temporary)
    return [out / file.name for file in files if file.suffix == ".jpg"]


class Archive(NamedTuple):
    """A file to download: its address, size in bytes and MD5, if they are published.

    `members` names the files to unpack; without, all are. An address with `{part}` in it stands for
    the parts 1 to `parts` of one archive.
    """

    url: str
    size: int | None = None
    md5: str = ""
    members: tuple[str, ...] = ()
    parts: int = 1


class Published(NamedTuple):
    """A data set that `download` gets."""

    content: str
    site: str
    licence: str
    archives: tuple[Archive, ...]
    bytes: float  # of all archives, about


PUBLISHED = {
    "coco": Published(
        "COCO 2017, the 5,000 validation photographs and their instances",
        "https://cocodataset.org",
        "annotations CC BY 4.0; each photograph has its own licence, which the annotations name",
        (
            Archive("http://images.cocodataset.org/zips/val2017.zip", 815585330, "442b8da7639aecaf257c1dceb8ba8c80"),
            Archive(
                "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
                252907541,
                "f4bbac642086de4f52a3fdda2de5fa2c",
                ("annotations/instances_val2017.json",),
            ),
        ),
        1.07e9,
    ),
    "voc2012": Published(
        "PASCAL VOC 2012, training and validation",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        "photographs from Flickr, under its terms of use",
        (
            Archive(
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                1999639040,
                "6cd6e144f989b92b3379bac3b3de84fd",
            ),
        ),
        2.0e9,
    ),
    "clevrtex": Published(
        "CLEVRTex, 50,000 scenes (full)",
        "https://www.robots.ox.ac.uk/~vgg/research/clevrtex",
        "see its site",
        (Archive("https://thor.robots.ox.ac.uk/datasets/clevrtex/clevrtex_full_part{part}.tar.gz", parts=5),),
        24e9,
    ),
    "bsds500": Published(
        "BSDS500, 500 photographs with the regions of several annotators",
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/resources.html",
        "free for research and education that are not commercial",
        (Archive("http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz", 70763455),),
        7.1e7,
    ),
}
RESUME = "re-run the same command to resume"
SOURCE_FILE = "source.json"


def published(name: str) -> Published:
    """What is known of a published data set; ConfigError for an unknown name."""
    if name not in PUBLISHED:
        raise ConfigError(f"no data set {name!r} to get{nearest(name, PUBLISHED)}")
    return PUBLISHED[name]


@in_steps
def download(name: str, out: str | Path) -> Generator[Stage, None, Path]:
    """Downloads and unpacks a published data set; re-run the same call to resume.

    `download.steps` counts bytes.

    Args:
        name: a key of `PUBLISHED`: coco, voc2012, clevrtex or bsds500.
        out: a folder. It gets the unpacked data and `source.json`, which says where they are from.

    Returns:
        The folder, which `slotlab.open_data` opens.

    Raises:
        ConfigError: an unknown name.
        DataError: a file cannot be downloaded or unpacked, has another checksum than published, or
            needs more space than there is.
    """
    data, out = published(name), Path(out)
    source = {"name": name, "site": data.site, "licence": data.licence, "addresses": [a.url for a in data.archives]}
    if (out / SOURCE_FILE).is_file():
        if read_json(out / SOURCE_FILE, "name a new folder", DataError).get("name") == name:
            return out
        raise ConfigError(f"{out}: holds another data set; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    there = sum(file.stat().st_size for file in out.glob("*.download*"))
    free = shutil.disk_usage(out).free
    if free < 2 * data.bytes - there:
        raise DataError(
            f"{out}: {name} needs {2 * data.bytes / 1e9:.1f} GB while it is unpacked, {free / 1e9:.1f} GB are free"
        )
    archives: list[tuple[Archive, list[Path]]] = []
    for archive in data.archives:
        files = []
        for part in range(archive.parts):
            address = archive.url.format(part=part + 1)
            file = out / f"{address.rpartition('/')[2]}.download"
            yield from _fetch_steps(archive._replace(url=address), file)
            files.append(file)
        archives.append((archive, files))
    for archive, files in archives:
        yield from stage(f"unpacking {files[0].stem}", None, _unpack_steps(archive, files, out))
    write_json(out / SOURCE_FILE, source)
    for _, files in archives:
        for file in files:
            remove(file)
    return out


def _fetch_steps(archive: Archive, file: Path) -> Generator[Stage, None, None]:
    """Downloads to `file`; what an earlier call left in `file`.part is continued."""
    if file.is_file():
        return
    part = file.with_name(f"{file.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    if have != archive.size:
        request = urllib.request.Request(archive.url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                have = have if answer.status == 206 else 0
                total = have + int(answer.headers["Content-Length"])
                with part.open("ab" if have else "wb") as to:
                    while chunk := answer.read(1 << 18):
                        to.write(chunk)
                        have += len(chunk)
                        yield f"downloading {file.stem}", have, total
        except (OSError, HTTPException, TypeError, ValueError) as error:
            if not (have and isinstance(error, HTTPError) and error.code == 416):  # 416: there is no more
                raise DataError(f"{archive.url}: cannot be downloaded ({error}); {RESUME}") from error
            total = have
        if have < total:
            raise DataError(f"{archive.url}: the connection ended after {have:,} of {total:,} bytes; {RESUME}")
    problem = f"has {have:,} bytes instead of {archive.size:,}" if archive.size not in (None, have) else ""
    if archive.md5:
        with part.open("rb") as content:
            digest = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        problem = problem or ("has another checksum than published" if digest != archive.md5 else "")
    if problem:
        remove(part)
        raise DataError(f"{archive.url}: {problem}, and was removed; re-run the same command to download it again")
    part.rename(file)


class _Joined:
    """The content of files one after another."""

    def __init__(self, files: list[Path]) -> None:
        self._files: list[IO[bytes]] = [file.open("rb") for file in files]

    def read(self, size: int) -> bytes:
        while self._files:
            if content := self._files[0].read(size):
                return content
            self._files.pop(0).close()
        return b""


def _unpack_steps(archive: Archive, files: list[Path], out: Path) -> Generator[int, None, None]:
    """Unpacks an archive that consists of `files`; yields 1 for each member."""
    try:
        if files[0].stem.endswith(".zip"):
            with zipfile.ZipFile(files[0]) as content:
                for member in archive.members or content.namelist():
                    content.extract(member, out)
                    yield 1
            return
        joined: Any = _Joined(files)
        with tarfile.open(fileobj=joined, mode="r|*") as content:
            for member in content:
                content.extract(member, out, filter="data")
                yield 1
    except (OSError, EOFError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(f"{files[0]}: cannot be unpacked ({error}); remove the file and get it again") from error
