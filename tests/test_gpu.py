"""`benchmarks/gpu.py` at toy size on the CPU; and what must hold on a GPU, where there is one."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import slotlab

ROOT = Path(__file__).parents[1]
SCRIPT = [sys.executable, str(ROOT / "benchmarks" / "gpu.py")]


def lines(path):
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert all(None not in line and None not in line.values() for line in found)  # whole lines
    return found


def test_all_stages_run_at_toy_size(tmp_path):
    out = tmp_path / "out"
    command = [*SCRIPT, "--toy", "--minutes", "0.2", "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-2000:]
    checks = lines(out / "correctness.csv")
    assert len(checks) == 9
    assert {check["result"] for check in checks} <= {"good", "no time left"}
    measured = lines(out / "speed.csv") if (out / "speed.csv").exists() else []  # none on a very slow machine
    assert not [line for line in measured if not float(line["value"]) > 0]  # faults are lines of value nan
    assert slotlab.load(out / "slots").resolution == 32
    again = subprocess.run([*command, "--stages", "c"], capture_output=True, text=True, timeout=500)
    assert again.returncode == 0 and "FAILED" not in again.stdout, again.stdout  # continues the run


def test_a_killed_run_leaves_whole_files(tmp_path):
    process = subprocess.Popen([*SCRIPT, "--toy", "--minutes", "5", "--stages", "a", "--out", str(tmp_path)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    written = tmp_path / "correctness.csv"
    while not written.exists() and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert 1 <= len(lines(written)) <= 9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_computes_what_a_cpu_does(tmp_path):
    command = [*SCRIPT, "--minutes", "8", "--stages", "a", "--out", str(tmp_path)]
    subprocess.run(command, check=True, timeout=300)
    results = {check["check"]: check["result"] for check in lines(tmp_path / "correctness.csv")}
    assert results == dict.fromkeys(results, "good")
