import re
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from slotlab.checkpoints import create_model, load
from slotlab.config import run_config
from slotlab.errors import CheckpointError, ConfigError
from slotlab.files import DiskFull
from slotlab.training.checkpoint import (
    History,
    check_loggers,
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
    with pytest.raises(
        DiskFull, match=rf"/best: the disk is full: it needs {needed:.2f} MB, [\d.,]+ MB are free; free"
    ):
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


def test_rows_after_the_checkpoint_that_is_resumed_are_dropped(tmp_path):
    both = [{"step": 1.0, "train_loss": 2.0}, {"step": 2.0, "train_loss": 1.0}]
    config = run_config("scenes-32", ["logger=tensorboard"])
    for rows in (both, [both[0], {"step": 2.0, "train_loss": 0.5}]):
        history = History(tmp_path, rows[:1], config)
        assert read_history(tmp_path) == rows[:1]
        history.write(rows)
        history.close()
    assert read_history(tmp_path) == rows
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("train_loss")] == [(2, 0.5)]
    History(tmp_path, [], run_config("scenes-32")).close()
    assert not (tmp_path / "history.csv").exists()


def test_a_logger_goes_on_with_its_run_and_one_that_is_not_installed_is_named(tmp_path, monkeypatch):
    made = []

    class WandbLogger:
        version = "abc"

        def __init__(self, **options):
            self.options, self.experiment, self.seen = options, self, []
            made.append(self)

        def log_hyperparams(self, params):
            self.seen.append(params["preset"])

        def log_metrics(self, metrics, step):
            self.seen.append((step, metrics))

        def finalize(self, status):
            self.seen.append(status)

    config, rows = run_config("scenes-32", ["logger=wandb"]), [{"step": 1.0, "ari": 0.5}]
    with pytest.raises(ConfigError, match=r"training.logger: wandb.* not installed; pip install 'slotlab\[wandb\]'"):
        check_loggers(config.training.logger)
    loggers = SimpleNamespace(WandbLogger=WandbLogger)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", SimpleNamespace(loggers=loggers))
    monkeypatch.setitem(sys.modules, "pytorch_lightning.loggers", loggers)
    for _ in range(2):
        history = History(tmp_path / "run", [], config)
        history.write(rows)
        history.close()
    assert [logger.options["id"] for logger in made] == [None, "abc"]
    assert made[0].options["name"] == "run"
    assert made[0].seen == ["scenes-32", (1, {"ari": 0.5}), "success"]


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
