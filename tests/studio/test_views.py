"""Each view in a real browser, as a user goes through it; what the page shows and the files that it gives."""

import io
import re
import zipfile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from test_intake import REFUSED, encoded


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()


def frame(page, figure, pane):
    return page.locator(f"#{figure} .sl-frame[data-pane='{pane}']")


def click_at(page, figure, pane, x, y):
    """Clicks at a place of a pane, in fractions of its side."""
    found = frame(page, figure, pane)
    box = found.bounding_box()
    found.click(position={"x": x * box["width"], "y": y * box["height"]})


def pressed(page, figure):
    return page.locator(f"#{figure} .sl-slot[aria-pressed=true]").evaluate_all(
        "all => all.map(one => one.dataset.slot)"
    )


def choose_model(page, name):
    page.locator("#sl-model input").click()
    page.get_by_role("option", name=name, exact=True).click()


def upload(page, content, name="picture.png", field="sl-upload"):
    if not page.locator(f"#{field} input[type=file]").is_visible() and not page.locator(f"#{field}").is_visible():
        page.get_by_role("button", name="Your picture").first.click()
    page.locator(f"#{field} input[type=file]").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


def download(page, button):
    with page.expect_download() as coming:
        page.locator(f"#{button}").click()
    given = coming.value
    return given.suggested_filename, given.path().read_bytes()


def noise(side=32, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


# Look


def test_something_is_seen_before_the_first_click(visit):
    page = visit()
    expect(page.locator("#sl-look .sl-slot")).to_have_count(4)
    expect(page.locator("#sl-look .sl-frame")).to_have_count(5)
    for number in range(5):
        assert page.locator("#sl-look .sl-frame img").nth(number).evaluate("image => image.naturalWidth") == 16
    table = page.locator("#sl-look-scores")
    for said in ("ARI", "FG-ARI", "mIoU", "mBO", "decoder masks", "attention masks", "PSNR"):
        expect(table).to_contain_text(said)


def test_the_slot_under_the_pointer_is_selected_everywhere(visit):
    page = visit()
    expect(page.locator("#sl-look .sl-slot")).to_have_count(4)
    said = page.locator("#sl-look .sl-said")
    frame(page, "sl-look", "Error").hover()
    expect(said).to_contain_text(re.compile(r"Slot \d: .* of the picture"))
    assert page.locator("#sl-look .sl-slot.sl-hovered").count() == 1
    page.mouse.move(0, 0)
    expect(said).to_contain_text("Point at an object")
    click_at(page, "sl-look", "Reconstruction", 0.5, 0.5)
    (slot,) = pressed(page, "sl-look")
    expect(said).to_contain_text(f"Slot {slot}")
    marked = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
    assert frame(page, "sl-look", "Error").locator(".sl-mark").evaluate(marked)
    page.keyboard.press("Tab")
    page.locator("#sl-look .sl-slot").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert pressed(page, "sl-look") == ["1"]
    page.keyboard.press("Escape")
    assert pressed(page, "sl-look") == []


def test_the_sliders_change_what_is_drawn(visit):
    page = visit()
    opacity, iteration = page.locator("#sl-look input[type=range]").all()
    tint = "canvas => canvas.toDataURL()"
    overlay = page.locator("#sl-look .sl-tint").first
    attention = frame(page, "sl-look", "Slot attention").locator(".sl-tint")
    before, last = overlay.evaluate(tint), attention.evaluate(tint)
    iteration.fill("1")
    assert attention.evaluate(tint) != last
    assert overlay.evaluate(tint) == before
    opacity.fill("0")
    assert overlay.evaluate(tint) != before
    expect(page.locator("#sl-look")).to_contain_text("1 of 3")


def test_new_scenes_and_own_pictures_are_looked_at(visit):
    page = visit()
    page.get_by_role("button", name="New scene").click()
    page.get_by_label("Seed").first.fill("123")
    page.locator("#sl-upload-render").click()
    expect(page.locator("#sl-look .sl-group-title")).to_have_text("Plain scene 123, 5 objects")
    upload(page, encoded(noise()))
    expect(page.locator("#sl-look .sl-group-title")).to_have_text("Your picture")
    expect(page.locator("#sl-look-scores")).to_contain_text("Nobody knows the true objects")
    name, content = download(page, "sl-look-save")
    assert name == "plain.png"
    assert Image.open(io.BytesIO(content)).width > 500


def test_what_cannot_be_looked_at_gets_a_sentence(visit):
    page = visit()
    page.get_by_role("button", name="Your picture").click()
    for what in ("text", "cut off", "animation", "panorama", "bomb", "one pixel"):
        content, message = REFUSED[what]
        upload(page, content)
        toast = page.locator(".toast-body").last
        expect(toast).to_contain_text(message)
        expect(page.locator("body")).not_to_contain_text("Traceback")
        toast.locator(".toast-close").click()
        page.locator("#sl-upload").get_by_label("Clear").click()
    expect(page.locator("#sl-look .sl-group-title")).to_have_text("Plain scene 3, 5 objects")


# Edit


def test_objects_are_removed_and_brought_back(visit):
    page = visit()
    tab(page, "Edit")
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(4)
    page.locator("#sl-remove").click()
    expect(page.locator(".toast-body")).to_contain_text("Select an object first")
    click_at(page, "sl-edit", "After", 0.5, 0.5)
    status = page.locator("#sl-edit-status")
    expect(status).to_contain_text("is selected")
    slot = re.search(r"Slot (\d)", status.inner_text())[1]
    assert pressed(page, "sl-edit") == [slot]
    after = frame(page, "sl-edit", "After").locator("img")
    unedited = after.get_attribute("src")
    page.locator("#sl-remove").click()
    expect(status).to_contain_text(f"Slot {slot} removed")
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(3)
    removed = after.get_attribute("src")
    assert removed != unedited
    name, content = download(page, "sl-save-png")
    assert name == "edited.png"
    assert Image.open(io.BytesIO(content)).size == (16, 16)
    name, content = download(page, "sl-save-npz")
    assert name == "slots.npz"
    arrays = np.load(io.BytesIO(content))
    assert arrays["numbers"].tolist() == [number for number in range(4) if number != int(slot)]
    assert arrays["changed"].tolist() == [int(slot)]
    name, content = download(page, "sl-save-all")
    assert sorted(zipfile.ZipFile(io.BytesIO(content)).namelist()) == [
        "edit.png",
        "edited.png",
        "mask.png",
        "slots.npz",
    ]
    page.locator("#sl-undo").click()
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(4)
    assert after.get_attribute("src") == unedited
    page.locator("#sl-redo").click()
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(3)
    assert after.get_attribute("src") == removed
    page.locator("#sl-edit .sl-slot").first.click()
    page.locator("#sl-duplicate").click()
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(4)
    expect(page.locator("#sl-no-poses")).to_contain_text("not with this model")
    expect(page.locator("#sl-move")).to_be_disabled()


def test_objects_are_moved_where_slots_have_places(visit):
    page = visit()
    choose_model(page, "relative")
    tab(page, "Edit")
    expect(page.locator("#sl-move")).to_be_enabled()
    expect(page.locator("#sl-no-poses")).to_be_hidden()
    page.locator("#sl-edit .sl-slot").first.click()
    page.locator("#sl-move").click()
    expect(page.locator("#sl-edit .sl-said")).to_contain_text("click where the centre of slot 0 shall be")
    click_at(page, "sl-edit", "After", 0.22, 0.72)
    expect(page.locator("#sl-edit-status")).to_contain_text("Slot 0 moved")
    x, y = np.load(io.BytesIO(download(page, "sl-save-npz")[1]))["poses"][0, :2]
    assert (x + 1) / 2 == pytest.approx(0.22, abs=0.04)
    assert (y + 1) / 2 == pytest.approx(0.72, abs=0.04)
    assert pressed(page, "sl-edit") == ["0"]
    page.get_by_label("number input for Size").fill("1.5")
    page.locator("#sl-resize").click()
    expect(page.locator("#sl-edit-status")).to_contain_text("resized by 1.5")


def test_edits_of_two_users_do_not_mix(visit):
    one, two = visit(), visit()
    for page in (one, two):
        tab(page, "Edit")
        expect(page.locator("#sl-edit .sl-slot")).to_have_count(4)
    for page, slot in ((one, 0), (two, 2)):
        page.locator("#sl-edit .sl-slot").nth(slot).click()
    for page in (one, two):
        page.locator("#sl-remove").click()
    for page, slot in ((one, 0), (two, 2)):
        expect(page.locator("#sl-edit-status")).to_contain_text(f"Slot {slot} removed")
        numbers = np.load(io.BytesIO(download(page, "sl-save-npz")[1]))["numbers"].tolist()
        assert numbers == [number for number in range(4) if number != slot]
