"""A studio with tiny models, and a browser to visit it with."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from slotlab.checkpoints import load, save
from slotlab.composition import fit_library
from slotlab.data import open_data
from slotlab.studio import open_models, running

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def plain_model(distinct, tmp_path_factory):
    save(distinct(), folder := tmp_path_factory.mktemp("models") / "plain")
    return folder


@pytest.fixture(scope="session")
def posterior_model(distinct, tmp_path_factory):
    """Has posterior masks."""
    save(distinct(pixel_sigma=0.2), folder := tmp_path_factory.mktemp("models") / "posterior")
    return folder


@pytest.fixture(scope="session")
def library(plain_model, squares, tmp_path_factory):
    """A concept library of the plain model."""
    folder = tmp_path_factory.mktemp("libraries") / "concepts"
    sources = {"model": str(plain_model), "data": str(squares), "opening": {"split": "all"}}
    fit_library(load(plain_model), open_data(str(squares), resolution=16, split="all"), folder, sources=sources)
    return folder


@pytest.fixture(scope="session")
def models(plain_model, posterior_model, diffusion_run, library):
    """The three models, loaded. The second can move and resize slots: it notes their numbers."""
    opened = open_models([plain_model, posterior_model, diffusion_run], [library])
    opened[1].model.move = lambda slot, dx, dy: torch.cat([slot.new_tensor([dx, dy]), slot[2:]])
    opened[1].model.resize = lambda slot, factor: torch.cat([slot[:2], slot.new_tensor([factor]), slot[3:]])
    return opened


@pytest.fixture(scope="session")
def runs(diffusion_run):
    """A folder of training runs."""
    return diffusion_run.parent


@pytest.fixture(scope="session")
def studio(models, runs):
    """The address of a running studio."""
    with running(models, runs) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    """Chromium."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium: .ci/run installs Debian's")
        pytest.skip("no Chromium here: install Debian's package chromium to run the tests in a browser")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # a busy machine is no failure
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, studio):
    """Opens the studio as another user each time; nothing may have left the page or gone wrong."""
    contexts, outside, wrong = [], [], []

    def open_page(address=studio, width=1280, dark=False):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", accept_downloads=True
        )
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: outside.append(request.url) if _leaves(request.url) else None)
        page.on("websocket", lambda socket: outside.append(socket.url) if _leaves(socket.url) else None)
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        if address == studio:
            page.wait_for_selector("#sl-look .sl-slot")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert outside == []
    assert wrong == []


@pytest.fixture(scope="session")
def pictures_folder():
    """Where screenshots are kept: $SLOTLAB_SCREENSHOTS, else the folder `screenshots`, not in git."""
    folder = Path(os.environ.get("SLOTLAB_SCREENSHOTS", Path(__file__).parents[2] / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _leaves(url):
    return not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:", "about:", "file:"))
