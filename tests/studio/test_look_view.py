"""Looking at an image in a browser: the slot under the pointer, own images, scenes, bad files."""

import base64
import io
import re

from PIL import Image
from playwright.sync_api import expect
from visiting import click_at, download, frame, noise, pressed, unfold, upload


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
    expect(said).to_contain_text(re.compile(r"Slot \d: .* of the image"))
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
    unfold(page, "New scene", page.get_by_label("Seed").first).fill("123")
    page.locator("#sl-upload-render").click()
    expect(page.locator("#sl-look .sl-group-title")).to_have_text("Textured scene 123, 5 objects")
    upload(page, noise())
    expect(page.locator("#sl-look .sl-group-title")).to_have_text("Your image")
    expect(page.locator("#sl-look-scores")).to_contain_text("–")
    name, content = download(page, "sl-look-save")
    assert name == "plain.png"
    assert Image.open(io.BytesIO(content)).width > 500


def test_pictures_are_pasted_one_after_another(visit):
    page = visit()
    paste = """content => {
        const carried = new DataTransfer();
        const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
        carried.items.add(new File([bytes], "pasted.png", {type: "image/png"}));
        document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: carried}));
    }"""
    picture = frame(page, "sl-look", "Image").locator("img")
    for seed in range(2):
        before = picture.get_attribute("src")
        page.evaluate(paste, base64.b64encode(noise(seed=seed)).decode())
        expect(page.locator("#sl-look .sl-group-title")).to_have_text("Your image")
        expect(picture).not_to_have_attribute("src", before)
        expect(page.get_by_text("Drop File Here").first).to_be_visible()


def test_what_cannot_be_looked_at_gets_a_sentence(visit):
    page = visit()
    refused = {
        b"hello": "it is not a file of PNG, JPEG",
        noise(64)[:900]: "This image: it cannot be decoded",
        noise(1): "at least 16 on a side",
    }
    for content, message in refused.items():
        upload(page, content)
        toast = page.locator(".toast-body").last
        expect(toast).to_contain_text(message)
        expect(page.locator("body")).not_to_contain_text("Traceback")
        toast.locator(".toast-close").click()
    expect(page.locator("#sl-look .sl-group-title")).to_have_text("Textured scene 22, 5 objects")
