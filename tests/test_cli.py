import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from PIL import Image

import slotlab
import slotlab.cli
from slotlab.cli import options


def test_the_whole_path_from_pictures_to_report(run_slotlab, squares, tiny_preset, tmp_path):
    run = tmp_path / "run"
    out = run_slotlab.fine("train", tiny_preset, "slots=5", "--data", squares, "--out", run, "--device", "cpu")
    assert "step 12" in out
    assert "slotlab evaluate" in out
    out = run_slotlab.fine("evaluate", run, "--data", squares, "--json", tmp_path / "scores.json")
    assert "FG-ARI" in out
    assert "protocol: data" in out
    assert json.loads((tmp_path / "scores.json").read_text()) == json.loads((run / "metrics.json").read_text())
    out = run_slotlab.fine("report", run)
    assert "report.html" in out
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "loss.png").is_file()
    assert list((run / "previews").glob("*.png"))


def test_scenes_are_written_checked_and_packed(run_slotlab, tmp_path):
    scenes = tmp_path / "scenes[old]"  # which is no markup
    run_slotlab.fine("scenes", "write", scenes, "--variant", "plain", "--count", 10, "--size", 32)
    out = run_slotlab.fine("data", "check", scenes)
    assert "scenes[old]" in out.replace("\n", "")
    assert "32x32" in out.replace(" ", "").replace("×", "x")
    run_slotlab.fine("data", "pack", scenes, tmp_path / "packed", "--resolution", 16)
    assert (tmp_path / "packed" / "packed.json").is_file()
    words = ["--resolution", 16, "--count", 2, "--max-objects", 3, "--supersample", 2]
    run_slotlab.fine("data", "pack", "scenes:textured", tmp_path / "fine", *words)
    assert json.loads((tmp_path / "fine" / "packed.json").read_text())["source"]["supersample"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nonsense", "--out", "x"], "unknown preset 'nonsense'"),
        (["train", "scenes-32", "data=scenes:plain", "--out", "x"], "data: not a setting of a preset; options begin"),
        (["evaluate", "scenes-64", "--data", "scenes:plain", "--device", "gpu"], "device: must be auto, cpu or cuda"),
        (["train", "scenes-32", "resolution=abc", "--out", "x"], "model.resolution: must be a whole number of pixels"),
        (
            ["train", "scenes-32", "stepz=1", "--out", "x"],
            "unknown key 'stepz'; did you mean 'steps' (updates in all)?",
        ),
        (["evaluate", "nowhere", "--data", "scenes:plain"], "nowhere: no such model folder"),
        (["data", "check", "nowhere"], "nowhere: no such file or folder"),
        (["scenes", "write", "x", "--variant", "plane"], "did you mean 'plain'"),
        (["report", "nowhere"], "nowhere"),
        (["studio", "--model", ".", "--no-browser"], "config.json: missing"),
        (["report", "scenes-64"], "run.json: missing; give the folder that `slotlab train"),
        (["evaluate", "scenes-46", "--data", "scenes:plain"], "did you mean 'scenes-64'?"),
        (["show", "a/1.png", "b/1.png", "--out", "x"], "two figures would have the same name"),
        (["data", "pack", "scenes:plain", "x", "--latents", "scenes-64-diffusion"], "--latents needs --resolution"),
        (["segment", ".", "--model", "scenes-64", "--out", "x"], "no image file in this folder"),
        (["compose", "scenes-64", "nowhere", "--out", "x"], "made with: slotlab concepts fit RUN"),
        (["compose", "scenes-64", "scenes-64-diffusion", "--out", "x"], "the library holds slots of model"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_status_2(run_slotlab, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    err = run_slotlab.refused(*words)
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_fault_that_was_not_foreseen_is_one_sentence_and_a_traceback_on_request(monkeypatch, capsys):
    def fails():
        raise ValueError("a bad number\nand its details")

    monkeypatch.setattr(slotlab.cli, "app", fails)
    monkeypatch.delenv("SLOTLAB_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as ended:
        slotlab.cli.main()
    assert ended.value.code == 2
    expected = "slotlab: ValueError: a bad number (SLOTLAB_TRACEBACK=1 shows where it happened)\n"
    assert capsys.readouterr().err == expected
    monkeypatch.setenv("SLOTLAB_TRACEBACK", "1")
    with pytest.raises(ValueError, match="a bad number"):
        slotlab.cli.main()


def test_a_place_that_cannot_be_written_is_named(run_slotlab, tiny_preset, squares, slots_run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    err = run_slotlab.refused("train", tiny_preset, "--data", squares, "--out", tmp_path / "file" / "run")
    assert f"{tmp_path / 'file'}" in err and "Not a directory" in err
    words = ("evaluate", slots_run, "--data", squares, "--count", 2, "--json")
    (tmp_path / "folder").mkdir()
    status, out, err = run_slotlab(*words, tmp_path / "folder")
    assert (status, out) == (2, "")
    assert "is a directory" in err
    status, out, err = run_slotlab(*words, tmp_path / "file" / "scores.json")
    assert status == 2
    assert "FG-ARI" in out, "what was computed is told first"
    assert "Traceback" not in err


def test_two_folders_of_images_are_compared(run_slotlab, squares, feature_net, tmp_path):
    words = [squares / "images", squares / "images", "--features", feature_net, "--json", tmp_path / "fd.json"]
    out = run_slotlab.fine("fid", *words)
    assert out.startswith("FD-small")
    assert "note: " in out  # far fewer than 2,048 images
    assert abs(json.loads((tmp_path / "fd.json").read_text())["distance"]) < 1e-6


def test_a_terminal_that_knows_ascii_only_gets_the_tables(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = subprocess.run([sys.executable, "-m", "slotlab", "models"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "scenes-64" in done.stdout


def test_the_version_the_presets_and_the_card_of_a_model_are_printed(run_slotlab):
    assert run_slotlab("--version") == (0, f"slotlab {slotlab.__version__}\n", "")
    assert "slot-attention-clevrtex" in run_slotlab("models")[1]
    card = run_slotlab.fine("models", "textured-128")
    assert "Apache-2.0" in card and "decoder masks" in card
    assert "---\n" not in card and "library_name" not in card and "first.png" not in card


def test_every_command_takes_its_model_as_an_option(run_slotlab, slots_run, squares):
    app = typer.main.get_command(slotlab.cli.app)
    known = [app.commands, app.commands["concepts"].commands]
    commands = {name: command for group in known for name, command in group.items() if hasattr(command, "callback")}
    for name in ("evaluate", "diagnose", "fit", "compose", "edit", "segment", "show", "studio", "report", "publish"):
        assert any("--model" in parameter.opts for parameter in commands[name].params), name
    words = ("--data", squares, "--count", 2)
    first = run_slotlab("evaluate", slots_run, *words)
    assert first == run_slotlab("evaluate", *words, "--model", slots_run)
    assert first == run_slotlab("evaluate", f"--model={slots_run}", *words)
    assert first[0] == 0
    assert run_slotlab("evaluate", slots_run, *words, "--model", slots_run)[0] == 2


def test_control_characters_of_file_names_are_not_printed(run_slotlab, slots_run, tmp_path):
    folder = tmp_path / "a\x1b[31mb"
    folder.mkdir()
    (folder / "c\rd.png").write_bytes(b"no image")
    Image.new("RGB", (16, 16)).save(folder / "whole.png")
    for words in (
        ("segment", folder, "--model", slots_run, "--out", tmp_path / "out"),
        ("data", "check", folder),
        ("evaluate", "x\x1b[31m", "--data", folder),
        ("fid", folder, folder, "--features", folder),
    ):
        _, out, err = run_slotlab(*words)
        assert "\\x1b" in out + err
        assert not {"\x1b", "\r"} & {*out, *err}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["models"]], ids=" ".join)
def test_commands_that_only_tell_do_not_load_heavy_libraries(arguments):
    code = (
        "import sys, slotlab.cli; "
        f"slotlab.cli.app({arguments}, standalone_mode=False); "
        "sys.exit(', '.join(sorted({'torch', 'numpy', 'torchvision', 'timm', 'matplotlib'} & sys.modules.keys())) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"imported: {done.stderr}"


def test_the_core_needs_neither_torchvision_nor_timm(squares, tiny_preset, tmp_path):
    code = (
        "import sys; sys.modules.update(torchvision=None, timm=None); import slotlab; "
        f"slotlab.train({tiny_preset!r}, data={str(squares)!r}, out={str(tmp_path / 'run')!r}, steps=1, "
        "device='cpu', show_progress=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("cores", "busy", "threads"), [(2, 0.1, 2), (2, 0.9, 1), (2, 2.0, 1), (8, 1.0, 7), (8, 8.0, 4), (1, 1.0, 1)]
)
def test_cores_that_others_keep_busy_are_left_to_them(cores, busy, threads, monkeypatch, capsys):
    seconds, clock, chosen = iter([50.0, 50.0 + 2 * busy]), iter([10.0, 12.0]), []
    monkeypatch.setattr(options, "_seconds_of_others", lambda: next(seconds))
    monkeypatch.setattr(options, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    options._set_threads(0)
    assert chosen == [threads]
    assert ("cores are busy" in capsys.readouterr().err) == (threads < cores)


def test_threads_that_the_user_asked_for_are_taken(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    options._set_threads(0)  # torch has read it
    assert chosen == []
    options._set_threads(2)
    assert chosen == [2]


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux")
def test_work_of_other_processes_is_noticed():
    before = options._seconds_of_others()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    assert options._seconds_of_others() - before > 0.4
