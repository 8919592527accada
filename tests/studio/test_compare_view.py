"""Comparing models, in a browser."""

import re

from playwright.sync_api import expect
from visiting import tab


def test_models_are_compared_on_one_picture(visit):
    page = visit()
    tab(page, "Compare")
    expect(page.locator("#sl-compare .sl-group-title")).to_have_text(["plain", "posterior", "diffusion"])
    expect(page.locator("#sl-compare-scores tbody tr")).to_have_count(7)
    expect(page.locator("#sl-compare-scores")).to_contain_text("posterior, posterior masks")
    coloured = page.locator("#sl-compare .sl-pane .sl-note", has_text="coloured by")
    expect(coloured).to_have_text([f"coloured by {masks} masks" for masks in ("decoder", "posterior", "attention")])
    expect(page.locator("#sl-compare-scores")).to_contain_text("diffusion, cross-attention masks")
    page.locator("#sl-compare .sl-frame").first.hover()
    for said in page.locator("#sl-compare .sl-said").all():
        expect(said).to_contain_text(re.compile(r"Slot \d: "))
