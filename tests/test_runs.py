import os
import shutil
import time
from types import SimpleNamespace

import pytest

from slotlab import runs as module
from slotlab.config import run_config
from slotlab.errors import DataError
from slotlab.runs import TrainingProgress, read_run_folder, run_folders
from slotlab.training.loop import Event

ROW = {"step": 1.0, "train_loss": 0.5, "validation_loss": 0.5, "images_per_second": 1.0}


def test_a_warning_is_told_once_when_it_lasts(capsys):
    progress = TrainingProgress(10, enabled=True)
    progress.show_validation(ROW, ["soft masks: 0.9", "dead slots: 1"])
    assert "warning" not in capsys.readouterr().out
    progress.show_validation(ROW, ["soft masks: 0.8"])
    assert "warning: soft masks: 0.8" in capsys.readouterr().out
    progress.show_validation(ROW, ["soft masks: 0.7", "dead slots: 1"])
    assert "warning" not in capsys.readouterr().out
    progress.show_validation(ROW, ["dead slots: 2"])
    assert "warning: dead slots: 2" in capsys.readouterr().out


def test_training_into_a_file_speaks_at_the_first_step_and_then_by_time(capsys, monkeypatch):
    clock = iter([0, 0, 59, 60, 60, 90])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = TrainingProgress(3000, enabled=True)
    for step in (1, 2, 3, 4):
        run = SimpleNamespace(step=step, config=run_config("scenes-32"), loss=0.25, seconds=step)
        progress.show(Event("step", run))
    said = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["step 1 of 3000", "step 3 of 3000"]


@pytest.fixture
def runs(diffusion_run, latents_run, tmp_path):
    """Two runs, one of them half done, and a folder that is none."""
    shutil.copytree(latents_run, tmp_path / "done")
    shutil.copytree(diffusion_run, tmp_path / "half")
    rows = (tmp_path / "half" / "history.csv").read_text().splitlines()
    (tmp_path / "half" / "history.csv").write_text("\n".join(rows[:-1]) + "\n")
    os.utime(tmp_path / "half" / "history.csv", (time.time() - 7300, time.time() - 7300))
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_runs_tell_how_far_they_are(runs):
    done, half = run_folders(runs)
    assert (done.name, done.state()) == ("done", "finished, 6 steps")
    assert (half.name, half.last["step"]) == ("half", 3)
    assert half.state() == "at step 3 of 6, last written 2 hours ago"
    assert (half.preset, half.masks) == ("tiny-diffusion", "cross-attention masks")


def test_a_run_that_has_written_nothing_yet_is_there_too(runs):
    (runs / "half" / "history.csv").unlink()
    assert read_run_folder(runs / "half").state() == "no row yet, 6 steps to go"
    (runs / "half" / "run.json").write_text("{")
    assert [run.name for run in run_folders(runs)] == ["done"]


@pytest.mark.parametrize("row", ["9,1,2", "1e400", "x", "9\0", '"' + "9" * 200_000], ids=lambda row: repr(row[:5]))
def test_a_damaged_history_is_a_sentence_and_the_others_are_listed(runs, row):
    (runs / "half" / "history.csv").write_text(f"step\n3\n{row}\n")
    states = {run.name: run.state() for run in run_folders(runs)}
    assert states["done"] == "finished, 6 steps"
    assert states["half"].startswith("history.csv: cannot be read (")


def test_a_row_written_while_the_run_is_read_is_noticed_the_next_time(runs, monkeypatch):
    def then_written(folder):
        rows = read_history(folder)
        os.utime(folder / "history.csv")
        return rows

    read_history = module.read_history
    monkeypatch.setattr(module, "read_history", then_written)
    first = read_run_folder(runs / "half")
    monkeypatch.undo()
    assert read_run_folder(runs / "half").written > first.written


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        run_folders(tmp_path / "none")


def test_the_command_lists_them(run_slotlab, runs):
    out = run_slotlab.fine("runs", runs)
    assert "at step 3 of 6" in out
    assert "finished, 6 steps" in out
    out = run_slotlab.fine("runs", runs / "half")
    assert "contains no runs; give the folder above the run folders" in out
