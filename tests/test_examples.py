import importlib.util
import re
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from slotlab.models import DECODERS, ENCODERS

ROOT = Path(__file__).parents[1]
EXAMPLES = {
    "slot_attention": "--steps 2 --batch-size 2",
    "slot_diffusion": "--steps 1 --batch-size 2 --out model",
    "image_folder": "{squares}/images --steps 1 --batch-size 2 --out model",
    "own_encoder": "--steps 1 --batch-size 2",
    "own_decoder": "--steps 1 --batch-size 2",
    "evaluate": "--count 3",
    "compose": "--images 12 --count 3 --features {feature_net} --out composed",
    "edit": "--out edited",
    "fabric": "--steps 1 --batch-size 2",
    "relative_frames": "--steps 1 --batch-size 2",
    "video": "--steps 1 --batch-size 1 --test-clips 1",
}
PRINTS = {
    "slot_attention": "posterior masks: ARI",
    "slot_diffusion": "samples (4, 3, 64, 64), cross-attention masks (4, 7, 64, 64)",
    "image_folder": "slotlab segment",
    "own_encoder": "features on a grid of (16, 16)",
    "own_decoder": "masks (2, 7, 32, 32)",
    "evaluate": "FG-ARI of the decoder masks, by hand: 0.",
    "compose": "shuffle: FD-small",
    "edit": "error outside the removed object: 0.0",
    "fabric": "step 0: loss",
    "relative_frames": "moved.png: before and after",
    "video": "start from the frame before: video FG-ARI 0.",
}


def run(name, words, monkeypatch):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    spec.loader.exec_module(module)
    module.main()


@pytest.fixture(autouse=True)
def registries():
    kept = dict(ENCODERS), dict(DECODERS)
    yield
    for registry, before in zip((ENCODERS, DECODERS), kept, strict=True):
        registry.clear()
        registry.update(before)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, squares, feature_net, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = EXAMPLES[name].format(squares=squares, feature_net=feature_net).split()
    with torch.random.fork_rng():
        run(name, words, monkeypatch)
    assert PRINTS[name] in capsys.readouterr().out


def test_every_example_is_short_and_run():
    scripts = {path.stem: path.read_text(encoding="utf-8").count("\n") for path in (ROOT / "examples").glob("*.py")}
    assert scripts.keys() - {"demo", "reproduce_report"} == EXAMPLES.keys()
    assert max(scripts.values()) < 100, scripts


def test_the_notebook_is_executed_and_runs(tmp_path):
    path = ROOT / "examples" / "look.ipynb"
    stored = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 300_000
    assert all(cell.execution_count for cell in stored.cells if cell.cell_type == "code")
    assert len(figures_of(stored)) == 2
    NotebookClient(stored, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (printed,) = (output.text for cell in stored.cells for output in cell.get("outputs", []) if "text" in output)
    assert re.fullmatch(r"changed: slot \[\d\]; error outside the region: \d\.\d+\n", printed)
    assert len(figures_of(stored)) == 2


def figures_of(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
