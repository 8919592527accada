"""How the views look: each fits its window, on a desk and on a phone, light and dark."""

import re

import pytest
from visiting import tab


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
