import numpy as np
import pytest
import torch
from PIL import Image

from slotlab.data import ClevrTex, SlotDataset, open_data
from slotlab.data.dataset import by_order
from slotlab.errors import DataError


def test_reads_images_ids_and_metadata(clevrtex):
    data = open_data(clevrtex(20), split="all", crop=1.0)
    assert isinstance(data, SlotDataset)
    assert isinstance(data, ClevrTex)
    sample = data[4]
    stored = np.asarray(Image.open(data.paths[4]))[:, 5:35]
    assert sample["image"].shape == (3, 30, 30)
    np.testing.assert_array_equal(sample["image"].mul(255).round().byte().permute(1, 2, 0), stored)
    assert "mask" in sample
    assert sample["mask"].unique().tolist() == [0, 1, 2]
    assert sample["index"] == 4
    assert data.metadata(4)["num_objects"] == 2


def test_splits_by_sorted_index_with_gaps_in_the_numbering(clevrtex):
    root = clevrtex(10)
    clevrtex(10, root=root, first=500)
    numbers = {split: open_data(root, split=split).batch([0, 1])["index"].tolist() for split in ("test", "val")}
    assert numbers == {"test": [0, 1], "val": [2, 3]}
    train = open_data(root, split="train")
    assert len(train) == 16
    assert train[15]["index"] == 509


def test_split_bounds_are_those_of_the_published_loader():
    for total in [*range(1, 2000), 10_000, 20_000, 50_000]:
        splits = by_order(total)
        assert splits["test"].stop == splits["val"].start == int(0.1 * total)
        assert splits["val"].stop == splits["train"].start == int(0.2 * total)
        assert splits["train"].stop == total


@pytest.mark.parametrize(("variant", "whole"), [("outd", True), ("camo", False), ("textured", False)])
def test_only_outd_is_used_whole(clevrtex, variant, whole):
    data = open_data(clevrtex(20, variant), split="test", resolution=16)
    assert len(data) == (20 if whole else 2)
    facts = {"kind": "clevrtex", "split": "all" if whole else "test", "crop": 0.8, "resolution": 16}
    assert facts.items() <= data.describe().items()
    assert data.describe()["variant"] == variant


def test_batch_equals_samples_and_count_truncates(clevrtex):
    data = open_data(clevrtex(20), split="all", resolution=16, count=5)
    assert len(data) == 5
    batch = data.batch([3, 0])
    assert torch.equal(batch["image"][0], data[3]["image"])
    with pytest.raises(IndexError):
        data[5]
    with pytest.raises(IndexError):
        data[-1]


def test_two_variants_must_be_told_apart(clevrtex):
    root = clevrtex(10, "full")
    clevrtex(10, "outd", root=root)
    with pytest.raises(DataError, match=r"has the variants full, outd.*variant="):
        open_data(root)
    assert len(open_data(root, variant="outd")) == 10
    with pytest.raises(DataError, match="of variant 'camo', only full, outd"):
        open_data(root, variant="camo")


def test_broken_metadata_is_named(clevrtex):
    root = clevrtex(10)
    (root / "0" / "CLEVRTEX_full_000000.json").write_text("{")
    with pytest.raises(DataError, match=r"000000\.json: not readable as JSON"):
        open_data(root, split="test").metadata(0)
    (root / "0" / "CLEVRTEX_full_000000.json").write_text("{}")
    with pytest.raises(DataError, match="no list `objects`"):
        open_data(root, split="test").objects([0])


def test_real_scenes_agree_with_their_json(real):
    for name, side, size in (("blender", 160, 128), ("layout-320x240", 240, 192)):
        data = open_data(real(name), split="all", count=12)
        for position in range(len(data)):
            picture, metadata = data.read(position), data.metadata(position)
            assert min(picture.image.shape[:2]) == side
            assert metadata["image_index"] == data[position]["index"]
            assert picture.mask.max() <= metadata["num_objects"] == len(metadata["objects"])
            assert data[position]["image"].shape == (3, size, size)


def test_what_is_broken_in_another_split_is_not_counted(clevrtex):
    root = clevrtex(20)
    (root / "1" / "CLEVRTEX_full_000015_flat.png").unlink()
    assert open_data(root, split="val", skip_broken=True).describe()["broken"] == 0
    assert open_data(root, split="train", skip_broken=True).describe()["broken"] == 1
