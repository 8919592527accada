"""Readers of shards: tar files as webdataset writes them, and TFRecords (extra `tfrecords`)."""

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple, Unpack

import numpy as np

from slotlab.data.arrays import ids_of, pixels_of
from slotlab.data.dataset import Opening, PixelDataset, files_by_split
from slotlab.data.images import Decoded, decode_image, decode_mask, with_mask
from slotlab.errors import DataError, needs

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


# --- TFRecords ------------------------------------------------------------------------------------

KEPT = 16  # decoded records: threads that read them nearly in order do not go back in a packed file
MOST_UNPACKED = 2**32  # bytes of a file compressed by zlib, which is unpacked in memory
# Shapes of uncompressed images, of which files say only the size: frames, height, width, channels.
RAW_SHAPES = {
    int(np.prod(shape)): shape
    for shape in ((1, 240, 320, 3), (1, 64, 64, 3), (1, 64, 64, 1), (1, 35, 35, 3), (33, 64, 64, 3))
}
BACKGROUNDS = 4  # in Objects Room: sky, floor and two halves of the wall come first


class Frames(NamedTuple):
    """The images of a record, and their masks: arrays [H, W, 3] and [H, W], or files."""

    images: list[Any]
    masks: list[Any]


class TfRecords(PixelDataset):
    """TFRecord files of MOVi, CLEVR with masks, Multi-dSprites, Tetrominoes, Objects Room or CATER.

    Dataset format: a file, or a folder of `*.tfrecord*`, plain, or compressed by gzip or zlib. A
    record is a `tf.train.Example` with

    * MOVi: `video` and `segmentations`, 24 frames as PNG or JPEG and as PNGs of ids, 0 = background
    * the others: `image` and `mask`, uint8 of known size and 0 or 255 for each entity and pixel;
      the first entity is the background, in Objects Room the first four

    Each frame is an image. Splits by the names of the files (train, validation, test); a single
    file is split in its order with CLEVRTex's rule. Checksums are checked. A compressed file can
    only be read in order: pack it before training. Crop 1.0.
    """

    kind = "tfrecords"

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether `path` is or holds TFRecord files, by their names."""
        return ".tfrecord" in path.name if path.is_file() else bool(tfrecord_files(path))

    def __init__(self, root: str | Path, **opening: Unpack[Opening]) -> None:
        named = files_by_split(tfrecord_files(Path(root)), opening.get("split", "train"))
        found = {name: [(file, start) for file in some for start in starts(file)] for name, some in named.items()}
        self._records = [record for some in found.values() for record in some]
        if not self._records:
            raise DataError(f"{root}: no records in files *.tfrecord*; name another folder, or copy the files again")
        self._forget()
        self.frames = len(self._record(0).images)
        super().__init__(root, {name: len(some) * self.frames for name, some in found.items()}, **opening)

    def read(self, row: int) -> Decoded:
        """Decodes one frame of a record."""
        name, (number, frame) = self.name(row), divmod(row, self.frames)
        images, masks = self._record(number)
        if len(images) != self.frames:
            raise DataError(f"{name}: has {len(images)} frames, the first record {self.frames}")
        image, mask = images[frame], masks[frame]
        decoded = decode_image(image, name) if isinstance(image, bytes) else Decoded(image)
        return with_mask(decoded, decode_mask(mask, name) if isinstance(mask, bytes) else mask, name, f"{name}, mask")

    def name(self, row: int) -> str:
        """The file, the number of the record in all files, and the frame."""
        number, frame = divmod(row, self.frames)
        return f"{self._records[number][0]}[{number}]" + (f", frame {frame}" if self.frames > 1 else "")

    def clip(self, row: int) -> str:
        """The record."""
        return self.name(row).partition(", frame")[0]

    def _record(self, number: int) -> Frames:
        if self._process != os.getpid():  # a fork shares the places in open files
            self._forget()
        with self._lock:
            ahead = number - self._next
            for one in range(self._next if 0 < ahead < KEPT // 2 else number, number + 1):
                if one not in self._kept:
                    file, start = self._records[one]
                    if file not in self._open:
                        self._open = {file: opened(file)}
                    self._kept[one] = decoded_example(read_record(file, self._open[file], start), f"{file}[{one}]")
                    self._next = one + 1
            found = self._kept[number]
            for old in list(self._kept)[:-KEPT]:
                del self._kept[old]
            return found

    def _forget(self) -> None:
        self._lock, self._process, self._next = Lock(), os.getpid(), 0
        self._kept: dict[int, Frames] = {}
        self._open: dict[Path, BinaryIO] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_kept": {}, "_open": {}, "_process": -1}


def tfrecord_files(path: Path) -> list[Path]:
    """The TFRecord files that `path` is or holds, sorted."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*.tfrecord*") if file.is_file())


def decoded_example(content: bytes, name: str) -> Frames:
    """The images and masks of a serialized `tf.train.Example`.

    Raises:
        DataError: it is no Example, or has other features than those of the known data sets.
    """
    try:
        features = {
            key: feature.bytes.value for key, feature in _example_type().FromString(content).features.feature.items()
        }
    except Exception as error:  # of protobuf
        raise DataError(f"{name}: not a tf.train.Example ({error}); copy the file again") from error
    if features.get("video") and len(features["video"]) == len(features.get("segmentations", ())):
        return Frames(list(features["video"]), list(features["segmentations"]))
    image, mask = (b"".join(features.get(key, ())) for key in ("image", "mask"))
    shape = RAW_SHAPES.get(len(image), (1, 1, 1, 1))
    frames, height, width, _ = shape
    entities = len(mask) // (frames * height * width)
    if len(image) not in RAW_SHAPES or not entities or entities * frames * height * width != len(mask):
        known = "video and segmentations (MOVi), or image and mask of a size of DeepMind's multi-object data sets"
        raise DataError(f"{name}: has {', '.join(sorted(features)) or 'no features'}; expected {known}")
    layers = np.frombuffer(mask, np.uint8)
    if "orientation" in features:  # Multi-dSprites has the entities last
        layers = layers.reshape(height * width, entities).T
    ids = layers.reshape(frames, entities, height, width).argmax(axis=1)
    if set(features) == {"image", "mask"}:  # Objects Room
        ids = np.maximum(ids - BACKGROUNDS + 1, 0)
    pixels = np.frombuffer(image, np.uint8).reshape(shape)
    return Frames(list(np.broadcast_to(pixels, (*shape[:3], 3))), list(ids.astype(np.uint8)))


# The message of a record, as far as it is read.
EXAMPLE = """
name: "slotlab_example.proto" package: "slotlab" syntax: "proto3"
message_type { name: "List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "Feature" field { name: "bytes" number: 1 type: TYPE_MESSAGE type_name: ".slotlab.List" } }
message_type {
  name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".slotlab.Features.Entry" }
  nested_type {
    name: "Entry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".slotlab.Feature" }
  }
}
message_type { name: "Example" field { name: "features" number: 1 type: TYPE_MESSAGE type_name: ".slotlab.Features" } }
"""


@cache
def _example_type() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(EXAMPLE, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("slotlab.Example"))


# --- files of TFRecords ---------------------------------------------------------------------------


def starts(file: Path) -> tuple[int, ...]:
    """Where each record of a file begins, in the unpacked content.

    Raises:
        DataError: the file is truncated, or the checksum of a length is wrong.
    """
    return _starts(file, file.stat().st_mtime_ns)


@cache
def _starts(file: Path, changed: int) -> tuple[int, ...]:
    found: list[int] = []
    with _explained(file), opened(file) as stream:
        while (length := _length(stream)) is not None:
            found.append(stream.tell() - 12)
            stream.seek(found[-1] + length + 15)
            if not stream.read(1):
                raise EOFError(f"it ends within record {len(found) - 1}")
    return tuple(found)


def read_record(file: Path, stream: BinaryIO, start: int) -> bytes:
    """The record that begins at `start`; DataError if it is cut off or its checksum is wrong."""
    with _explained(file):
        stream.seek(start)
        content = stream.read((_length(stream) or 0) + 4)
        _check(content[:-4], content[-4:])
        return content[:-4]


def _length(stream: BinaryIO) -> int | None:
    """The length of the next record; None at the end."""
    header = stream.read(12)
    if header:
        _check(header[:8], header[8:])
    return int.from_bytes(header[:8], "little") if header else None


def _check(content: bytes, checksum: bytes) -> None:
    """Raises a ValueError unless the masked CRC-32C of `content` is `checksum`."""
    with needs("tfrecords", "TFRecords need", DataError):
        import google_crc32c
    crc = google_crc32c.value(content)
    if ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF != int.from_bytes(checksum, "little"):
        raise ValueError("a checksum, CRC-32C, is wrong: no TFRecord file, or damaged")


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({error}); copy the file again") from error


def opened(file: Path) -> BinaryIO:
    """The unpacked content of a file, which may be compressed by gzip or zlib."""
    stream: Any = file.open("rb")
    start = stream.read(12)
    stream.seek(0)
    try:
        _check(start[:8], start[8:])  # the length of a first record, not compressed
    except ValueError:
        if start[:2] == b"\x1f\x8b":
            return gzip.open(stream)  # pyright: ignore[reportReturnType]
        if start[:1] == b"\x78":
            unpack = zlib.decompressobj()
            content = unpack.decompress(stream.read(), MOST_UNPACKED)
            if not unpack.eof:
                raise EOFError(f"it ends early, or has over {MOST_UNPACKED >> 30} GiB") from None
            return io.BytesIO(content)
    return stream
