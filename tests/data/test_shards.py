"""Tar shards as webdataset writes them, and TFRecords, in miniatures written by other libraries."""

import gzip
import io
import os
import pickle
import sys
import tarfile
import zlib

import numpy as np
import pytest
from pictures import encoded
from tensorboard.summary.writer.record_writer import RecordWriter

from slotlab.data import open_data, pack
from slotlab.errors import DataError


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def shard(path, files, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as content:
        for name, value in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(value)
            content.addfile(member, io.BytesIO(value))
    return path


def labelled(seed):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (14, 16, 3), dtype=np.uint8), random.integers(0, 5, (14, 16), dtype=np.uint8)


@pytest.mark.parametrize("arrays", [False, True])
def test_samples_are_files_of_one_key_in_shards_of_a_split(tmp_path, arrays):
    scenes = [labelled(seed) for seed in range(6)]
    remaining = iter(scenes)
    for split, count in {"train": 2, "val": 1}.items():
        for number in range(2):
            files = {}
            for key in range(count):
                image, mask = next(remaining)
                if arrays:
                    layers = (mask == np.arange(5)[:, None, None]).astype(np.float32)
                    files[f"photos/{key}.image.npy"] = npy(image / 255)
                    files[f"photos/{key}.masks.npy"] = npy(layers)
                else:
                    files[f"photos/{key}.seg.png"] = encoded(mask)
                    files[f"photos/{key}.png"] = encoded(image)
                files[f"photos/{key}.json"] = b"{}"
            shard(tmp_path / "set" / f"photos-{split}-{number:06d}.tar", files)
    for split, first, count in (("train", 0, 4), ("val", 4, 2)):
        data = open_data(tmp_path / "set", split=split)
        assert (data.describe()["kind"], len(data), data.has_masks) == ("shards", count, True)
        for row in range(count):
            image, mask = scenes[first + row]
            assert (data.read(row).image == image).all() and (data.read(row).mask == mask).all()
    assert len(open_data(tmp_path / "set", split="all")) == 6


def test_a_single_shard_is_split_by_order_and_other_names_can_be_given(tmp_path):
    image, mask = labelled(0)
    files = {f"{n}.frame.png": encoded(image) for n in range(10)}
    files |= {f"{n}.id.png": encoded(mask) for n in range(10)}
    path = shard(tmp_path / "train.tar", files)
    data = open_data(f"shards:{path}", image="frame.png", mask="id.png", split="test")
    assert len(data) == 1 and (data.read(0).mask == mask).all()
    assert not open_data(f"shards:{path}", image="frame.png").has_masks
    with pytest.raises(DataError, match="samples without KEY.mask.png; pass another mask="):
        open_data(f"shards:{path}", image="frame.png", mask="mask.png")
    with pytest.raises(DataError, match=r"no images KEY.jpg or KEY.jpeg or KEY.png in shards \*.tar; pass image="):
        open_data(f"shards:{path}")


def test_damaged_shards_are_said_in_one_sentence(tmp_path):
    image, _ = labelled(0)
    files = {"0.png": encoded(image), "1.npy": b"no array", "2.jpg": encoded(image)[:60]}
    path = shard(tmp_path / "set.tar", files)
    data = open_data(path, split="all")
    with pytest.raises(DataError, match=r"set.tar: 1.npy cannot be read"):
        data.read(1)
    with pytest.raises(DataError, match=r"set.tar: 2.jpg: it cannot be decoded"):
        data.read(2)
    whole = path.read_bytes()
    path.write_bytes(whole[:600])
    with pytest.raises(DataError, match="set.tar: ends within 0.png"):
        data.read(0)
    path.write_bytes(b"no tar file" * 100)
    with pytest.raises(DataError, match="cannot be read as a tar file"):
        open_data(path)
    with pytest.raises(DataError, match=r"cannot be read as a tar file .*; unpack \*.tar.gz"):
        open_data(f"shards:{shard(tmp_path / 'set.tar.gz', files, 'w:gz')}")


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
