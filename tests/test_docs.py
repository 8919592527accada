import functools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from slotlab import publishing
from slotlab.checkpoints import list_models
from slotlab.config import parse_overrides, run_config
from slotlab.released import model_folder

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages whose Python runs without files of your own.
RUNNABLE = ("README.md", "docs/quick-start.md", "docs/weights.md", "docs/metrics.md", "docs/extending.md")
COMMAND = re.compile(r"^slotlab (?P<words>(?:[a-z]+ ?){1,2})(?P<rest>.*)$", re.MULTILINE)


def blocks(path, *languages):
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [content for language, content in fences if language in languages]


@pytest.mark.parametrize("page", RUNNABLE)
def test_the_python_of_a_page_runs(page, tmp_path):
    code = "\n".join(blocks(ROOT / page, "python"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def options_of(command):
    """The options of a command of slotlab; the same for one named by two words."""
    import typer

    from slotlab.cli import app

    group = typer.main.get_command(app)
    for word in command:
        group = getattr(group, "commands", {}).get(word, group)
    return {option for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_have_the_options_it_names(page):
    text = "\n".join(blocks(page, "", "bash")).replace("\\\n", " ")
    for found in COMMAND.finditer(text):
        command, words = found["words"].split(), found["rest"].partition("#")[0].split()
        missing = {word for word in words if word.startswith("--")} - options_of(command)
        assert not missing, f"{found[0]}: no option {missing}"


# Pages whose commands run in order; the others train for days, or on data sets that are downloaded.
RUN_IN_ORDER = (
    "README",
    "quick-start",
    "photographs",
    "own-images",
    "segment",
    "weights",
    "edits",
    "composition",
    "diagnostics",
)
# But for those that need a browser, an account or hours.
NOT_RUN = re.compile(r"slotlab studio|hf:|runs/relative|--out runs/(scenes|textured)-")
COUNTED = {"evaluate": "4", "diagnose": "4", "fit": "8", "compose": "2", "pack": "6"}


def commands(page):
    """The commands of a page in order, as lists of words."""
    for found in COMMAND.finditer("\n".join(blocks(page, "", "bash")).replace("\\\n", " ")):
        yield shlex.split(found[0], comments=True)[1:]


def smaller(words):
    """A command with fewer images, steps, and without a download."""
    words, name = [*words], next(word for word in words if word not in ("data", "concepts"))
    if name in COUNTED:
        at = words.index("--count") if "--count" in words else len(words)
        words[at : at + 2] = ["--count", COUNTED[name]]
    if "--steps" in words:
        words[words.index("--steps") + 1] = "2"
    if "--score" in words:
        words += ["--real-count", "8"]
    return words + (["steps=1", "batch_size=2", "validation_count=2"] if name == "train" else [])


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in RUN_IN_ORDER], ids=lambda page: page.name)
def test_the_commands_of_a_page_run_in_order(page, run_slotlab, tmp_path, monkeypatch):
    """In an empty folder but for runs/first, the run of the quick start."""
    monkeypatch.chdir(tmp_path)
    few = functools.partial(publishing.prepare.steps, images=8, library_images=8)
    monkeypatch.setattr(publishing.prepare, "steps", few)
    told = [words for words in commands(page) if not NOT_RUN.search(shlex.join(["slotlab", *words]))]
    if page.stem in ("composition", "diagnostics"):
        told.insert(0, ["train", "scenes-32", "--out", "runs/first"])
    for words in map(smaller, told):
        run_slotlab.fine(*(path for word in words for path in sorted(Path().glob(word)) or [word]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_presets_and_settings_of_a_page_are_known(page):
    for words in commands(page):
        if words[0] == "train" and words[1].islower():
            run_config(words[1], parse_overrides([word for word in words[2:] if "=" in word]))


@pytest.mark.parametrize("name", list_models())
def test_every_preset_is_in_the_table_of_presets(name):
    assert f"`{name}`" in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in list_models(pretrained=True) if not name.endswith("-latents")])
def test_the_scores_in_the_docs_are_those_of_the_weights(name):
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    details = json.loads((model_folder(name) / "metrics.json").read_text(encoding="utf-8"))["details"]
    rows = []
    for source in details.keys() - {"reconstruction"}:
        scores = [details[source][key] for key in ("ari", "fg_ari", "miou", "mbo")]
        rows.append(" | ".join(f"{score['mean']:.3f} ± {score['standard_error']:.3f}" for score in scores))
        assert rows[-1] in results, f"docs/results.md does not have {name}, {source}: {rows[-1]}"
    assert any(row in readme for row in rows), f"README.md does not have a row of {name}"


def test_links_lead_to_files():
    for page in PAGES:
        for target in re.findall(r"\]\(((?!http)[^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
