import errno
import sys

import pytest

from slotlab import checkpoints
from slotlab.checkpoints import create_model, load
from slotlab.training.checkpoint import (
    History,
    newest_checkpoint,
    provenance,
    prune_checkpoints,
    read_history,
    step_folder,
    write_checkpoint,
)


@pytest.fixture
def model(tiny_preset):
    return create_model(tiny_preset)


def test_the_newest_checkpoint_is_found_and_old_ones_go(model, tmp_path):
    for step in (5, 100, 20):
        write_checkpoint(step_folder(tmp_path, step), model, {}, {})
    assert newest_checkpoint(tmp_path) == step_folder(tmp_path, 100)
    prune_checkpoints(tmp_path, keep=2)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-00000020", "step-00000100"}


def test_a_full_disk_leaves_the_checkpoint_before_it(model, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "best", model, {"steps": 1})

    def no_space(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_tensors", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path / "best", model, {"steps": 2})
    assert load(tmp_path / "best").slots == 4
    assert '"steps": 1' in (tmp_path / "best" / "training.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_kill_while_writing_leaves_the_checkpoint_before_it(model, tmp_path, monkeypatch):
    write_checkpoint(step_folder(tmp_path, 1), model, {}, {})
    half_written = tmp_path / "checkpoints" / ".step-00000002.123.tmp"
    half_written.mkdir()
    (half_written / "config.json").write_text("{")
    assert newest_checkpoint(tmp_path) == step_folder(tmp_path, 1)
    assert load(newest_checkpoint(tmp_path)).slots == 4
    prune_checkpoints(tmp_path, keep=2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_rows_after_the_checkpoint_that_is_gone_on_from_are_dropped(tmp_path):
    both = [{"step": 1.0, "train_loss": 2.0}, {"step": 2.0, "train_loss": 1.0}]
    history = History(tmp_path, [])
    history.write(both)
    history.close()
    History(tmp_path, both[:1]).close()
    assert read_history(tmp_path) == both[:1]
    History(tmp_path, []).close()
    assert not (tmp_path / "history.csv").exists()


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["/usr/bin/slotlab", "train", "--out", "my runs/first"], "slotlab train --out 'my runs/first'"),
        (["/somewhere/slotlab/__main__.py", "train", "scenes-32"], "slotlab train scenes-32"),
        (["train.py", "5"], "train.py 5"),
    ],
)
def test_the_command_can_be_pasted_into_a_shell(monkeypatch, words, command):
    monkeypatch.setattr(sys, "argv", words)
    assert provenance()["command"] == command
