import re
import sys
from pathlib import Path
from random import Random

import pytest
import torch

from slotlab.checkpoints import create_model, load
from slotlab.errors import CheckpointError
from slotlab.files import DiskFull
from slotlab.training.checkpoint import (
    History,
    newest_checkpoint,
    provenance,
    prune_checkpoints,
    read_history,
    read_trainer,
    step_folder,
    write_checkpoint,
)


@pytest.fixture
def model(tiny_preset):
    return create_model(tiny_preset)


def test_the_newest_checkpoint_is_found_and_old_ones_go(model, tmp_path):
    for step in (5, 100, 20):
        write_checkpoint(step_folder(tmp_path, step), model, {}, {})
    (tmp_path / "checkpoints" / ".step-00000200.123.tmp").mkdir()
    assert newest_checkpoint(tmp_path) == step_folder(tmp_path, 100)
    prune_checkpoints(tmp_path, keep=2)
    assert {path.name for path in (tmp_path / "checkpoints").glob("[!.]*")} == {"step-00000020", "step-00000100"}


def test_a_full_disk_leaves_the_checkpoint_before_it_and_says_how_much_is_needed(model, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "best", model, {"steps": 1}, {})
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    plain = Path.open

    def full(path, *mode, **options):  # /dev/full is a disk without space
        return plain(Path("/dev/full") if path.name == "trainer.pt" else path, *mode, **options)

    monkeypatch.setattr(Path, "open", full)
    trainer = {"optimizer": {"state": [torch.zeros(1_000_000)]}}
    needed = (weights + 4_000_000) / 1e6
    with pytest.raises(DiskFull, match=rf"/best: the disk is full: it needs {needed:.1f} MB, [\d.]+ MB are free; free"):
        write_checkpoint(tmp_path / "best", model, {"steps": 2}, trainer)
    assert load(tmp_path / "best").slots == 4
    assert '"steps": 1' in (tmp_path / "best" / "training.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_damaged_trainer_state_is_refused_in_one_sentence(model, tmp_path):
    state = {"step": 1, "seconds": 0.5, "rows": [{"step": 1.0}], "model": model.state_dict()}
    write_checkpoint(tmp_path / "step", model, {}, state)
    path, whole = tmp_path / "step" / "trainer.pt", (tmp_path / "step" / "trainer.pt").read_bytes()
    random = Random(0)
    for _ in range(100):
        changed = bytearray(whole)
        place = random.randrange(len(changed))
        change = random.choice(("byte", "cut", "more"))
        if change == "byte":
            changed[place] ^= 1 << random.randrange(8)
        else:
            changed[place:] = b"" if change == "cut" else random.randbytes(40)
        path.write_bytes(changed)
        said = ""
        try:
            read = read_trainer(tmp_path / "step")
        except CheckpointError as error:
            said = str(error)
        if said:
            assert re.fullmatch(r".*trainer.pt: damaged \(\w+\); remove .*/step to resume from .*", said)
        else:  # the change was between the records of the archive
            assert all(read["model"][name].equal(tensor) for name, tensor in state["model"].items())
            assert read | {"model": None} == state | {"model": None}


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
