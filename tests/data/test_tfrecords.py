"""TFRecords of MOVi and of DeepMind's multi-object data sets, in miniatures written by other libraries."""

import gzip
import io
import os
import pickle
import sys
import zlib

import numpy as np
import pytest
from pictures import encoded
from tensorboard.summary.writer.record_writer import RecordWriter

from slotlab.data import open_data, pack
from slotlab.errors import DataError


def varint(number):
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**features):
    """A serialized tf.train.Example: lists of bytes (or what `single_bytes` made), or of floats."""
    entries = b""
    for key, values in features.items():
        if isinstance(values, np.ndarray):
            feature = field(2, field(1, values.astype("<f4").tobytes()))
        else:
            feature = field(1, values if isinstance(values, bytes) else b"".join(field(1, value) for value in values))
        entries += field(1, field(1, key.encode()) + field(2, feature))
    return field(1, entries)


def records(path, examples, compress=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    writer = RecordWriter(content)
    for one in examples:
        writer.write(one)
    path.write_bytes(content.getvalue() if compress is None else compress(content.getvalue()))
    return path


def single_bytes(array):
    """As DeepMind writes arrays: a list of strings of one byte, serialized."""
    return np.stack([np.full(array.size, 10), np.ones(array.size), array.ravel()], axis=1).astype(np.uint8).tobytes()


def scene(seed, height, width, entities):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    ids = random.integers(0, entities, (height, width))
    layers = (np.arange(entities)[:, None, None] == ids).astype(np.uint8) * 255  # [entities, height, width]
    return image, ids, layers


def test_movi_gives_each_frame_of_its_videos(tmp_path):
    videos = {}
    for split, count in {"train": 3, "validation": 1}.items():
        for shard in range(2):
            scenes = [[scene(100 * shard + 10 * n + f + len(split), 16, 16, 5) for f in range(4)] for n in range(count)]
            videos.setdefault(split, []).extend(scenes)
            examples = [
                example(
                    video=[encoded(image) for image, _, _ in frames],
                    segmentations=[encoded(ids.astype(np.uint8)) for _, ids, _ in frames],
                    depth_range=np.zeros(2),
                )
                for frames in scenes
            ]
            records(tmp_path / "movi_c" / f"movi_c-{split}.tfrecord-{shard:05d}-of-00002", examples)
    (tmp_path / "movi_c" / "dataset_info.json").write_text("{}")
    data = open_data(tmp_path, split="val")
    assert (data.describe()["kind"], len(data), data.has_masks) == ("tfrecords", 8, True)
    assert len(open_data(tmp_path, split="all")) == 32
    for row in range(8):
        image, ids, _ = videos["validation"][row // 4][row % 4]
        assert (data.read(row).image == image).all() and (data.read(row).mask == ids).all()
    assert "movi_c-validation.tfrecord-00001-of-00002[1], frame 2" in data.name(6)


@pytest.mark.parametrize(
    ("name", "count", "compress"),
    [
        ("clevr_with_masks_train", 1, gzip.compress),
        ("tetrominoes_train", 3, None),
        ("multi_dsprites_colored_on_grayscale", 3, gzip.compress),
        ("objects_room", 3, gzip.compress),
        ("cater_with_masks_train", 33, zlib.compress),
    ],
)
def test_deepminds_data_sets(tmp_path, name, count, compress):
    size = {"clevr_with_masks_train": (240, 320), "tetrominoes_train": (35, 35)}.get(name, (64, 64))
    frames, factors = 1, np.zeros(3)
    scenes = [scene(seed, *size, 6) for seed in range(count)]
    images, ids, layers = (np.stack(arrays) for arrays in zip(*scenes, strict=True))
    if "cater" in name:
        frames = 33
        examples = [example(image=[images.tobytes()], mask=[layers.tobytes()], camera_matrix=factors)]
    elif "dsprites" in name:
        last = layers.transpose(0, 2, 3, 1)
        examples = [
            example(image=single_bytes(image), mask=single_bytes(mask), orientation=factors)
            for image, mask in zip(images, last, strict=True)
        ]
    else:
        more = {} if name == "objects_room" else {"x": factors}
        examples = [
            example(image=single_bytes(image), mask=single_bytes(mask), **more)
            for image, mask in zip(images, layers, strict=True)
        ]
    path = records(tmp_path / f"{name}.tfrecords", examples, compress)
    data = open_data(path, split="all")
    assert len(data) == len(examples) * frames
    wanted = np.maximum(ids - 3, 0) if name == "objects_room" else ids  # the first four are background there
    for row in (count - 1, 0, count // 2):
        assert (data.read(row).image == images[row]).all()
        assert (data.read(row).mask == wanted[row]).all()
    assert (pickle.loads(pickle.dumps(data)).read(0).mask == wanted[0]).all()


def test_a_single_file_is_split_by_its_order_and_can_be_packed(tmp_path):
    scenes = [scene(seed, 35, 35, 4) for seed in range(20)]
    examples = [example(image=[i.tobytes()], mask=[m.tobytes()], x=np.zeros(1)) for i, _, m in scenes]
    path = records(tmp_path / "tetrominoes_train.tfrecords", examples, gzip.compress)
    assert [len(open_data(path, split=split)) for split in ("test", "val", "train")] == [2, 2, 16]
    packed = open_data(pack(path, tmp_path / "packed"), split="train")
    assert (packed[3]["mask"].numpy() == scenes[packed[3]["index"]][1]).all()


def damaged(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-3], r"it ends within record 1\); copy the file again"),
        (lambda content: content[:-40], "ends within record 1"),
        (lambda content: content + b"12345", "a checksum"),
        (lambda content: damaged(content, 3), "a checksum, CRC-32C, is wrong: no TFRecord file, or damaged"),
        (lambda content: damaged(content, 500), "a checksum, CRC-32C, is wrong"),
        (lambda content: b"", "no records in files"),
        (lambda content: os.urandom(100), "checksum"),
        (lambda content: gzip.compress(content)[:-200], "ended before the end-of-stream marker"),
        (lambda content: damaged(gzip.compress(content), 300), "cannot be read"),
        (lambda content: zlib.compress(content)[:-200], "it ends early, or has over 4 GiB"),
    ],
)
def test_damaged_files_are_said_in_one_sentence(tmp_path, change, message):
    examples = [example(image=[i.tobytes()], mask=[m.tobytes()]) for i, _, m in [scene(s, 64, 64, 7) for s in (0, 1)]]
    path = records(tmp_path / "room.tfrecords", examples)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message) as raised:
        data = open_data(path, split="all")
        data.read(0), data.read(1)
    assert "room.tfrecords" in str(raised.value)


def test_records_of_other_data_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"tfrecords\[0\]: has image, label; expected video and segmentations \(MOVi\)"):
        open_data(records(tmp_path / "imagenet.tfrecords", [example(image=[b"jpeg"], label=[b"cat"])]))
    with pytest.raises(DataError, match=r"not a tf.train.Example"):
        open_data(records(tmp_path / "text.tfrecords", [b"\xff" * 80]))
    image, mask = (encoded(np.zeros(shape, np.uint8)) for shape in ((4, 4, 3), (4, 4)))
    frames = [example(video=[image] * n, segmentations=[mask] * n) for n in (2, 3)]
    data = open_data(records(tmp_path / "uneven.tfrecords", frames), split="all")
    with pytest.raises(DataError, match="has 3 frames, the first record 2"):
        data.read(3)
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(DataError, match=r"pip install 'slotlab\[tfrecords\]'"):
        open_data(tmp_path / "text.tfrecords")
