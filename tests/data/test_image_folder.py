import numpy as np
import pytest
from PIL import Image

from slotlab.data import open_data
from slotlab.data.folders import find_images
from slotlab.errors import DataError


def test_images_and_masks_by_stem(folder):
    data = open_data(folder(20), split="val", resolution=10)
    assert data.has_masks
    assert data.describe()["crop"] == 1.0
    batch = data.batch([0, 1])
    assert batch["index"].tolist() == [2, 3]
    assert "mask" in batch
    assert batch["mask"][0].unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("names", [("train", "val"), ("training", "validation")])
def test_split_folders(folder, names):
    root = folder(splits=dict(zip(names, (6, 3), strict=True)))
    assert [len(open_data(root, split=split)) for split in ("train", "val", "all")] == [6, 3, 9]
    assert open_data(root, split="val")[0]["index"] == 6
    assert open_data(root, split="val").has_masks
    with pytest.raises(DataError, match="split 'test' does not exist .train 6, val 3"):
        open_data(root, split="test")
    (root / "images" / "dev").mkdir()
    with pytest.raises(DataError, match=f"{names[1]} and dev both name the split 'val'"):
        open_data(root)


def test_a_split_may_lack_masks(folder):
    root = folder(splits={"train": 2, "val": 2})
    for path in (root / "masks" / "train").iterdir():
        path.unlink()
    (root / "masks" / "train").rmdir()
    assert [open_data(root, split=s).has_masks for s in ("train", "val", "all")] == [False, True, False]
    assert "mask" not in open_data(root, split="train")[0]
    assert "mask" in open_data(root, split="val")[0]
    assert "mask" not in open_data(root, split="all").batch([0, 3])


def test_nested_images_and_hidden_files(folder):
    root = folder(4)
    for kind in ("images", "masks"):
        (root / kind / "b").mkdir()
        (root / kind / "000.png").rename(root / kind / "b" / "000.png")
    (root / "images" / ".hidden.png").write_bytes(b"")
    (root / "images" / "notes.txt").write_text("x")
    data = open_data(root, split="all")
    assert len(data) == 4
    assert "mask" in data[3]


@pytest.mark.parametrize(("image", "mask"), [(".jpg", ".png"), (".PNG", ".PNG"), (".webp", ".tif")])
def test_image_and_mask_may_have_other_suffixes(folder, image, mask):
    root = folder(2)
    for path in [*root.rglob("*.png")]:
        picture = Image.open(path).copy()
        path.unlink()
        picture.save(path.with_suffix(image if path.parent.name == "images" else mask))
    assert "mask" in open_data(root, split="all")[1]


def test_missing_and_lossy_masks(folder):
    root = folder(4)
    kept = (root / "masks" / "001.png").read_bytes()
    Image.new("L", (40, 30)).save(root / "masks" / "001.png", format="JPEG")
    with pytest.raises(DataError, match=r"masks/001\.png: a lossy format"):
        open_data(root, split="all").batch([1])
    (root / "masks" / "001.png").write_bytes(kept)
    (root / "masks" / "001.png").rename(root / "masks" / "001.jpg")
    with pytest.raises(DataError, match=r"001\.jpg: a lossy format"):
        open_data(root, split="all")
    (root / "masks" / "001.jpg").unlink()
    with pytest.raises(DataError, match=r"images/001\.png: its mask .*masks/001\.png is missing"):
        open_data(root, split="all")


def test_mask_of_another_size_names_both(folder):
    root = folder(4)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "masks" / "002.png")
    data = open_data(root, split="all", resolution=8)
    with pytest.raises(DataError, match=r"masks/002\.png: 9x9 pixels, but its image .*images/002\.png has 40x30"):
        data.batch([1, 2])


def test_mixed_sizes_need_a_resolution(folder):
    root = folder(4, masks=False)
    Image.fromarray(np.zeros((50, 64, 3), np.uint8)).save(root / "images" / "002.png")
    assert open_data(root, split="all", resolution=8).batch([0, 2])["image"].shape == (2, 3, 8, 8)
    data = open_data(root, split="all")
    with pytest.raises(
        DataError, match=r"mixed sizes: .*000\.png gives 30x30, .*002\.png gives 50x50; pass resolution="
    ):
        data.batch([0, 1, 2])


def test_too_few_images_for_a_split(folder):
    with pytest.raises(DataError, match=r"split 'test' is empty .*or 'all'"):
        open_data(folder(3), split="test")


def test_images_that_share_a_mask_are_refused(folder):
    root = folder(10)
    Image.open(root / "images" / "003.png").save(root / "images" / "003.jpg")
    with pytest.raises(DataError, match=r"003.png: shares its mask with 003.jpg"):
        open_data(root)


@pytest.mark.parametrize("mask", ["{}_mask_00", "{}_mask_01", "{}_mask", "{}_seg", "{}_segment", "{}-Label"])
@pytest.mark.parametrize("image", ["{}", "{}_image"])
@pytest.mark.parametrize("inside", ["", "images"])
def test_masks_beside_their_images_are_not_read_as_images(folder, image, mask, inside):
    root = folder(10)
    (root / inside).mkdir(exist_ok=True)
    for path in [*(root / "images").iterdir()]:
        path.rename(root / inside / f"{image.format(path.stem)}.jpg")
        (root / "masks" / path.name).rename(root / inside / f"{mask.format(path.stem)}.png")
    (root / "masks").rmdir()
    if not inside:
        (root / "images").rmdir()
    for read in (open_data, find_images):
        with pytest.raises(DataError, match=rf"{mask.format('000')}.png: a mask, not an image \(10 of 20 files"):
            read(root)


@pytest.mark.parametrize("name", ["labels", "Masks", "annotations"])
def test_masks_in_a_folder_of_another_name_are_not_passed_over(folder, name):
    root = folder(10)
    (root / "masks").rename(root / name)
    with pytest.raises(DataError, match=rf"{name}: holds masks by its name, but masks are read from masks/ beside"):
        open_data(root)
    with pytest.raises(DataError, match=f"{name}/000.png: a mask, not an image"):
        find_images(root)
    assert len(open_data(root / "images", split="all")) == 10
    for path in (root / "images").iterdir():
        path.rename(root / path.name)
    (root / "images").rmdir()
    with pytest.raises(DataError, match=f"{name}: holds masks"):
        open_data(root)
