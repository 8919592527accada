import re
from pathlib import Path

import pytest

from slotlab.hub import list_models
from slotlab.models import ENCODERS

ROOT = Path(__file__).parents[1]


def python_blocks(path):
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = python_blocks("README.md")
    names = {}
    exec(example, names)
    assert names["out"].masks.shape == (4, 7, 32, 32)
    assert (tmp_path / "runs" / "tiny" / "model.safetensors").is_file()


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


def test_the_readme_links_to_files_that_are_there():
    for target in re.findall(r"\]\(((?!http)[^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
