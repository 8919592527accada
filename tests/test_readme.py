import json
import re
from pathlib import Path

import pytest

from slotlab.checkpoints import list_models
from slotlab.models import ENCODERS
from slotlab.released import model_folder

ROOT = Path(__file__).parents[1]


def python_blocks(path):
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = python_blocks("README.md")
    names = {}
    exec(example, names)
    assert names["out"].masks.shape == (4, 7, 64, 64)
    assert names["mine"].resolution == 32
    assert (tmp_path / "runs" / "tiny" / "model.safetensors").is_file()


def test_the_example_of_trained_models_runs():
    (example,) = python_blocks("docs/weights.md")
    names = {}
    exec(example, names)
    assert names["out"].masks.shape == (4, 7, 64, 64)


def test_the_encoder_in_the_docs_works(monkeypatch):
    import torch

    import slotlab

    monkeypatch.delitem(ENCODERS, "patch", raising=False)
    (example,) = python_blocks("docs/extending.md")
    exec(example, {})
    try:
        model = slotlab.create_model("scenes-32", **{"encoder.kind": "patch", "patch": 2})
        assert model(torch.rand(1, 3, 32, 32)).attention_grid == (16, 16)
    finally:
        del ENCODERS["patch"]


@pytest.mark.parametrize("name", list_models())
def test_every_preset_is_in_the_readme(name):
    assert f"`{name}`" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list_models(pretrained=True))
def test_the_scores_in_the_readme_are_those_of_the_weights(name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    details = json.loads((model_folder(name) / "metrics.json").read_text(encoding="utf-8"))["details"]
    for source in details.keys() - {"reconstruction"}:
        scores = [details[source][key] for key in ("ari", "fg_ari", "miou", "mbo")]
        cells = " | ".join(f"{score['mean']:.3f} ± {score['standard_error']:.3f}" for score in scores)
        assert cells in readme, f"README.md does not have {name}, {source}: {cells}"


def test_the_readme_links_to_files_that_are_there():
    for target in re.findall(r"\]\(((?!http)[^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
