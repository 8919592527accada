import csv
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "tables.py"
LINE = {"processor": "", "ratio": "", "peak_mib": "", "rounds": 3, "machine": "a machine", "versions": "torch 9"}


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("speed_tables", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def results(tmp_path):
    def write(name, *lines):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["work", "contender", "value", "unit", *LINE])
            writer.writeheader()
            for work, contender, value, unit, *rounds in lines:
                known = {"work": work, "contender": contender, "value": value, "unit": unit, **LINE}
                writer.writerow(known | ({"rounds": rounds[0]} if rounds else {}))
        return tmp_path

    return write


def test_the_tables_of_the_documentation_are_those_of_the_measurements():
    checked = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_every_table_is_measured_by_a_command_of_the_makefile(tables):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {file for file, _, _ in tables.HEADLINES}
    for document in tables.DOCUMENTS:
        named |= set(re.findall(r"<!-- table (\S+) -->", document.read_text(encoding="utf-8"))) - {"headlines"}
    by_themselves = {"loss-differences": "loss_curves.py", "time-to-objects": "time_to_objects.py"}
    missing = [name for name in named if f"/{by_themselves.get(name, f'{name}.csv')}" not in makefile]
    assert not missing


def test_times_and_rates_are_compared_the_right_way_round(tables, results):
    results("kmeans", ("grouping", "slotlab", 2, "s"), ("grouping", "scikit-learn, Lloyd", 5, "s"))
    folder = results("ari", ("scores", "slotlab, ARI", 800, "maps/s"), ("scores", "scikit-learn, loop", 200, "maps/s"))
    shown = tables.table("headlines", folder)
    assert "| grouping | 2 s (slotlab) | 5 s (scikit-learn, Lloyd) | 2.5 |" in shown
    assert "| scores | 800 maps/s (slotlab, ARI) | 200 maps/s (scikit-learn, loop) | 4 |" in shown
    assert "*a machine; torch 9.*" in shown


def test_a_contender_that_was_stopped_gives_a_bound(tables, results):
    stopped = "the report's recipe: not reached, stopped at ARI 0.10, FG-ARI 0.20"
    folder = results("time-to-objects", ("objects", "slotlab", 12, "min"), ("objects", stopped, 60, "min"))
    assert "| over 5 |" in tables.table("headlines", folder)
    folder = results(
        "time-to-objects", ("objects", "slotlab", 12, "min"), ("objects", stopped, 10, "min")
    )  # a bound of 0.83 says nothing
    assert tables.table("headlines", folder) == "*Not measured yet.*\n"


def test_what_was_counted_is_shown_in_full_tables_only(tables, results):
    counted = ("arithmetic", "slotlab", 3, "GFLOP", 0), ("arithmetic", "plain PyTorch", 4, "GFLOP", 0)
    folder = results("reference", ("step", "slotlab", 2, "s"), ("step", "plain PyTorch", 5, "s"), *counted)
    assert "GFLOP" not in tables.table("headlines", folder)
    assert "| arithmetic | slotlab | 3 GFLOP |  |" in tables.table("reference", folder)


def test_without_measurements_the_table_says_so(tables, tmp_path):
    text = "before\n<!-- table ari -->\nold\n<!-- end of table -->\nafter"
    assert tables.with_tables(text, tmp_path) == text.replace("old", "*Not measured yet.*")
