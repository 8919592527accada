"""How the views look: each fits its window, on a desk and on a phone, light and dark."""

import re

import pytest
from playwright.sync_api import expect
from visiting import tab


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_views_fit_their_window(visit, pictures_folder, width, dark):
    page = visit(width=width, dark=dark)
    upload = page.locator("#sl-upload").bounding_box()
    tabs = page.get_by_role("tab", name="Look").bounding_box()
    assert upload["y"] + upload["height"] < 800
    assert width > 1000 or tabs["y"] > upload["y"], "on a phone the choosers come first"
    for name, sign in {
        "Look": "#sl-look .sl-slot",
        "Photo": "#sl-photo .sl-slot",
        "Clip": "#sl-clip .sl-slot",
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
        for slider in page.locator("input[type=range]:visible").all():
            expect(slider).to_have_accessible_name(re.compile(r"\w"))
        shown = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", shown)[:3])) < 200) == dark
