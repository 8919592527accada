"""Reader of TFRecord files: MOVi and DeepMind's multi-object data sets, without TensorFlow."""

import io
import os
import zlib
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple, Unpack

import numpy as np

from slotlab.data.dataset import Opening, PixelDataset, by_order, in_a_row, split_of
from slotlab.data.images import Decoded, decode_image, decode_mask, with_mask
from slotlab.errors import DataError

KEPT = 16  # decoded records: threads that read them nearly in order do not read a packed file again
# Shapes of uncompressed images, of which the files say nothing but the size: frames, height, width, channels.
RAW_SHAPES = {
    int(np.prod(shape)): shape
    for shape in ((1, 240, 320, 3), (1, 64, 64, 3), (1, 64, 64, 1), (1, 35, 35, 3), (33, 64, 64, 3))
}
BACKGROUNDS = 4  # in Objects Room: sky, floor and two halves of the wall come first
COPY = "copy the file again"


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

    def __init__(self, root: str | Path, **opening: Unpack[Opening]) -> None:
        path = Path(root)
        files = tfrecord_files(path)
        if not files:
            raise DataError(f"{root}: no *.tfrecord* in this folder or below it; name another folder")
        named: dict[str, list[Path]] = {}
        for file in files:
            named.setdefault(split_of(file.name), []).append(file)
        split = opening.get("split", "train")
        if len(files) > 1 and split in named:
            named = {split: named[split]}
        self._records = [(file, offset) for some in named.values() for file in some for offset in offsets(file)]
        if not self._records:
            raise DataError(f"{root}: has no records; {COPY}")
        self._lock, self._kept, self._next = Lock(), dict[int, Frames](), 0
        self._streams: dict[Path, BinaryIO] = {}
        self._process = os.getpid()
        self.frames = len(self._record(0).images)
        total = len(self._records) * self.frames
        counts = {name: self.frames * sum(len(offsets(file)) for file in some) for name, some in named.items()}
        super().__init__(
            data=str(root),
            root=path,
            total=total,
            splits=by_order(total) if len(files) == 1 or set(named) == {"all"} else in_a_row(counts),
            has_masks=True,
            **opening,
        )

    def read(self, row: int) -> Decoded:
        """Decodes one frame of a record."""
        name, frame = self.name(row), row % self.frames
        record = self._record(row // self.frames)
        if len(record.images) != self.frames:
            raise DataError(f"{name}: has {len(record.images)} frames, the first record {self.frames}")
        image, mask = record.images[frame], record.masks[frame]
        decoded = decode_image(image, name) if isinstance(image, bytes) else Decoded(image)
        return with_mask(decoded, decode_mask(mask, name) if isinstance(mask, bytes) else mask, name, f"{name}, mask")

    def name(self, row: int) -> str:
        """The file, the record in all files, and the frame."""
        record = row // self.frames
        return f"{self._records[record][0]}[{record}]" + (f", frame {row % self.frames}" if self.frames > 1 else "")

    def _record(self, number: int) -> Frames:
        if self._process != os.getpid():  # a fork shares the places in open files
            self._lock, self._kept, self._streams, self._process = Lock(), {}, {}, os.getpid()
        with self._lock:
            skipped = number - self._next if _is_packed(self._records[number][0]) else 0
            for one in range(number - skipped if 0 <= skipped < KEPT // 2 else number, number + 1):
                if one not in self._kept:
                    self._kept[one] = self._decoded(one)
                    self._next = one + 1
            found = self._kept[number]
            for old in list(self._kept)[:-KEPT]:
                del self._kept[old]
            return found

    def _decoded(self, number: int) -> Frames:
        file, offset = self._records[number]
        stream = self._streams.get(file) or _opened(file)
        self._streams = {file: stream}
        stream.seek(offset)
        return decoded_example(read_record(stream, file), f"{file}[{number}]")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_kept": {}, "_streams": {}, "_process": -1}


def tfrecord_files(path: Path) -> list[Path]:
    """The TFRecord files that `path` is or holds, sorted."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*.tfrecord*") if file.is_file())


def decoded_example(content: bytes, name: str) -> Frames:
    """The images and masks of a serialized `tf.train.Example`.

    Raises:
        DataError: it is no Example, or has other features than those of the known data sets.
    """
    try:
        features = {key: feature.bytes_list.value for key, feature in _example(content).features.feature.items()}
    except Exception as error:  # of protobuf
        raise DataError(f"{name}: not a tf.train.Example ({error}); {COPY}") from error
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


@cache
def _example_type() -> Any:
    """The message `tf.train.Example`, of which only lists of bytes are read."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field, file = descriptor_pb2.FieldDescriptorProto, descriptor_pb2.FileDescriptorProto(name="slotlab_example.proto")
    file.package, file.syntax = "slotlab", "proto3"
    fields = {
        "BytesList": [("value", 1, field.LABEL_REPEATED, field.TYPE_BYTES, "")],
        "Feature": [("bytes_list", 1, field.LABEL_OPTIONAL, field.TYPE_MESSAGE, ".slotlab.BytesList")],
        "Features": [("feature", 1, field.LABEL_REPEATED, field.TYPE_MESSAGE, ".slotlab.Features.FeatureEntry")],
        "Example": [("features", 1, field.LABEL_OPTIONAL, field.TYPE_MESSAGE, ".slotlab.Features")],
    }
    for name, some in fields.items():
        message = file.message_type.add(name=name)
        for key, number, label, kind, of in some:
            message.field.add(name=key, number=number, label=label, type=kind, type_name=of or None)
    entry = file.message_type[2].nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    entry.field.add(
        name="value", number=2, label=field.LABEL_OPTIONAL, type=field.TYPE_MESSAGE, type_name=".slotlab.Feature"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("slotlab.Example"))


def _example(content: bytes) -> Any:
    return _example_type().FromString(content)


# --- files of records -----------------------------------------------------------------------------


def offsets(file: Path) -> tuple[int, ...]:
    """Where each record of a file begins, in the unpacked content.

    Raises:
        DataError: the file is truncated, or its checksums are wrong.
    """
    return _offsets(file, file.stat().st_mtime_ns)


@cache
def _offsets(file: Path, changed: int) -> tuple[int, ...]:
    found: list[int] = []
    with _opened(file) as stream:
        while (length := _length(stream, file)) is not None:
            found.append(stream.tell() - 12)
            stream.seek(found[-1] + length + 15)
            if not stream.read(1):
                raise DataError(f"{file}: ends within record {len(found) - 1}; {COPY}")
    return tuple(found)


def read_record(stream: BinaryIO, file: Path) -> bytes:
    """The record at the place of a stream; DataError if it is cut off or its checksum is wrong."""
    length = _length(stream, file)
    content = stream.read((length or 0) + 4)
    if length is None or len(content) < length + 4:
        raise DataError(f"{file}: ends within a record; {COPY}")
    _check(content[:-4], content[-4:], file)
    return content[:-4]


def _length(stream: BinaryIO, file: Path) -> int | None:
    """The length of the next record; None at the end."""
    header = stream.read(12)
    if not header:
        return None
    if len(header) < 12:
        raise DataError(f"{file}: ends within a record; {COPY}")
    _check(header[:8], header[8:], file)
    return int.from_bytes(header[:8], "little")


def _check(content: bytes, checksum: bytes, file: Path) -> None:
    """DataError unless the masked CRC-32C of `content` is `checksum`."""
    crc = crc32c(content)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    if masked != int.from_bytes(checksum, "little"):
        raise DataError(f"{file}: a checksum (CRC-32C) is wrong: not a TFRecord file, or damaged; {COPY}")


@cache
def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table


def _advanced(states: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """CRC registers [R] after the bytes of their rows, which are `columns` [L, R]."""
    table = _table()
    for column in columns:
        states = table[(states ^ column) & 255] ^ states >> 8
    return states


@cache
def _shifted_bits(length: int) -> np.ndarray:
    """What `length` zero bytes make of a register that has one bit set, for each bit."""
    return _advanced(np.uint32(1) << np.arange(32, dtype=np.uint32), np.zeros((length, 1), np.uint32))


def crc32c(content: bytes) -> int:
    """The CRC-32C (Castagnoli) of bytes.

    The content is cut into rows that NumPy treats at the same time, as a CRC is linear: a register
    of zeros stays zero over zeros, and the exclusive or of registers adds up.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    if len(content) < 64:
        register = 0xFFFFFFFF
        for byte in content:
            register = int(_table()[(register ^ byte) & 255]) ^ register >> 8
        return register ^ 0xFFFFFFFF
    length = 1 << max(4, len(content).bit_length() // 2)
    data = np.zeros(-(-len(content) // length) * length, np.uint8)
    data[-len(content) :] = np.frombuffer(content, np.uint8)
    data[len(data) - len(content) :][:4] ^= 255  # the register begins with ones
    rows = data.reshape(-1, length)
    states = _advanced(np.zeros(len(rows), np.uint32), np.ascontiguousarray(rows.T).astype(np.uint32))
    bits, register = _shifted_bits(length), np.uint32(0)
    for state in states:
        register = np.bitwise_xor.reduce(bits[register >> np.arange(32, dtype=np.uint32) & 1 == 1]) ^ state
    return int(register) ^ 0xFFFFFFFF


def _is_packed(file: Path) -> bool:
    """Whether a file is compressed by gzip or zlib, as its first bytes say."""
    with file.open("rb") as stream:
        start = stream.read(2)
    return start == b"\x1f\x8b" or (start[:1] == b"\x78" and int.from_bytes(start, "big") % 31 == 0)


def _opened(file: Path) -> BinaryIO:
    if not _is_packed(file):
        return file.open("rb")
    return io.BufferedReader(_Unpacked(file), buffer_size=1 << 20)  # pyright: ignore[reportReturnType]


class _Unpacked(io.RawIOBase):
    """The content of a file compressed by gzip or zlib; going back begins at the start again."""

    def __init__(self, file: Path) -> None:
        self._file, self._stream = file, file.open("rb")
        self._restart()

    def _restart(self) -> None:
        self._stream.seek(0)
        self._place, self._unpack = 0, zlib.decompressobj(wbits=47)  # the header says which

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        while not self._unpack.eof:
            packed = self._unpack.unconsumed_tail or self._stream.read(1 << 16)
            try:
                found = self._unpack.decompress(packed, len(buffer))
            except zlib.error as error:
                raise DataError(f"{self._file}: cannot be unpacked ({error}); {COPY}") from error
            if found:
                buffer[: len(found)] = found
                self._place += len(found)
                return len(found)
            if not packed and not self._unpack.eof:
                raise DataError(f"{self._file}: the compressed file ends too early; {COPY}")
        return 0

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset < self._place:
            self._restart()
        while offset > self._place and self.read(min(offset - self._place, 1 << 20)):
            pass
        return self._place

    def close(self) -> None:
        self._stream.close()
        super().close()
