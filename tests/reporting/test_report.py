import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image
from reporting_samples import metrics_json, write_data, write_run

from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.evaluation import Evaluation
from slotlab.metrics import Score
from slotlab.models.relative_frames import RelativeSlotAutoencoder
from slotlab.reporting.report import write_report

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Tags with their attributes and all text; fails where tags are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def pictures(report: Page) -> list[Image.Image]:
    found = []
    for attributes in report.all("img"):
        source = attributes["src"] or ""
        assert source.startswith("data:image/png;base64,")
        found.append(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2], validate=True))))
        found[-1].load()
    return found


def test_report_is_complete_in_itself(tmp_path, data):
    run = write_run(tmp_path / "run", data, history=True)
    path = write_report(run, images=2)
    assert path == run / "report.html"
    report = page(path)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in report.tags}
    for _, attributes in report.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", path.read_text(encoding="utf-8"), re.S)
    assert style
    assert not re.search(r"url\(|@import|https?:", style.group(1))
    found = pictures(report)
    assert len(found) == 1 + 2 + 2 + 1 + 1 + 3  # grid, slots, attention, overlays, curves, previews
    assert all(len(image.convert("RGB").getcolors(1 << 20)) > 3 for image in found[:-3])
    for image, attributes in zip(found, report.all("img"), strict=True):
        assert attributes["alt"]
        assert (str(image.width), str(image.height)) == (attributes["width"], attributes["height"])
    targets = {attributes["id"] for attributes in report.all("section")}
    assert {attributes["href"] for attributes in report.all("a")} == {f"#{target}" for target in targets}


def test_report_says_how_good_and_how_made(run):
    path = write_report(run, images=1)
    text = page(path).text
    assert "<h1>run</h1>" in path.read_text()
    assert "tiny · 1,200 steps" in text
    said = ["0.500 ± 0.010", "n = 4, 1 degenerate", "120.5 ± 0.0", "0.042 ± 0.010", "13.70 ± 0.01", "FG-ARI", "mBO"]
    said += ["decoder masks", "attention masks", "mask sources: masks = decoder masks, argmax", "split: val"]
    said += ["slots tile the picture", "slotlab train tiny", "1,200 steps", '"learning_rate": 0.0004']
    for part in (*said, "Step 100", "Step 300", "Step 400"):
        assert part in text, part


def test_a_model_with_relative_frames_is_reported(tmp_path, data):
    run = write_run(tmp_path / "run", data, kind=RelativeSlotAutoencoder)
    assert "Each slot is painted on its own" in page(write_report(run, images=1)).text


def test_scores_may_be_given(run):
    scores = dict.fromkeys(("ari", "fg_ari", "miou", "mbo"), Score(0.75, 0.125, 8, 0))
    parts = {"masks": scores | {"mbo_class": Score(0.625, 0.125, 8, 0)}, "attention": scores}
    parts |= {
        "reconstruction": {"mse": scores["ari"]},
        "baselines": {"block pattern": {"ari": Score(0.375, 0.125, 8, 0)}},
    }
    protocol = {"data": "elsewhere", "mask_sources": {"masks": "decoder masks, argmax"}}
    evaluation = Evaluation(protocol=protocol, **parts, loss=1.5, slots_used=3.0)
    text = page(write_report(run, images=1, evaluation=evaluation)).text
    assert "0.750 ± 0.125" in text
    assert "mBO by class" in text and "0.625 ± 0.125" in text
    assert "block pattern" in text and "0.375 ± 0.125" in text
    assert "data: elsewhere" in text


def test_run_that_was_not_scored_names_the_command(run, data):
    (run / "metrics.json").unlink()
    text = page(write_report(run, images=1)).text
    assert "no metrics.json" in text
    assert f"slotlab evaluate {run} --data {data}" in text


def test_scores_that_are_undefined_are_dashes(run):
    content = metrics_json()
    undefined = {"mean": float("nan"), "standard_error": float("nan"), "count": 0, "degenerate": 1}
    content["masks"] = content["masks"] | {"mbo": float("nan")}
    content["details"]["masks"] = content["details"]["masks"] | {"mbo": undefined}
    (run / "metrics.json").write_text(json.dumps(content))
    assert "–n = 0, 1 degenerate" in page(write_report(run, images=1)).text


def test_data_without_masks(tmp_path):
    run = write_run(tmp_path / "run", write_data(tmp_path / "bare", masks=False))
    content = metrics_json() | {"masks": {}, "attention": {}, "details": {}}
    (run / "metrics.json").write_text(json.dumps(content))
    report = page(write_report(run, images=1))
    assert "The data has no true masks" in report.text
    assert pictures(report)


def test_early_run_lacks_curves_record_and_previews_and_a_broken_one_is_left_out(run):
    for name in ("training.json", "metrics.json"):
        (run / name).unlink()
    (run / "previews" / "step-00000100.png").write_bytes(b"not a picture")
    Image.new("RGB", (8, 8)).save(run / "previews" / "step-00000300.png", format="PCX")  # no format of ours
    text = page(write_report(run, images=1)).text
    assert "Step 100" not in text and "Step 300" not in text and "Step 400" in text
    shutil.rmtree(run / "previews")
    text = page(write_report(run, images=1)).text
    assert "no history.csv" in text
    assert "no training.json yet" in text
    assert "How the images changed" not in text


def test_hostile_text_is_escaped(tmp_path, data):
    hostile = "<script>alert(1)</script>\"'><img src=http://example.com/x onerror=alert(1)>"
    run = write_run(tmp_path / "run", data, preset=hostile, command=hostile)
    content = metrics_json() | {"warnings": [hostile], "protocol": {hostile: hostile}}
    (run / "metrics.json").write_text(json.dumps(content))
    report = page(write_report(run, images=1))
    assert not report.all("script")
    assert pictures(report)
    assert report.text.count(hostile) >= 4


def test_data_that_moved(run, data, tmp_path):
    data.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=rf"{data}.*--data"):
        write_report(run)
    assert not (run / "report.html").exists()
    assert pictures(page(write_report(run, data=tmp_path / "moved", images=1)))


def test_what_is_no_run_and_images_out_of_range(tmp_path, run):
    for images in (0, -1, 65):
        with pytest.raises(ConfigError, match=f"images={images}: expected 1 to 64"):
            write_report(run, images=images)
    with pytest.raises(CheckpointError, match="no such model folder"):
        write_report(tmp_path / "nowhere")
    (run / "run.json").unlink()
    with pytest.raises(CheckpointError, match=r"run\.json: missing"):
        write_report(run)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", "{", r"metrics\.json: not readable as JSON .*slotlab evaluate"),
        ("metrics.json", '{"protocol": []}', r"metrics\.json: damaged .*slotlab evaluate"),
        ("metrics.json", '{"loss": "low"}', r"metrics\.json: damaged"),
        ("metrics.json", '{"reconstruction": {"mse": 1}, "details": {"reconstruction": 3}}', r"metrics\.json: damaged"),
        ("metrics.json", '{"diagnostics": {"images": 3}}', r"metrics\.json: damaged"),
        ("training.json", "[]", r"training\.json: not a JSON object"),
        ("run.json", "{}", r"run\.json: not a run's config"),
    ],
)
def test_damaged_files_are_named(run, name, content, message):
    (run / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        write_report(run)
