"""How a test goes through the studio in a browser, as a user would."""

import numpy as np
from PIL import Image

from slotlab.studio.components import png


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()
    settle(page)


def settle(page):
    """Waits for Gradio, which sets fields once more in the frame after it has shown them."""
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


def upload(page, content):
    file = {"name": "picture.png", "mimeType": "image/png", "buffer": content}
    page.locator("#sl-upload input[type=file]").set_input_files(file)


def download(page, button):
    with page.expect_download() as coming:
        page.locator(f"#{button}").click()
    given = coming.value
    return given.suggested_filename, given.path().read_bytes()


def noise(side=32, seed=0):
    """A PNG file."""
    return png(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)))
