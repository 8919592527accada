"""Reader of shards of the webdataset library: tar files of images and masks."""

import io
import tarfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np

from slotlab.data.arrays import ids_of, pixels_of
from slotlab.data.dataset import Opening, PixelDataset, files_by_split
from slotlab.data.images import Decoded, decode_image, decode_mask, with_mask
from slotlab.errors import DataError

IMAGE_FIELDS = tuple(f"{word}{end}" for word in ("", "image.", "img.") for end in ("jpg", "jpeg", "png", "webp", "npy"))
MASK_FIELDS = tuple(f"{word}.{end}" for word in ("mask", "masks", "seg", "segmentation") for end in ("png", "npy"))


class Stored(NamedTuple):
    """A file inside a shard: where its content begins, and how long it is."""

    shard: Path
    name: str
    start: int
    size: int


class Shards(PixelDataset):
    """Shards of the webdataset library.

    Dataset format: a `.tar` file, not compressed, or a folder of them. Files that have one name up
    to the first dot are a sample:

    * image: `{key}.jpg`, `.jpeg`, `.png`, `.webp` or `.npy`, also `{key}.image.png` and the like
    * mask, optional: `{key}.mask.png` or `.npy`, also `masks`, `seg` and `segmentation`; a PNG of
      ids, or an array in a layout of `Hdf5`

    Splits by the names of the shards (train, val, test); a single shard, and shards whose names say
    none, are split in their order with CLEVRTex's rule. Crop 1.0.

    Args:
        root: the file or folder.
        image: what follows the key in the name of an image, such as "frame.jpg".
        mask: the same for masks.
    """

    kind = "shards"

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether `path` is a tar file, or a folder of some whose samples have images."""
        files = [path] if path.suffix == ".tar" and path.is_file() else shard_files(path) if path.is_dir() else []
        return bool(files) and any(set(IMAGE_FIELDS) & set(fields) for fields in samples_of(files[0]))

    def __init__(
        self, root: str | Path, *, image: str | None = None, mask: str | None = None, **opening: Unpack[Opening]
    ) -> None:
        named = files_by_split(shard_files(Path(root)), opening.get("split", "train"))
        wanted = (image,) if image else IMAGE_FIELDS, (mask,) if mask else MASK_FIELDS
        self._samples: list[tuple[Stored, Stored | None]] = []
        sizes: dict[str, int] = {}
        for name, some in named.items():
            before = len(self._samples)
            for fields in (fields for file in some for fields in samples_of(file)):
                found = [next((fields[one] for one in known if one in fields), None) for known in wanted]
                if found[0] is not None:
                    self._samples.append((found[0], found[1]))
            sizes[name] = len(self._samples) - before
        if not self._samples:
            raise DataError(f"{root}: no images KEY.{' or KEY.'.join(wanted[0][:3])} in shards *.tar; pass image=")
        has_masks = all(found is not None for _, found in self._samples)
        if mask and not has_masks:
            raise DataError(f"{root}: samples without KEY.{mask}; pass another mask=, or none")
        super().__init__(root, sizes, has_masks, **opening)

    def read(self, row: int) -> Decoded:
        """Decodes the image and the mask of a sample."""
        (image, mask), name = self._samples[row], self.name(row)
        content = _content(image)
        decoded = decode_image(content, name) if isinstance(content, bytes) else Decoded(pixels_of(content, name))
        if mask is None or not self.has_masks:
            return decoded
        ids, mask_name = _content(mask), f"{mask.shard}: {mask.name}"
        size = (decoded.image.shape[0], decoded.image.shape[1])
        ids = decode_mask(ids, mask_name) if isinstance(ids, bytes) else ids_of(ids, size, mask_name)
        return with_mask(decoded, ids, name, mask_name)

    def name(self, row: int) -> str:
        """The shard and the file in it."""
        image, _ = self._samples[row]
        return f"{image.shard}: {image.name}"


def shard_files(path: Path) -> list[Path]:
    """The shards that `path` is or holds, sorted."""
    return [path] if path.is_file() else sorted(path.glob("*.tar"))


def samples_of(file: Path) -> list[dict[str, Stored]]:
    """The samples of a shard: their files by what follows the key in their names.

    Raises:
        DataError: the shard is compressed or damaged.
    """
    return _samples_of(file, file.stat().st_mtime_ns)


@cache
def _samples_of(file: Path, changed: int) -> list[dict[str, Stored]]:
    samples: dict[str, dict[str, Stored]] = {}
    try:
        with tarfile.open(file, "r:") as content:
            for member in content:
                folder, slash, base = member.name.rpartition("/")
                key, dot, field = base.partition(".")
                if member.isreg() and dot and not member.issparse():
                    stored = Stored(file, member.name, member.offset_data, member.size)
                    samples.setdefault(f"{folder}{slash}{key}", {})[field.lower()] = stored
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{file}: cannot be read as a tar file ({error}); unpack *.tar.gz, or copy it again") from error
    return list(samples.values())


def _content(stored: Stored) -> Any:
    """The bytes of a file in a shard; the array, if it is one of NumPy."""
    with stored.shard.open("rb") as file:
        file.seek(stored.start)
        content = file.read(stored.size)
    if len(content) < stored.size:
        raise DataError(f"{stored.shard}: ends within {stored.name}; copy it again")
    if not stored.name.endswith(".npy"):
        return content
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{stored.shard}: {stored.name} cannot be read ({error}); copy it again") from error
