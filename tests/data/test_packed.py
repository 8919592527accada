import json
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from slotlab.data import check_data, evaluation_batches, open_data, pack, packing
from slotlab.errors import ConfigError, DataError
from slotlab.files import DiskFull


def same(packed, plain):
    left, right = packed.batch(range(len(plain))), plain.batch(range(len(plain)))
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture
def cache(clevrtex, tmp_path):
    """Ten scenes, packed at 8x8."""
    return pack(clevrtex(10), tmp_path / "packed", resolution=8)


def test_gives_exactly_what_the_source_gives_and_is_repeatable(clevrtex, tmp_path):
    root = clevrtex(20)
    out = pack(root, tmp_path / "packed", resolution=16)
    settings = json.loads((out / "packed.json").read_text())
    assert settings["splits"] == {"test": [0, 2], "val": [2, 4], "train": [4, 20]}
    assert settings["max_objects"] == 3
    assert settings["arrays"]["images.npy"]["shape"] == [20, 16, 16, 3]
    assert np.load(out / "masks.npy").dtype == np.uint8
    again = pack(root, tmp_path / "again", resolution=16)
    assert (again / "packed.json").read_text() == (out / "packed.json").read_text()
    for split in ("train", "val", "test"):
        packed = open_data(out, split=split)
        assert same(packed, open_data(root, split=split, resolution=16))
        assert torch.equal(packed[1]["image"], packed.batch([1])["image"][0])
    facts = open_data(out, split="val").describe()
    assert (facts["source"]["data"], facts["source"]["variant"]) == (str(root), "full")
    assert {"kind": "packed", "split": "val", "crop": 0.8, "resolution": 16, "count": 2}.items() <= facts.items()


def test_whole_variants_count_and_the_choice_of_splits(clevrtex, tmp_path):
    out = pack(clevrtex(10, "outd"), tmp_path / "outd", resolution=8, count=6)
    assert len(open_data(out, split="test")) == 6
    root = clevrtex(20)
    out = pack(root, tmp_path / "some", resolution=8, count={"train": 5, "val": 1})
    assert [len(open_data(out, split=split)) for split in ("train", "val", "all")] == [5, 1, 6]
    assert same(open_data(out, split="train"), open_data(root, split="train", resolution=8, count=5))
    with pytest.raises(DataError, match="split 'test' does not exist"):
        open_data(out, split="test")
    outd = tmp_path / "clevrtex_outd"
    for source, count, message in (
        (root, {"trian": 3}, "did you mean .train."),
        (outd, {"test": 2}, "no split 'test'; there are: all"),
    ):
        with pytest.raises(ConfigError, match=message):
            pack(source, tmp_path / "none", resolution=8, count=count)
    assert len(open_data(pack(outd, tmp_path / "two", resolution=8, count={"all": 2}), split="all")) == 2


def test_a_large_count_of_rendered_scenes_is_for_training(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "DEFAULT_COUNT", {"test": 2, "val": 2, "train": 4})
    pack("scenes:plain", tmp_path / "packed", resolution=16, count=3)
    assert [len(open_data(tmp_path / "packed", split=split)) for split in ("train", "val", "test")] == [3, 2, 2]


def test_an_open_data_set_keeps_its_split(folder, tmp_path):
    plain = open_data(folder(20), split="val", resolution=8)
    assert same(open_data(pack(plain, tmp_path / "packed"), split="val"), plain)


def test_without_masks_and_with_masks_for_one_split_only(folder, tmp_path):
    out = pack(folder(10, masks=False), tmp_path / "bare", resolution=8)
    assert not open_data(out).has_masks
    assert not (out / "masks.npy").exists()
    root = folder(splits={"train": 3, "val": 3}, name="half")
    for path in [*(root / "masks" / "train").iterdir()]:
        path.unlink()
    (root / "masks" / "train").rmdir()
    out = pack(root, tmp_path / "half_packed", resolution=8)
    assert [open_data(out, split=split).has_masks for split in ("train", "val", "all")] == [False, True, False]
    assert same(open_data(out, split="val"), open_data(root, split="val", resolution=8))
    assert (check_data(out).count, check_data(out).masks) == (6, 3)


def test_large_ids_widen_the_masks_midway(folder, tmp_path):
    root = folder(12)
    Image.fromarray(np.full((30, 40), 3000, np.uint16)).save(root / "masks" / "007.png")
    out = pack(root, tmp_path / "packed", resolution=8)
    assert np.load(out / "masks.npy").dtype == np.int16
    for split in ("train", "val", "test"):
        assert same(open_data(out, split=split), open_data(root, split=split, resolution=8))
    Image.fromarray(np.full((30, 40), 40000, np.uint16)).save(root / "masks" / "007.png")
    with pytest.raises(DataError, match=r"007\.png: mask ids 40000\.\.40000"):
        pack(root, tmp_path / "packed", resolution=8)


def test_broken_pictures_stop_it_or_are_left_out(clevrtex, tmp_path):
    root = clevrtex(20)
    (root / "0" / "CLEVRTEX_full_000001.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"000001\.png: the file is empty"):
        pack(root, tmp_path / "packed", resolution=8)
    assert not (tmp_path / "packed").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["clevrtex_full"]
    out = pack(root, tmp_path / "packed", resolution=8, skip_broken=True)
    settings = json.loads((out / "packed.json").read_text())
    assert settings["splits"] == {"test": [0, 1], "val": [1, 3], "train": [3, 19]}
    assert len(settings["broken"]) == 1
    assert open_data(out, split="test")[0]["index"] == 0


def test_mixed_sizes_need_a_resolution(folder, tmp_path):
    root = folder(10)
    Image.fromarray(np.zeros((50, 64, 3), np.uint8)).save(root / "images" / "004.png")
    Image.fromarray(np.zeros((50, 64), np.uint8)).save(root / "masks" / "004.png")
    with pytest.raises(DataError, match=r"004\.png: images of mixed sizes: 50x50 after 30x30; pass resolution="):
        pack(root, tmp_path / "packed")
    pack(root, tmp_path / "packed", resolution=8)


def test_other_folders_are_not_overwritten_but_older_caches_are(clevrtex, tmp_path):
    root = clevrtex(10)
    with pytest.raises(DataError, match="exists and is not a packed cache"):
        pack(root, root, resolution=8)
    out = pack(root, tmp_path / "packed", resolution=8)
    pack(root, out, resolution=4)
    assert open_data(out)[0]["image"].shape == (3, 4, 4)
    with pytest.raises(DataError, match="is packed already"):
        pack(out, tmp_path / "twice")


def test_a_full_disk_leaves_nothing(clevrtex, tmp_path, monkeypatch):
    root = clevrtex(10)
    usage = __import__("shutil").disk_usage(tmp_path)._replace(free=100)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage)
        with pytest.raises(DataError, match=r"packing needs .* GB are free"):
            pack(root, tmp_path / "packed", resolution=8)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.save", full)
    with pytest.raises(DiskFull, match=r"packed: the disk is full: it needs more than"):
        pack(root, tmp_path / "packed", resolution=8)
    assert [path.name for path in tmp_path.iterdir()] == ["clevrtex_full"]


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "indices.npy"])
def test_truncated_or_missing_arrays_are_refused_even_while_they_are_read(cache, name):
    data = open_data(cache)
    data.batch([0])
    os.truncate(cache / name, (cache / name).stat().st_size - 1)
    for read in (lambda: open_data(cache), lambda: data.batch([0])):
        with pytest.raises(DataError, match=rf"{name}: \d+ bytes instead of \d+: truncated .*pack the source again"):
            read()
    (cache / name).unlink()
    for read in (lambda: open_data(cache), lambda: data.batch([0])):
        with pytest.raises(DataError, match=rf"{name}: missing"):
            read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "not a JSON object"),
        ('{"format": "slotlab-packed", "version": 99}', "format version 99, this slotlab reads 1"),
        ('{"format": "slotlab-packed", "version": 1}', "damaged .source: Field required; resolution: "),
    ],
)
def test_damaged_settings_are_refused(cache, content, message):
    (cache / "packed.json").write_text(content)
    with pytest.raises(DataError, match=rf"packed\.json: {message}.*pack the source again"):
        open_data(cache)


def test_changed_content_is_found_by_the_check(cache):
    assert check_data(cache).ok
    content = bytearray((cache / "images.npy").read_bytes())
    content[-1] ^= 255
    (cache / "images.npy").write_bytes(content)
    assert [file.file for file in check_data(cache).broken] == [str(cache / "images.npy")]


def test_another_resolution_or_crop_is_refused(cache):
    assert len(open_data(cache, resolution=8, crop=0.8)) == 8
    with pytest.raises(DataError, match="packed with resolution 8, not 16; pack the source again"):
        open_data(cache, resolution=16)
    with pytest.raises(DataError, match=r"packed with crop 0\.8, not 1\.0"):
        open_data(cache, crop=1.0)


def test_worker_processes_and_pickles(cache):
    data = open_data(cache)
    copy = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) < 5000
    assert torch.equal(copy.batch([5])["image"], data.batch([5])["image"])
    images = torch.cat([batch["image"] for batch in evaluation_batches(copy, batch_size=3, workers=1)])
    assert torch.equal(images, data.batch(range(8))["image"])


def named(cache):
    """Whether the whole cache can be read, or a DataError names it."""
    try:
        data = open_data(cache, split="all")
        data.batch(range(len(data)))
        json.dumps(data.describe())
    except DataError as error:
        return str(cache) in str(error)
    return True


def test_whatever_bytes_are_damaged_the_error_is_one_sentence(cache):
    rng = np.random.default_rng(0)
    for path in sorted(cache.iterdir()):
        whole = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(whole)
            for place in rng.integers(len(whole) if path.suffix == ".json" else 128, size=rng.integers(1, 4)):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            assert named(cache)
        path.write_bytes(whole)
