"""Composing from concepts, in a browser: what is put together, kept and downloaded."""

import io
import json
import re
import zipfile

from playwright.sync_api import expect
from visiting import choose_model, download, tab

from slotlab.composition import ConceptLibrary


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
    pictures = page.locator("#sl-upload-section")
    tab(page, "Look")
    expect(pictures).to_be_visible()
    tab(page, "Compose")
    expect(pictures).to_be_hidden()  # until then all below it is about to move, away from under the pointer
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
    choose_model(page, "posterior")
    expect(page.locator("#sl-compose-missing")).to_contain_text("There is no concept library of this model")
