"""Each view in a real browser, as a user goes through it; what the page shows and the files that it gives."""

import base64
import io
import json
import re
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from test_intake import REFUSED, encoded

from slotlab.composition import ConceptLibrary
from slotlab.reporting.report import write_report


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()
    settle(page)


def settle(page):
    """Waits for Gradio, which sets what fields hold once more in the frame after it has shown them."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


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


def unfold(page, section, field):
    """Opens a section and gives a field of it, ready to be used."""
    page.get_by_role("button", name=section).first.click()
    field.wait_for()
    settle(page)
    return field


def upload(page, content, name="picture.png", field="sl-upload"):
    if not page.locator(f"#{field} input[type=file]").is_visible() and not page.locator(f"#{field}").is_visible():
        unfold(page, "Your picture", page.locator(f"#{field}"))
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
    unfold(page, "New scene", page.get_by_label("Seed").first).fill("123")
    page.locator("#sl-upload-render").click()
    expect(page.locator("#sl-look .sl-group-title")).to_have_text("Plain scene 123, 5 objects")
    upload(page, encoded(noise()))
    expect(page.locator("#sl-look .sl-group-title")).to_have_text("Your picture")
    expect(page.locator("#sl-look-scores")).to_contain_text("Nobody knows the true objects")
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
    picture = frame(page, "sl-look", "Picture").locator("img")
    for seed in range(2):
        before = picture.get_attribute("src")
        page.evaluate(paste, base64.b64encode(encoded(noise(seed=seed))).decode())
        expect(page.locator("#sl-look .sl-group-title")).to_have_text("Your picture")
        expect(picture).not_to_have_attribute("src", before)
        expect(page.get_by_text("Drop File Here").first).to_be_visible()


def test_what_cannot_be_looked_at_gets_a_sentence(visit):
    page = visit()
    for what in ("text", "cut off", "animation", "panorama", "bomb", "one pixel"):
        content, message = REFUSED[what]
        upload(page, content)
        toast = page.locator(".toast-body").last
        expect(toast).to_contain_text(message)
        expect(page.locator("body")).not_to_contain_text("Traceback")
        toast.locator(".toast-close").click()
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


def test_a_sampled_edit_shows_previews_and_can_be_stopped(visit, shelf):
    page = visit()
    choose_model(page, "diffusion")
    tab(page, "Edit")
    expect(page.locator("#sl-sampling")).to_be_visible()
    page.locator("#sl-edit .sl-slot").first.click()
    expect(page.locator("#sl-edit-status")).to_contain_text("Slot 0 is selected")  # the model set its steps before
    unfold(page, "How it is painted", page.get_by_label("number input for Steps")).fill("100")
    slowly = shelf[2].model.denoiser.register_forward_hook(lambda *_: time.sleep(0.1))
    try:
        page.locator("#sl-remove").click()
        expect(page.locator("#sl-edit-status")).to_contain_text(re.compile(r"step \d+ of 100"))
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
    expect(page.locator(".toast-body")).to_contain_text("Choose another picture first")
    page.locator("#sl-other-upload-examples .sl-card button").nth(1).click()
    page.locator("#sl-other .sl-slot").nth(2).click()
    page.locator("#sl-put").click()
    expect(status).to_contain_text("Slot 0 replaced by the other picture's slot 2")
    page.locator("#sl-add").click()
    expect(status).to_contain_text("slot 2 added as 4")
    expect(page.locator("#sl-edit .sl-slot")).to_have_count(5)
    page.locator("#sl-background").click()
    expect(status).to_contain_text("Background of the other picture")
    page.locator("#sl-draw").click()
    expect(status).to_contain_text("Slot 4 replaced by a member of concept 3")


# Compose


def test_concepts_are_put_together_kept_and_downloaded(visit, library):
    page = visit()
    tab(page, "Compose")
    expect(page.locator("#sl-concepts .sl-card")).to_have_count(4)
    page.locator("#sl-paint").click()
    expect(page.locator(".toast-body")).to_contain_text("Choose at least one concept first")
    for concept in (0, 2, 2):
        page.locator(f"#sl-concepts button[data-id='{concept}']").click()
    expect(page.locator("#sl-chosen .sl-card")).to_have_count(3)
    page.locator("#sl-paint").click()
    expect(page.locator("#sl-origins .sl-card")).to_have_count(3)
    expect(page.locator("#sl-origins")).to_contain_text(re.compile(r"image \d+, slot \d"))
    page.locator("#sl-keep").click()
    expect(page.locator("#sl-tray .sl-card")).to_have_count(1)
    page.locator("#sl-surprise").click()
    expect(page.locator("#sl-composed")).to_contain_text("seed 1")
    page.locator("#sl-keep").click()
    expect(page.locator("#sl-tray .sl-card")).to_have_count(2)
    name, content = download(page, "sl-save-tray")
    assert name == "compositions.zip"
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.namelist() == ["images/000000.png", "images/000001.png", "compositions.jsonl"]
    first, second = (json.loads(line) for line in archive.read("compositions.jsonl").splitlines())
    assert [part["concept"] for part in first["slots"]] == [0, 2, 2]
    assert (first["seed"], second["seed"], second["number"]) == (0, 1, 1)
    known = ConceptLibrary.load(library)
    rows = [part["row"] for part in first["slots"]]
    assert [int(known.concept[row]) for row in rows] == [0, 2, 2]
    page.locator("#sl-tray .sl-drop").first.click()
    expect(page.locator("#sl-tray .sl-card")).to_have_count(1)
    choose_model(page, "relative")
    expect(page.locator("#sl-compose-missing")).to_contain_text("There is no concept library of this model")


# Compare


def test_models_are_compared_on_one_picture(visit):
    page = visit()
    tab(page, "Compare")
    expect(page.locator("#sl-compare .sl-group-title")).to_have_text(["plain", "relative", "diffusion"])
    expect(page.locator("#sl-compare-scores tbody tr")).to_have_count(7)
    expect(page.locator("#sl-compare-scores")).to_contain_text("relative, posterior masks")
    coloured = page.locator("#sl-compare .sl-pane .sl-note", has_text="coloured by")
    expect(coloured).to_have_text([f"coloured by {masks} masks" for masks in ("decoder", "posterior", "attention")])
    expect(page.locator("#sl-compare-scores")).to_contain_text("diffusion, cross-attention masks")
    page.locator("#sl-compare .sl-frame").first.hover()
    for said in page.locator("#sl-compare .sl-said").all():
        expect(said).to_contain_text(re.compile(r"Slot \d: "))


# Runs


def test_runs_are_watched_while_they_train(visit, runs):
    page = visit()
    tab(page, "Runs")
    expect(page.locator("#sl-runs-table tbody tr")).to_have_count(len(list(runs.glob("*/run.json"))))
    expect(page.locator("#sl-runs-table")).to_contain_text("finished, 6 steps")
    page.locator("#sl-run input").click()
    page.get_by_role("option", name="diffusion", exact=True).click()
    curves = page.locator("#sl-curves img")
    expect(curves).to_have_attribute("alt", "Losses and scores of diffusion")
    expect(page.locator("#sl-preview figcaption")).to_have_text("Validation images of diffusion at step 6")
    before = curves.get_attribute("src")
    history = runs / "diffusion" / "history.csv"
    kept = history.read_text()
    try:
        history.write_text("\n".join(kept.splitlines()[:-1]) + "\n")
        expect(page.locator("#sl-runs-table")).to_contain_text("at step 3 of 6", timeout=20_000)
        assert curves.get_attribute("src") != before
    finally:
        history.write_text(kept)
    page.locator("#sl-show-report").click()
    expect(page.locator(".toast-body")).to_contain_text("This run has no report yet")
    page.locator("#sl-make-report").click()
    report = page.frame_locator("#sl-report iframe")
    expect(report.locator("h1")).to_contain_text("tiny-diffusion", timeout=30_000)


def test_the_report_is_complete_in_itself(visit, diffusion_run, tmp_path):
    alone = tmp_path / "report.html"
    alone.write_bytes(write_report(diffusion_run).read_bytes())
    page, asked = visit(alone.as_uri()), []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    assert {url for url in asked if not url.startswith("data:")} == {alone.as_uri()}
    expect(page.locator("h1")).to_contain_text("tiny-diffusion")
    loaded = page.locator("img").evaluate_all("all => all.map(one => one.complete && one.naturalWidth > 0)")
    assert loaded
    assert all(loaded)


# What it looks like


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_views_fit_their_window(visit, pictures_folder, width, dark):
    page = visit(width=width, dark=dark)
    for name, sign in {
        "Look": "#sl-look .sl-slot",
        "Edit": "#sl-edit .sl-slot",
        "Compose": "#sl-concepts .sl-card",
        "Compare": "#sl-compare .sl-frame",
        "Runs": "#sl-curves img",
    }.items():
        tab(page, name)
        page.locator(sign).first.wait_for()
        shade = "dark" if dark else "light"
        page.screenshot(path=pictures_folder / f"{name.lower()}-{width}-{shade}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shown = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", shown)[:3])) < 200) == dark
