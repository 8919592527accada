"""PASCAL VOC, DAVIS and BSDS500 in miniatures of their layouts."""

import shutil

import numpy as np
import pytest
import torch
from pictures import save_palette
from PIL import Image
from scipy.io import loadmat, savemat

from slotlab.data import open_data
from slotlab.errors import ConfigError, DataError

WIDTH, HEIGHT = 40, 30


def photograph(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)


def objects():
    """Two objects with a border of void (255) around the first."""
    mask = np.zeros((HEIGHT, WIDTH), int)
    mask[4:16, 9:21] = 255
    mask[5:15, 10:20] = 1
    mask[18:25, 15:30] = 2
    return mask


@pytest.fixture
def voc(tmp_path):
    base = tmp_path / "voc" / "VOCdevkit" / "VOC2012"
    for split, names in {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}.items():
        lists = base / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            photograph(base / "JPEGImages" / f"{name}.jpg")
            save_palette(objects(), base / "SegmentationObject" / f"{name}.png")
            save_palette(np.where(objects() == 2, 15, objects()), base / "SegmentationClass" / f"{name}.png")
    photograph(base / "JPEGImages" / "2008_000001.jpg")  # of no segmentation list
    return base


def test_voc_has_objects_and_ignores_their_borders(voc):
    for root in (voc, voc.parent, voc.parents[1]):
        assert len(open_data(root, split="train")) == 2
    data = open_data(voc, split="val")
    assert (data.describe()["kind"], len(data)) == ("voc", 1)
    wanted = np.where(objects() == 255, -1, objects())
    assert (data.read(2).mask == wanted).all()
    assert (data[0]["mask"].numpy() == wanted[:, 5:35]).all()
    assert set(np.unique(open_data(f"voc-classes:{voc}", split="all").read(2).mask)) == {-1, 0, 1, 15}
    both, alone = (
        open_data(spec, split="val", resolution=20, every_mask=True)[0] for spec in (voc, f"voc-classes:{voc}")
    )
    assert both["classes"].equal(alone["mask"]) and "classes" not in alone
    assert both["mask"].equal(open_data(voc, split="val", resolution=20)[0]["mask"])


def test_voc_without_classes_has_its_objects(voc):
    shutil.rmtree(voc / "SegmentationClass")
    assert "classes" not in open_data(voc, split="val", every_mask=True)[0]


def test_bad_voc_is_said_in_one_sentence(voc):
    with pytest.raises(DataError, match=r"split 'test' does not exist \(train 2, val 1\)"):
        open_data(voc, split="test")
    (voc / "SegmentationObject" / "2007_000032.png").unlink()
    with pytest.raises(DataError, match=r"SegmentationObject/2007_000032.png: the file is missing"):
        open_data(voc)[0]
    save_palette(np.full((HEIGHT, WIDTH), 21), voc / "SegmentationClass" / "2007_000032.png")
    with pytest.raises(DataError, match=r"2007_000032.png: id 21, at most 20 are known"):
        open_data(f"voc-classes:{voc}")[0]
    photograph(voc / "SegmentationClass" / "2007_000032.png")
    with pytest.raises(DataError, match=r"2007_000032.png: mode RGB instead of a palette image"):
        open_data(f"voc-classes:{voc}")[0]
    (voc.parent / "VOC2007" / "ImageSets" / "Segmentation").mkdir(parents=True)
    with pytest.raises(DataError, match="has VOC2007 and VOC2012; name one of these folders"):
        open_data(voc.parent)
    for path in (voc / "ImageSets" / "Segmentation").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="train.txt, val.txt and test.txt are missing or empty"):
        open_data(voc)


def test_davis_gives_frames_of_the_videos_of_a_split(tmp_path):
    base = tmp_path / "DAVIS"
    (base / "ImageSets" / "2017").mkdir(parents=True)
    for split, video in {"train": "bear", "val": "blackswan"}.items():
        (base / "ImageSets" / "2017" / f"{split}.txt").write_text(f"{video}\n")
        for frame in range(3):
            photograph(base / "JPEGImages" / "480p" / video / f"{frame:05d}.jpg", frame)
            save_palette(np.roll(objects(), frame), base / "Annotations" / "480p" / video / f"{frame:05d}.png")
    data = open_data(tmp_path, split="val")
    assert (data.describe()["kind"], len(data)) == ("davis", 3)
    assert data.name(data.rows[1]).endswith("blackswan/00001.jpg")
    moved = np.roll(objects(), 2)
    assert (data.read(data.rows[2]).mask == np.where(moved == 255, -1, moved)).all()
    (base / "ImageSets" / "2017" / "val.txt").write_text("blackswan\ncamel\n")
    with pytest.raises(DataError, match=r"480p/camel: no frames \(\*.jpg\)"):
        open_data(base)


def test_bsds_has_the_regions_of_one_of_its_annotators(tmp_path):
    base = tmp_path / "BSR" / "BSDS500" / "data"
    masks = [np.random.default_rng(seed).integers(1, 9, (HEIGHT, WIDTH)).astype(np.uint16) for seed in range(3)]
    for split, name in {"train": "100075", "val": "101085", "test": "100007"}.items():
        photograph(base / "images" / split / f"{name}.jpg")
        cells = np.empty((1, 3), dtype=object)
        for place, mask in enumerate(masks):
            cells[0, place] = {"Segmentation": mask, "Boundaries": np.zeros((HEIGHT, WIDTH), np.uint8)}
        (base / "groundTruth" / split).mkdir(parents=True)
        savemat(base / "groundTruth" / split / f"{name}.mat", {"groundTruth": cells})
    data = open_data(tmp_path, split="test", annotator=2)
    assert (data.describe()["kind"], data.describe()["annotator"], len(data)) == ("bsds", 2, 1)
    tool = loadmat(base / "groundTruth" / "test" / "100007.mat", simplify_cells=True)
    assert (data.read(2).mask == tool["groundTruth"][2]["Segmentation"]).all()
    assert data[0]["index"] == 100007
    every = open_data(tmp_path, split="all", every_mask=True, resolution=20, mask_resolution=10)
    assert every.describe()["annotator"] == "all"
    each = [open_data(tmp_path, split="test", annotator=place, resolution=10)[0]["mask"] for place in range(3)]
    assert every[2]["annotators"].equal(torch.stack(each))
    cells = np.empty((1, 1), dtype=object)  # another photograph has one annotator
    cells[0, 0] = {"Segmentation": masks[0]}
    savemat(base / "groundTruth" / "train" / "100075.mat", {"groundTruth": cells})
    assert (every.batch([0, 2])["annotators"][0, 1:] == -1).all()
    with pytest.raises(DataError, match=r"100007.mat: has 3 annotators; pass annotator= below that"):
        open_data(tmp_path, split="test", annotator=3)[0]
    with pytest.raises(ConfigError, match="annotator=-1: expected 0 or more"):
        open_data(tmp_path, annotator=-1)
    path = base / "groundTruth" / "train" / "100075.mat"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="not a ground truth of BSDS500"):
        open_data(tmp_path)[0]
    path.unlink()
    with pytest.raises(DataError, match="100075.mat: the file is missing"):
        open_data(tmp_path)[0]
