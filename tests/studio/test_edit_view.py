"""Editing in a browser: objects taken away, brought back, moved, and put in from elsewhere."""

import io
import re
import time
import zipfile

import numpy as np
from PIL import Image
from playwright.sync_api import expect
from visiting import choose_model, click_at, download, frame, pressed, tab, unfold


def test_objects_are_removed_and_brought_back(visit):
    page = visit()
    tab(page, "Edit")
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(4)
    page.locator("#sl-remove").click()
    expect(page.locator(".toast-body")).to_contain_text("Select an object first")
    click_at(page, "sl-edit", "After", 0.5, 0.5)
    status = page.locator("#sl-edit-status")
    expect(status).to_contain_text(re.compile(r"Slot \d"))
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
    assert Image.open(io.BytesIO(content)).size == (512, 512)
    name, content = download(page, "sl-save-npz")
    assert name == "slots.npz"
    arrays = np.load(io.BytesIO(content))
    assert arrays["numbers"].tolist() == [number for number in range(4) if number != int(slot)]
    assert arrays["changed"].tolist() == [int(slot)]
    name, content = download(page, "sl-save-all")
    files = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert sorted(files) == ["edit.png", "edited.png", "mask.png", "slots.npz"]
    choose_model(page, "posterior")
    expect(status).to_have_text("Nothing is selected.")
    tab(page, "Look")
    choose_model(page, "plain")  # its edit was kept
    expect(page.locator("#sl-look .sl-group")).to_contain_text("plain: slot autoencoder")
    chips = "all => all.map(one => [one.nextSibling.textContent, one.style.background])"
    looked = dict(page.locator("#sl-look .sl-chip").evaluate_all(chips))
    tab(page, "Edit")
    expect(status).to_contain_text(f"Slot {slot} removed")
    edited = dict(page.locator("#sl-edit .sl-chip").evaluate_all(chips))
    assert all(looked[slot] in (colour, "transparent") for slot, colour in edited.items())
    page.locator("#sl-undo").click()
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(4)
    assert after.get_attribute("src") == unedited
    page.locator("#sl-redo").click()
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(3)
    assert after.get_attribute("src") == removed
    page.locator("#sl-edit .sl-slot").first.click()
    page.locator("#sl-duplicate").click()
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(4)
    expect(page.locator("#sl-move")).to_be_hidden()
    expect(page.locator("#sl-resize")).to_be_hidden()


def test_the_keys_remove_and_bring_back(visit):
    page = visit()
    tab(page, "Edit")
    slots, status = page.locator("#sl-edit .sl-slot"), page.locator("#sl-edit-status")
    click_at(page, "sl-edit", "After", 0.5, 0.5)
    expect(status).to_contain_text("is selected")
    page.keyboard.press("Delete")
    expect(slots).to_have_count(3)
    page.keyboard.press("Control+z")
    expect(slots).to_have_count(4)
    page.keyboard.press("Control+y")
    expect(slots).to_have_count(3)
    slots.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(status).to_contain_text("is selected")
    page.keyboard.press("Delete")
    expect(slots).to_have_count(2)


def test_objects_are_moved_and_resized_if_the_model_can(visit):
    page = visit()
    choose_model(page, "posterior")
    tab(page, "Edit")
    page.locator("#sl-edit .sl-slot").first.click()
    page.locator("#sl-move").click()
    expect(page.locator("#sl-edit .sl-said")).to_contain_text("click where the centre of slot 0 should be")
    click_at(page, "sl-edit", "After", 0.22, 0.72)
    expect(page.locator("#sl-edit-status")).to_contain_text("Slot 0 moved")
    assert pressed(page, "sl-edit") == ["0"]
    page.get_by_label("number input for Size").fill("1.5")
    page.locator("#sl-resize").click()
    expect(page.locator("#sl-edit-status")).to_contain_text("resized by 1.5")
    assert np.load(io.BytesIO(download(page, "sl-save-npz")[1]))["slots"][0, 2] == 1.5


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


def test_a_sampled_edit_shows_previews_and_can_be_stopped(visit, models):
    page = visit()
    choose_model(page, "diffusion")
    tab(page, "Edit")
    expect(page.locator("#sl-sampling")).to_be_visible()
    page.locator("#sl-edit .sl-slot").first.click()
    expect(page.locator("#sl-edit-status")).to_contain_text("Slot 0 is selected")  # the model set its steps before
    unfold(page, "Sampling", page.get_by_label("number input for Steps")).fill("100")
    slowly = models[2].model.denoiser.register_forward_hook(lambda *_: time.sleep(0.1))
    try:
        page.locator("#sl-remove").click()
        expect(page.locator("#sl-edit-status")).to_contain_text(re.compile(r"step \d+ of 100"))
        page.locator("#sl-undo").click()
        expect(page.locator(".toast-body")).to_contain_text("There is nothing to undo")
        page.locator("#sl-again").click()
        expect(page.locator(".toast-body").last).to_contain_text("The last edit is still being painted")
        page.locator("#sl-stop").click()
        expect(page.locator("#sl-edit-status")).to_contain_text("Stopped; nothing was changed")
    finally:
        slowly.remove()
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(4)
    page.get_by_label("number input for Steps").fill("3")
    page.locator("#sl-remove").click()
    expect(page.locator("#sl-edit-status")).to_contain_text("Slot 0 removed")
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(3)
    expect(page.locator("#sl-stop")).to_be_hidden()


def test_objects_come_from_other_pictures_and_concepts(visit):
    page = visit()
    tab(page, "Edit")
    page.locator("#sl-edit .sl-slot").first.click()
    status = page.locator("#sl-edit-status")
    unfold(page, "Objects from elsewhere", page.locator("#sl-put")).click()
    expect(page.locator(".toast-body")).to_contain_text("Choose another image first")
    page.locator("#sl-other-upload-examples .sl-card button").nth(1).click()
    page.locator("#sl-other .sl-slot").nth(2).click()
    page.locator("#sl-put").click()
    expect(status).to_contain_text("Slot 0 replaced by slot 2 of the other image")
    page.locator("#sl-add").click()
    expect(status).to_contain_text("added as slot 4")
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(5)
    page.locator("#sl-background").click()
    expect(status).to_contain_text("Background of the other image")
    page.locator("#sl-draw").click()
    expect(status).to_contain_text("Slot 4 replaced by a member of concept 3")
