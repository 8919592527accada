"""YouTube-VIS in a miniature of its layout, compared with pycocotools."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from slotlab.data import Clips, open_data
from slotlab.errors import DataError

HEIGHT, WIDTH = 20, 30
POLYGON = [[2, 3, 12, 3, 12, 9, 2, 9]]


def blob(left):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[4:14, left : left + 8] = 1
    return mask


def uncompressed(mask):
    flat = mask.T.ravel()
    ends = [*(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    counts = np.diff([0, *ends]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *counts] if flat[0] else counts}


@pytest.fixture
def vis(tmp_path):
    """Two videos; the first has two objects, of which one comes late and one leaves."""
    root = tmp_path / "youtube-vis"
    videos = []
    for number, (name, frames) in enumerate({"0043f083b5": 3, "0062f687f1": 2}.items(), 1):
        names = [f"{name}/{5 * frame:05d}.jpg" for frame in range(frames)]
        videos.append({"id": number, "file_names": names, "width": WIDTH, "height": HEIGHT, "length": frames})
        for part in ("train", "valid"):
            for place in names:
                path = root / part / "JPEGImages" / place
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (WIDTH, HEIGHT), (number * 40,) * 3).save(path)
    packed = rle.encode(blob(15))
    shapes = [
        (1, [None, uncompressed(blob(5)), packed | {"counts": packed["counts"].decode()}]),
        (1, [POLYGON, POLYGON, None]),
        (2, [None, uncompressed(blob(0))]),
    ]
    objects = [
        {"id": number, "video_id": video, "category_id": 4, "iscrowd": 0, "segmentations": shape}
        for number, (video, shape) in enumerate(shapes, 1)
    ]
    (root / "train.json").write_text(json.dumps({"videos": videos, "annotations": objects, "categories": []}))
    (root / "valid" / "instances.json").write_text(json.dumps({"videos": videos, "categories": []}))
    return root


def test_masks_are_those_of_pycocotools_and_ids_stay(vis):
    data = open_data(vis, split="train")
    polygon = rle.decode(rle.merge(rle.frPyObjects(POLYGON, HEIGHT, WIDTH))) > 0
    first, second = blob(5) > 0, blob(15) > 0
    small, large = (polygon, first) if polygon.sum() < first.sum() else (first, polygon)
    both = np.where(small, 1 + (small is polygon), np.where(large, 1 + (large is polygon), 0))
    wanted = [np.where(polygon, 2, 0), both, np.where(second, 1, 0), np.zeros((HEIGHT, WIDTH)), blob(0) > 0]
    assert data.describe()["kind"] == "youtube-vis" and len(data) == 5
    for row, mask in enumerate(wanted):
        assert (data.read(row).mask == mask).all(), row


def test_its_videos_are_clips(vis):
    data = open_data(f"clips:youtube-vis:{vis}", split="all", frames=2, resolution=16)
    assert isinstance(data, Clips) and not data.has_masks  # valid has no annotations
    named = open_data(f"clips:youtube-vis:{vis / 'train.json'}", split="train", frames=2, resolution=16)
    assert named.has_masks and len(named) == 2
    assert set(named[0]["mask"].unique().tolist()) == {0, 1, 2}
    (vis / "train.json").rename(vis / "train" / "instances.json")
    by_order = open_data(f"clips:youtube-vis:{vis / 'train' / 'instances.json'}", frames=1, resolution=16)
    assert {split: len(rows) for split, rows in by_order.splits.items()} == {"test": 0, "val": 1, "train": 4}


def test_a_split_without_annotations_has_no_masks(vis):
    data = open_data(vis, split="val")
    assert len(data) == 5 and "mask" not in data[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("videos"), "train.json: has no videos; take a JSON file of YouTube-VIS"),
        (lambda c: c["videos"][1].pop("file_names"), r"videos\[1\] has no 'file_names'"),
        (lambda c: c["annotations"][0].pop("segmentations"), r"annotations\[0\] has no 'segmentations'"),
        (lambda c: c["annotations"][0]["segmentations"].pop(), "of video 1 has 2 segmentations for 3 frames"),
        (lambda c: c["annotations"][1].update(segmentations=[[[1, 2]]] * 3), "its segmentation cannot be read"),
        (lambda c: c["videos"][0].update(file_names=["gone.jpg"] * 3), "gone.jpg is not in .*JPEGImages"),
    ],
)
def test_bad_annotations_are_said_in_one_sentence(vis, change, message):
    path = vis / "train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        open_data(vis, split="train").read(0)


def test_a_json_file_opened_as_coco_names_the_kind(vis):
    with pytest.raises(DataError, match="has no images; open it as youtube-vis:"):
        open_data(vis / "train.json")
