"""How long the studio takes for its first image, an edit, a sampled preview, a photograph, a clip.

Starts `slotlab studio` with four bundled models, visits it with Chromium (driven by Playwright),
and takes the time from the click until the page shows the answer. Prints medians and worst cases;
says so where there is no Chromium.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from contest import row, write
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

from slotlab.data.published import SAMPLES

OPENED = "#sl-look .sl-slot"
STATUS = "document.querySelector('#sl-edit-status').innerText"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=7871)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the studio")
    parser.add_argument("--csv", type=Path, help="write the medians here too")
    arguments = parser.parse_args()
    if shutil.which("chromium") is None:
        print("the studio is left out: no chromium is on the PATH")
        return
    words = ["studio", "--no-browser", "--port", str(arguments.port), "--threads", str(arguments.threads)]
    words += ["--model", "scenes-64", "--model", "scenes-64-diffusion", "--model", "photos"]
    words += ["--model", "moving-64"]
    server = subprocess.Popen([sys.executable, "-m", "slotlab", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[1]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            times: dict[str, list[float]] = {}
            for _ in range(arguments.repeats):
                context = browser.new_context(viewport={"width": 1280, "height": 900})
                for what, seconds in visited(context.new_page(), address):
                    times.setdefault(what, []).append(seconds)
                context.close()
    finally:
        server.terminate()
        server.wait()
    table = Table()
    for heading in ("what", "median (s)", "worst (s)", "n"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for what, seconds in times.items():
        table.add_row(what, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}", str(len(seconds)))
    Console().print(table)
    work = f"studio, {arguments.threads} threads"
    write(
        [row(work, what, statistics.median(seconds), "s", rounds=len(seconds)) for what, seconds in times.items()],
        arguments.csv,
    )


def visited(page: Page, address: str) -> list[tuple[str, float]]:
    """What was done in one visit, and how many seconds each took."""
    times: list[tuple[str, float]] = []

    def timed(what: str, act: Callable[[], object], until: Callable[[], object]) -> None:
        started = time.perf_counter()
        act()
        until()
        times.append((what, time.perf_counter() - started))

    timed("page opened until its first picture", lambda: page.goto(address), lambda: page.wait_for_selector(OPENED))
    page.get_by_role("tab", name="Edit").click()
    page.wait_for_selector("#sl-edit .sl-slot")
    remove, undo = (page.locator(f"#sl-{button}").click for button in ("remove", "undo"))
    for slot in (1, 2, 3):
        page.locator(f"#sl-edit .sl-slot[data-slot='{slot}']").click()
        said(page, f"Slot {slot} is selected")
        timed("edit with the autoencoder", remove, lambda: said(page, "removed"))
        timed("undo", undo, lambda: said(page, "removed", False))
    page.locator("#sl-model input").click()
    page.get_by_role("option", name="scenes-64-diffusion").click()
    page.locator("#sl-sampling").wait_for()
    page.get_by_role("button", name="Sampling").click()
    for steps, what, sign in (
        (5, "sampled edit, 5 steps", "removed"),
        (50, "sampled edit, 50 steps, until its first preview", "Painting"),
    ):
        page.get_by_label("number input for Steps").fill(str(steps))
        page.locator("#sl-edit .sl-slot").nth(1).click()
        said(page, "is selected")
        timed(what, remove, partial(said, page, sign))
        said(page, "removed")
        undo()
        said(page, "removed", False)
    page.get_by_role("tab", name="Photo").click()
    shown = page.locator("#sl-photo .sl-frame img")
    for photo in sorted(SAMPLES.glob("*.jpg")):
        before = shown.get_attribute("src", timeout=60_000)
        field = page.locator("#sl-upload input[type=file]")
        changed = f"document.querySelector('#sl-photo .sl-frame img').src != {before!r}"
        timed(
            "photograph dropped until it is taken apart",
            partial(field.set_input_files, photo),
            partial(page.wait_for_function, changed, polling=20),
        )
        page.wait_for_timeout(500)  # the field is emptied
    page.get_by_role("tab", name="Clip").click()
    page.wait_for_selector("#sl-clip .sl-slot")
    taken = "document.querySelectorAll('#sl-clip .sl-film-frame').length == 24"
    page.get_by_label("number input for Frames").fill("24")
    render, remove = (page.locator(f"#sl-clip-{name}").click for name in ("render", "remove"))
    until = partial(page.wait_for_function, taken, polling=20)
    timed("clip of 24 frames rendered and taken apart", render, until)
    page.locator("#sl-clip .sl-slot").nth(1).click()
    page.wait_for_timeout(500)  # the choice is sent
    edited = partial(page.wait_for_selector, "#sl-clip .sl-pane:nth-child(2)")
    timed("object removed from 24 frames", remove, edited)
    return times


def said(page: Page, words: str, wanted: bool = True) -> None:
    """Waits until the Edit view's line of words holds some, or no longer does."""
    page.wait_for_function(f"{STATUS}.includes({words!r}) == {str(wanted).lower()}", polling=20)


if __name__ == "__main__":
    main()
