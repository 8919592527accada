import numpy as np
import pytest
from PIL import Image

from slotlab.data import open_data
from slotlab.errors import DataError

datasets = pytest.importorskip("datasets", reason="needs the hub extra")


def table(count, masks=True):
    rng = np.random.default_rng(count)
    columns = {"image": [Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)) for _ in range(count)]}
    features = {"image": datasets.Image(), "label": datasets.Value("int64")}
    columns["label"] = list(range(count))
    if masks:
        columns["mask"] = [Image.fromarray(rng.integers(0, 4, (12, 16), dtype=np.uint8)) for _ in range(count)]
        features["mask"] = datasets.Image()
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def test_saved_data_set(tmp_path):
    saved = table(20)
    saved.save_to_disk(str(tmp_path / "set"))
    data = open_data(tmp_path / "set", split="val")
    assert data.describe()["kind"] == "hub"
    assert len(data) == 2
    sample = data[1]
    np.testing.assert_array_equal(
        sample["image"].mul(255).round().permute(1, 2, 0), np.asarray(saved[3]["image"])[:, 2:14]
    )
    assert "mask" in sample
    np.testing.assert_array_equal(sample["mask"], np.asarray(saved[3]["mask"])[:, 2:14])
    assert sample["index"] == 3


def test_a_column_may_have_a_list_of_masks_the_smaller_on_top(tmp_path):
    large, small = np.zeros((12, 16), np.uint8), np.zeros((12, 16), np.uint8)
    large[2:10, 2:14], small[4:6, 4:6] = 255, 1
    columns = {"image": table(2)["image"], "mask": [[Image.fromarray(m) for m in (small, large)], []]}
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Sequence(datasets.Image())})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "set"))
    data = open_data(tmp_path / "set", split="all")
    assert (data.read(0).mask == np.where(small, 1, np.where(large, 2, 0))).all()
    assert (data.read(1).mask == 0).all()


def test_named_splits(tmp_path):
    datasets.DatasetDict({"train": table(6, masks=False), "validation": table(3)}).save_to_disk(str(tmp_path / "set"))
    train, val = (open_data(tmp_path / "set", split=split) for split in ("train", "val"))
    assert (len(train), train.has_masks, len(val), val.has_masks) == (6, False, 3, True)
    assert val[0]["index"] == 6
    assert "mask" in val[0]
    assert not open_data(tmp_path / "set", split="all").has_masks
    with pytest.raises(DataError, match="split 'test' does not exist .train 6, val 3"):
        open_data(tmp_path / "set", split="test")


def test_a_single_named_split_is_divided(tmp_path):
    datasets.DatasetDict({"train": table(10)}).save_to_disk(str(tmp_path / "set"))
    assert [len(open_data(tmp_path / "set", split=split)) for split in ("train", "val", "test")] == [8, 1, 1]


def test_wrong_columns(tmp_path):
    table(10).rename_column("image", "img").save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match=r"no column 'image'; it has .*img"):
        open_data(tmp_path / "set")
    assert len(open_data(tmp_path / "set", image="img", split="all")) == 10
    with pytest.raises(DataError, match=r"column 'label' is .*use cast_column"):
        open_data(tmp_path / "set", image="label")
    with pytest.raises(DataError, match=r"no column 'segments'; it has .*img"):
        open_data(tmp_path / "set", image="img", mask="segments")


def test_damaged_folder(tmp_path):
    table(10).save_to_disk(str(tmp_path / "set"))
    for path in (tmp_path / "set").glob("*.arrow"):
        path.unlink()
    with pytest.raises(DataError, match="set: cannot be loaded"):
        open_data(tmp_path / "set")


def test_broken_picture(tmp_path):
    features = datasets.Features({"image": datasets.Image()})
    good = table(2)[0]["image"]
    saved = datasets.Dataset.from_dict({"image": [good, {"bytes": b"x", "path": None}, None]}, features=features)
    saved.save_to_disk(str(tmp_path / "set"))
    data = open_data(tmp_path / "set", split="all")
    with pytest.raises(DataError, match=r"set\[1\]: it cannot be decoded"):
        data[1]
    with pytest.raises(DataError, match=r"set\[2\]: the value is missing"):
        data[2]
    skipping = open_data(tmp_path / "set", split="all", skip_broken=True)
    assert skipping.batch([0, 1, 2])["index"].tolist() == [0, 0, 0]
    assert len(skipping.broken) == 2


def test_missing_library_says_how_to_install(tmp_path, monkeypatch):
    table(2).save_to_disk(str(tmp_path / "set"))
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'slotlab\[hub\]'"):
        open_data(tmp_path / "set")
