"""Watching runs, in a browser, and the report that they write."""

import gradio as gr
from playwright.sync_api import expect
from visiting import tab

from slotlab.reporting.report import write_report
from slotlab.studio.runs_view import runs_view


def test_runs_are_watched_while_they_train(visit, runs):
    (runs / "diffusion" / "report.html").unlink(missing_ok=True)  # another test may have made it
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
    expect(report.locator("h1")).to_have_text("diffusion", timeout=30_000)


def test_the_report_is_complete_in_itself(visit, diffusion_run, tmp_path):
    alone = tmp_path / "report.html"
    alone.write_bytes(write_report(diffusion_run).read_bytes())
    page, asked = visit(alone.as_uri()), []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    assert {url for url in asked if not url.startswith("data:")} == {alone.as_uri()}
    expect(page.locator("h1")).to_have_text("diffusion")
    loaded = page.locator("img").evaluate_all("all => all.map(one => one.complete && one.naturalWidth > 0)")
    assert loaded
    assert all(loaded)


def test_a_folder_that_the_first_training_makes_is_waited_for(tmp_path):
    with gr.Blocks():
        view = runs_view(tmp_path / "later")
    assert "There is no run in" in str(view.refresh(None, None, None))
    with gr.Blocks():
        assert runs_view(None).refresh(None, None, None), "something, if only what was seen"
