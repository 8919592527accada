"""Tar shards in the layout of the webdataset library."""

import io
import tarfile

import numpy as np
import pytest
from pictures import encoded

from slotlab.data import open_data
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


def scene(seed):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (14, 16, 3), dtype=np.uint8), random.integers(0, 5, (14, 16), dtype=np.uint8)


@pytest.mark.parametrize("arrays", [False, True])
def test_samples_are_files_of_one_key_in_shards_of_a_split(tmp_path, arrays):
    scenes = [scene(seed) for seed in range(6)]
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
    image, mask = scene(0)
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
    image, _ = scene(0)
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
