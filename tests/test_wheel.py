import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOAD = """
import socket, sys
def connect(*address):
    raise AssertionError(f"connects to {address}")
socket.socket.connect = connect
import slotlab
assert slotlab.__file__.startswith(sys.argv[1]), slotlab.__file__
for name in slotlab.list_models(pretrained=True):
    model = slotlab.load(name)
    if name not in ("photos", "moving-64", "textured-128-latents"):
        print(name, model.slots, slotlab.load_library(name, model).concepts)
"""


def test_what_is_installed_has_the_weights_and_samples_and_needs_no_network(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    alone = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *alone, "--wheel-dir", tmp_path / "wheels", ROOT], check=True, timeout=120)
    (wheel,) = (tmp_path / "wheels").glob("slotlab-*.whl")
    assert wheel.stat().st_size < 50e6
    with zipfile.ZipFile(wheel) as content:
        packed = {name for name in content.namelist() if "/weights/" in name or "/samples/" in name}
    files = [path for folder in ("weights", "samples") for path in (ROOT / "src/slotlab" / folder).rglob("*.*")]
    there = {path.relative_to(ROOT / "src").as_posix() for path in files}
    assert packed == there
    target = tmp_path / "installed"
    subprocess.run([*pip, "install", *alone, "--target", target, wheel], check=True, timeout=120)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(target)],
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = ["scenes-64 7 7", "scenes-64-diffusion 7 7", "textured-128 11 11", "textured-128-diffusion 11 11"]
    assert done.stdout.splitlines() == [*wanted, "textured-64 7 7"]
