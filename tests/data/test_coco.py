"""COCO in a miniature of its layout, compared with pycocotools."""

import json
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from slotlab.data import open_data
from slotlab.errors import ConfigError, DataError

WIDTH, HEIGHT = 40, 30


def square(left, top, side):
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def run_lengths(mask):
    """Uncompressed RLE: column by column, beginning with zeros."""
    flat = mask.T.ravel()
    ends = [*(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    starts = [0, *ends[:-1]]
    return {
        "size": list(mask.shape),
        "counts": [0] * int(flat[0]) + [int(b - a) for a, b in zip(starts, ends, strict=True)],
    }


@pytest.fixture
def coco(tmp_path):
    """coco/ with three images of val2017: overlapping polygons, RLE of both kinds, none."""
    root = tmp_path / "coco"
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    images = []
    for number in (139, 285, 632):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "val2017" / f"{number:012d}.jpg")
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": WIDTH, "height": HEIGHT})
    blob = np.zeros((HEIGHT, WIDTH), np.uint8)
    blob[8:20, 12:30] = 1
    packed = rle.encode(np.asfortranarray(blob))
    shapes = [
        (139, [square(10, 10, 6), square(20, 4, 3)], 0),  # one object of two parts
        (139, [square(8, 8, 16)], 0),  # larger: below it
        (285, packed | {"counts": packed["counts"].decode()}, 0),
        (285, run_lengths(np.roll(blob, 6, axis=0)), 1),  # a crowd
    ]
    annotations = [
        {
            "id": 7 + place,
            "image_id": image,
            "category_id": 1 + place % 2 * 17,
            "segmentation": shape,
            "iscrowd": crowd,
            "area": 1,
        }
        for place, (image, shape, crowd) in enumerate(shapes)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


def edited(root, change, name="instances_val2017.json"):
    path = root / "annotations" / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_masks_are_those_of_pycocotools_with_the_smaller_on_top_and_crowds_ignored(coco):
    data = open_data(coco, split="val", crop=1.0)
    assert (data.describe()["kind"], data.describe()["split"], len(data)) == ("coco", "val", 3)
    tool = COCO(str(coco / "annotations" / "instances_val2017.json"))
    small, large = (tool.annToMask(annotation).astype(bool) for annotation in tool.loadAnns([7, 8]))
    wanted = np.where(small, 1, np.where(large, 2, 0))
    assert (data.read(0).mask == wanted).all()
    ignoring = open_data(coco, split="val", overlaps="ignored")
    assert (ignoring.read(0).mask == np.where(small & large, -1, wanted)).all()
    assert (ignoring.read(2).mask == 0).all()
    assert ignoring.describe()["overlaps"] == "ignored" and "overlaps" not in data.describe()
    with pytest.raises(ConfigError, match="overlaps='smallest': expected smaller or ignored"):
        open_data(coco, split="val", overlaps="smallest")
    thing, crowd = (tool.annToMask(annotation).astype(bool) for annotation in tool.loadAnns([9, 10]))
    assert (data.read(1).mask == np.where(thing, 1, np.where(crowd, -1, 0))).all()
    assert (data.read(2).mask == 0).all()  # no annotations
    classes = open_data(f"coco-classes:{coco}", split="val")
    assert (classes.read(0).mask == np.where(small, 1, np.where(large, 18, 0))).all()
    assert (classes.read(1).mask == np.where(thing, 1, np.where(crowd, -1, 0))).all()
    both = open_data(coco, split="val", resolution=20, every_mask=True).batch([0, 1, 2])
    alone = open_data(f"coco-classes:{coco}", split="val", resolution=20, every_mask=True).batch([0, 1, 2])
    assert both["classes"].equal(alone["mask"]) and "classes" not in alone
    assert both["mask"].equal(open_data(coco, split="val", resolution=20).batch([0, 1, 2])["mask"])
    sample = data[1]
    assert sample["index"] == 285
    assert (sample["mask"].numpy() == data.read(1).mask[:, 5:35]).all()


def test_classes_may_be_counted_from_0_or_be_missing(coco):
    whole = open_data(coco, split="val", every_mask=True).read(0)
    edited(coco, lambda content: content["annotations"][0].update(category_id=0))
    shifted = open_data(coco, split="val", every_mask=True).read(0)
    assert (shifted.more["classes"] == np.where(whole.mask == 1, 1, np.where(whole.mask == 2, 19, 0))).all()
    edited(coco, lambda content: content["annotations"][0].pop("category_id"))
    alone = open_data(coco, split="val", every_mask=True).read(0)
    assert (alone.mask == whole.mask).all() and not alone.more
    with pytest.raises(DataError, match=r"val2017.json: not every annotation has a 'category_id'; open it as coco:"):
        open_data(f"coco-classes:{coco}", split="val")


def test_a_json_file_alone_is_enough(coco, tmp_path):
    found = open_data(coco / "annotations" / "instances_val2017.json", split="val")
    assert len(found) == 3
    elsewhere = tmp_path / "mine.json"
    elsewhere.write_bytes((coco / "annotations" / "instances_val2017.json").read_bytes())
    with pytest.raises(
        DataError, match=r"its first image 0+139.jpg is not in .*; unpack the images there, or pass images="
    ):
        open_data(elsewhere)
    mine = open_data(elsewhere, images=coco / "val2017", split="all")
    assert (mine.read(0).mask == found.read(0).mask).all()


def test_what_segment_writes_can_be_read_back(coco, tmp_path):
    from slotlab.segmenting import Photo, write_formats

    masks = np.random.default_rng(0).integers(0, 4, (HEIGHT, WIDTH))
    photos = [Photo(path, path.stem, masks) for path in sorted((coco / "val2017").iterdir())]
    write_formats(["coco"], photos, tmp_path / "out")
    data = open_data(tmp_path / "out" / "coco.json", images=coco / "val2017", split="all")
    assert (data.read(2).mask == masks + 1).all()


def panoptic(root):
    """Adds panoptic annotations: a thing, stuff, a crowd and unlabelled pixels."""
    segments = np.zeros((HEIGHT, WIDTH), int)
    segments[:15], segments[5:10, 5:12], segments[20:25] = 70000, 300, 5
    folder = root / "annotations" / "panoptic_val2017"
    folder.mkdir()
    colours = np.stack([segments % 256, segments // 256 % 256, segments // 65536], axis=2)
    Image.fromarray(colours.astype(np.uint8)).save(folder / "000000000139.png")
    annotation = {
        "image_id": 139,
        "file_name": "000000000139.png",
        "segments_info": [
            {"id": 70000, "category_id": 2, "iscrowd": 0},
            {"id": 300, "category_id": 1, "iscrowd": 0},
            {"id": 5, "category_id": 1, "iscrowd": 1},
        ],
    }
    instances = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    kinds = [{"id": 1, "name": "thing", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
    content = {"images": instances["images"], "annotations": [annotation], "categories": kinds}
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content))
    return segments


def test_panoptic_segments_are_things_and_stuff_and_the_rest_is_ignored(coco):
    segments = panoptic(coco)
    spec = f"coco-panoptic:{coco}"
    wanted = np.select([segments == 70000, segments == 300], [1, 2], -1)
    whole = open_data(spec, split="val", every_mask=True).read(0)
    assert (whole.mask == wanted).all()
    assert (whole.more["classes"] == np.select([segments == 70000, segments == 300], [2, 1], -1)).all()
    wanted = np.select([segments == 70000, segments == 300], [0, 1], -1)
    things = open_data(spec, split="val", stuff=False, every_mask=True).read(0)
    assert (things.mask == wanted).all() and (things.more["classes"] == wanted).all()
    with pytest.raises(DataError, match="no annotation of image 285"):
        open_data(spec, split="val").read(1)
    edited(coco, lambda content: content["annotations"][0]["segments_info"].pop(), "panoptic_val2017.json")
    with pytest.raises(DataError, match=r"139.png: has the segment 5, which panoptic_val2017.json does not list"):
        open_data(spec, split="val").read(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotations"), "has no annotations; take a file instances_"),
        (lambda c: c.update(annotations=[]), "has no annotations"),
        (lambda c: c.pop("images"), "has no images"),
        (lambda c: c["images"][1].pop("width"), r"images\[1\] has no 'width'"),
        (lambda c: c["annotations"][0].pop("segmentation"), "its annotations have no 'segmentation'"),
        (lambda c: c["annotations"][1].update(segmentation=[[1, 2]]), "annotation 8 of image 139: its segmentation"),
        (lambda c: c["annotations"][1].update(segmentation=[]), "polygons or an RLE are expected"),
        (lambda c: c["annotations"][1].update(segmentation=None), "polygons or an RLE are expected"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [30, 40], "counts": [5, 9]}), "not 1200 pixels"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [4, 4], "counts": "04"}), "its RLE is of size"),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [30, 40], "counts": "QQ"}),
            "annotation 7 of image",
        ),
        (lambda c: c["images"][0].update(width=WIDTH + 1), "41x30 pixels, but its image"),
        (lambda c: c["images"][0].update(file_name="gone.jpg"), "gone.jpg"),
    ],
)
def test_bad_annotations_are_said_in_one_sentence(coco, change, message):
    edited(coco, change)
    with pytest.raises(DataError, match=message):
        open_data(coco, split="val").read(0)


def test_damaged_run_lengths_never_reach_pycocotools(coco):
    """It would end the process."""
    random = np.random.default_rng(0)
    good = json.loads((coco / "annotations" / "instances_val2017.json").read_text())["annotations"][2]["segmentation"]
    data = open_data(coco, split="val")
    for _ in range(300):
        counts = list(good["counts"])
        for place in random.integers(0, len(counts), 3):
            counts[place] = chr(random.integers(48, 112))
        data._found[285][0]["segmentation"] = good | {"counts": "".join(counts)}
        with suppress(DataError):
            assert data.read(1).mask.shape == (HEIGHT, WIDTH)


def test_a_split_that_is_not_there_is_named(coco):
    with pytest.raises(DataError, match=r"split 'train' does not exist \(val 3\)"):
        open_data(coco)
    (coco / "annotations" / "instances_minival.json").write_text("{}")
    (coco / "annotations" / "instances_val.json").write_text("{}")
    with pytest.raises(DataError, match="is of the same split; name the JSON file"):
        open_data(coco)
