"""Segments in the formats of other tools, read back as those tools read them."""

import json
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from skimage.draw import polygon2mask

from slotlab.errors import ConfigError, DataError
from slotlab.segmenting.formats import FORMATS, Photo, write_formats


@pytest.fixture
def photo(tmp_path):
    """A photograph with segments: a frame with a hole, a disk, two regions and a part unseen."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = tmp_path / "photos" / "trip" / "park.png"
    image.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(image)
    y, x = np.mgrid[:60, :80]
    mask = np.zeros((60, 80), int)
    mask[(x - 30) ** 2 + (y - 28) ** 2 < 200] = 1
    mask[5:12, 60:75] = mask[40:52, 58:70] = 3  # one segment, two regions
    mask[:, 78:] = -1
    return Photo(image, "trip/park", mask)


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def filled(points, shape):
    return polygon2mask(shape, np.asarray(points)[:, ::-1] - 0.5)  # the centre of a pixel is at +0.5


def test_coco_is_read_by_pycocotools(photo, tmp_path):
    from pycocotools.coco import COCO

    other = Photo(photo.image.with_name("lake.jpg"), "lake", np.full((3, 5), 2))
    write_formats(["coco"], [photo, other], tmp_path / "out")
    coco = COCO(str(tmp_path / "out" / "coco.json"))
    images = coco.loadImgs(coco.getImgIds())
    assert [image["file_name"] for image in images] == ["trip/park.png", "lake.jpg"]
    assert [(image["width"], image["height"]) for image in images] == [(80, 60), (5, 3)]
    found = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [annotation["segment"] for annotation in found] == [0, 1, 3]
    for annotation in found:
        inside = photo.mask == annotation["segment"]
        assert (coco.annToMask(annotation).astype(bool) == inside).all()
        assert annotation["area"] == inside.sum()
        rows, columns = np.nonzero(inside)
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
    assert {category["id"] for category in coco.loadCats(coco.getCatIds())} == {1}


def test_yolo_has_one_polygon_per_segment_in_fractions(photo, tmp_path):
    write_formats(["yolo"], [photo], tmp_path / "out")
    lines = (tmp_path / "out" / "yolo" / "labels" / "trip" / "park.txt").read_text().splitlines()
    for line, segment in zip(lines, (0, 1, 3), strict=True):
        kind, *numbers = line.split()
        polygon = np.array(numbers, float).reshape(-1, 2)
        assert kind == "0" and polygon.min() >= 0 and polygon.max() <= 1
        assert overlap(filled(polygon * (80, 60), (60, 80)), photo.mask == segment) > 0.97
    about = yaml.safe_load((tmp_path / "out" / "yolo" / "data.yaml").read_text())
    assert about["names"] == {0: "object"}


def test_labelme_has_a_polygon_per_region_and_finds_its_photograph(photo, tmp_path):
    write_formats(["labelme"], [photo], tmp_path / "out")
    path = tmp_path / "out" / "labelme" / "trip" / "park.json"
    content = json.loads(path.read_text())
    assert (path.parent / content["imagePath"]).resolve() == photo.image
    assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (60, 80, None)
    assert [shape["label"] for shape in content["shapes"]] == ["object 0", "object 1", "object 3", "object 3"]
    masks = {number: np.zeros((60, 80), bool) for number in (0, 1, 3)}
    for shape in content["shapes"]:
        assert shape["shape_type"] == "polygon"
        masks[shape["group_id"]] |= filled(shape["points"], (60, 80))
    for segment, mask in masks.items():
        assert overlap(mask, photo.mask == segment) > 0.97


def test_cutouts_keep_the_pixels_of_their_segment_and_replace_older_ones(photo, tmp_path):
    out = tmp_path / "out"
    write_formats(["cutouts"], [photo._replace(mask=np.full((60, 80), 9))], out)
    write_formats(["cutouts"], [photo], out)
    found = sorted(path.name for path in (out / "trip").glob("*.png"))
    assert found == ["park_cutout_0.png", "park_cutout_1.png", "park_cutout_3.png"]
    pixels, inside = np.asarray(Image.open(photo.image)), photo.mask == 3
    cut = np.asarray(Image.open(out / "trip" / "park_cutout_3.png"))
    assert cut.shape == (47, 17, 4)  # the box of the segment
    assert (cut[..., 3] == 255 * inside[5:52, 58:75]).all()
    assert (cut[..., :3] == (pixels * inside[..., None])[5:52, 58:75]).all()


def test_the_smallest_segments_and_empty_masks_are_written(photo, tmp_path):
    for mask in (np.full((4, 4), -1), np.arange(16).reshape(4, 4)):
        write_formats(["coco", "yolo", "labelme"], [photo._replace(mask=mask, name="small")], tmp_path)
        lines = (tmp_path / "yolo" / "labels" / "small.txt").read_text().splitlines()
        assert len(lines) == (mask.max() + 1)
        assert all(len(line.split()) >= 7 for line in lines)


def test_what_cannot_be_written_is_said_in_one_sentence(photo, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="format: unknown 'cocoa'; did you mean 'coco'?"):
        write_formats(["cocoa"], [photo], tmp_path)
    with pytest.raises(DataError, match="4x4 pixels, but its image .*park.png has 80x60"):
        write_formats(["cutouts"], [photo._replace(mask=np.zeros((4, 4), int))], tmp_path)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    for name in set(FORMATS) - {"cutouts"}:
        with pytest.raises(ConfigError, match=rf"format {name}: .*pip install 'slotlab\[vision\]'"):
            write_formats([name], [photo], tmp_path)
