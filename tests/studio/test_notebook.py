import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "look.ipynb"


def pictures_of(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]


@pytest.fixture
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_in_the_examples_is_executed_and_small(stored):
    assert len(pictures_of(stored)) == 2
    assert all(cell.execution_count for cell in stored.cells if cell.cell_type == "code")
    assert NOTEBOOK.stat().st_size < 300_000


def test_the_notebook_runs(stored, tmp_path):
    NotebookClient(stored, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (said,) = (output.text for cell in stored.cells for output in cell.get("outputs", []) if "text" in output)
    assert re.fullmatch(r"changed: slot \[\d\]; error outside the region: \d\.\d+\n", said)
    assert len(pictures_of(stored)) == 2
