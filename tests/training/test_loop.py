import json
import os
import shutil
import signal

import pytest
import torch
from training_runs import fit, rows, weights

from slotlab.checkpoints import load
from slotlab.config import run_config
from slotlab.data.loading import MIRRORED
from slotlab.errors import CheckpointError, ConfigError
from slotlab.progress import finish
from slotlab.training import checkpoint
from slotlab.training.checkpoint import newest_checkpoint, read_history
from slotlab.training.loop import TrainingDiverged, TrainingStopped, train_steps
from slotlab.training.objectives import Teacher
from slotlab.training.setup import check_folder


def config(preset, data, *changes):
    return run_config(preset, [f"data.source={data}", *changes])


@pytest.fixture(scope="module")
def run(squares, tiny_preset, tmp_path_factory):
    return fit(config(tiny_preset, squares), tmp_path_factory.mktemp("run") / "whole")


def test_a_run_leaves_all_that_a_person_needs(run):
    present = {path.name for path in run.iterdir()}
    assert {"config.json", "model.safetensors", "training.json", "run.json", "history.csv"} <= present
    assert "tensorboard" not in present
    assert [row["step"] for row in read_history(run)] == [6, 12]
    row = read_history(run)[-1]
    assert row["epoch"] == pytest.approx(12 / 8)
    assert {"train_loss", "validation_loss", "ari", "fg_ari", "learning_rate", "gradient_norm"} <= row.keys()
    assert 1 <= row["slots_used"] <= 4
    assert all(0 <= row[name] <= 1 for name in ("mask_entropy", "attention_change"))
    training = json.loads((run / "training.json").read_text())
    assert training["steps"] == 12
    assert training["train_data"]["split"] == "train"
    assert {"slotlab", "commit", "command", "seed", "machine"} <= training.keys()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best", "step-00000006", "step-00000012"}


def test_a_run_repeats_itself(run, squares, tiny_preset, tmp_path):
    again = fit(config(tiny_preset, squares), tmp_path / "again")
    assert rows(again) == rows(run)
    other = fit(config(tiny_preset, squares, "seed=1"), tmp_path / "other")
    assert rows(other) != rows(run)


@pytest.mark.parametrize("ema", ["0", "0.9"])
def test_a_stopped_run_goes_on_exactly(squares, tiny_preset, tmp_path, ema):
    settings = config(tiny_preset, squares, f"ema_decay={ema}", "checkpoint_every=100", "evaluate_every=5")
    whole = fit(settings, tmp_path / "whole")
    with pytest.raises(TrainingStopped, match="stopped at step 5 of 12 and saved; .*--resume"):
        for event in train_steps(settings, tmp_path / "parts"):
            if event.kind == "validated" and event.run.step == 5:
                os.kill(os.getpid(), signal.SIGINT)
    assert load(tmp_path / "parts").slots == 4
    parts = fit(settings, tmp_path / "parts", resume=True)
    assert rows(parts) == rows(whole)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(parts)[name]), name


@pytest.mark.parametrize("left", ["older", "none"])
def test_a_resumed_run_has_the_model_of_its_newest_checkpoint(squares, tiny_preset, tmp_path, left):
    """A kill may come after the last checkpoint, before the model of the run folder is written."""
    settings = config(tiny_preset, squares)
    run = fit(settings, tmp_path / "run")
    last, facts = weights(run), (run / "checkpoints" / "step-00000012" / "training.json").read_text()
    for name in ("config.json", "model.safetensors", "training.json"):
        (run / name).unlink()
        if left == "older":
            shutil.copyfile(run / "checkpoints" / "step-00000006" / name, run / name)
    if left == "older":
        assert any(not torch.equal(tensor, last[name]) for name, tensor in weights(run).items())
    fit(config(tiny_preset, squares, "keep_checkpoints=1"), run, resume=True)
    assert all(torch.equal(tensor, last[name]) for name, tensor in weights(run).items())
    assert (run / "training.json").read_text() == facts
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best", "step-00000012"]


def test_each_checkpoint_is_validated_if_an_epoch_is_longer(squares, tiny_preset, tmp_path):
    changes = ("train_count=4", "batch_size=1", "steps=6", "evaluate_every=0", "checkpoint_every=3")
    run = fit(config(tiny_preset, squares, *changes), tmp_path / "run")
    assert [(row["step"], row["epoch"]) for row in read_history(run)] == [(3, 0.75), (6, 1.5)]


def test_the_commit_is_that_of_the_code_that_began(squares, tiny_preset, tmp_path, monkeypatch):
    commits = iter(("first", "second", "third"))
    monkeypatch.setattr(checkpoint, "provenance", lambda: {"commit": next(commits)})
    run = fit(config(tiny_preset, squares, "checkpoint_every=4"), tmp_path / "run")
    assert json.loads((run / "training.json").read_text())["commit"] == "first"


def test_bfloat16_stays_close_to_float32(run, squares, tiny_preset, tmp_path):
    folder = fit(config(tiny_preset, squares, "precision=bf16"), tmp_path / "run")
    for row, exact in zip(rows(folder), rows(run), strict=True):
        assert row["train_loss"] == pytest.approx(exact["train_loss"], rel=0.02)
    assert all(tensor.dtype == torch.float32 for tensor in weights(folder).values())


def test_the_moving_average_is_what_is_saved(run, squares, tiny_preset, tmp_path):
    averaged = fit(config(tiny_preset, squares, "ema_decay=0.9"), tmp_path / "averaged")
    assert json.loads((averaged / "training.json").read_text())["averaged_weights"] is True
    assert not torch.equal(
        weights(averaged)["decoder.to_rgb_and_mask.weight"], weights(run)["decoder.to_rgb_and_mask.weight"]
    )
    # the same updates underneath: the training losses are those of a run without averaging
    assert [row["train_loss"] for row in rows(averaged)] == [row["train_loss"] for row in rows(run)]


def test_a_folder_with_something_in_it_is_left_alone(run, squares, tiny_preset, tmp_path):
    with pytest.raises(ConfigError, match="exists and is not empty; add --resume"):
        fit(config(tiny_preset, squares), run)
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(ConfigError, match="exists and is not empty; give another --out"):
        fit(config(tiny_preset, squares), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "all my work"


def test_a_run_that_was_killed_before_its_settings_were_written_begins_again(squares, tiny_preset, tmp_path):
    (tmp_path / ".run.json.999999999999.tmp").write_text("half")
    check_folder(config(tiny_preset, squares), tmp_path, resume=True)


def test_resuming_with_other_settings_is_refused(run, squares, tiny_preset):
    with pytest.raises(ConfigError, match=r"training.learning_rate was 0.002, now 0.1"):
        fit(config(tiny_preset, squares, "learning_rate=0.1"), run, resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        {"step": "six"},
        {"rows": None},
        {"model": {}},
        {"optimizer": {"state": {}}},
        {"losses": [1]},
        "a moment",
        "no dict",
    ],
)
def test_a_trainer_state_that_does_not_fit_names_the_remedy(run, squares, tiny_preset, tmp_path, damage):
    folder = shutil.copytree(run, tmp_path / "run")
    newest = newest_checkpoint(folder)
    state = torch.load(newest / "trainer.pt", weights_only=True)
    if damage == "a moment":
        state["optimizer"]["state"][0]["exp_avg"] = 2
        damage = state
    torch.save(state | damage if isinstance(damage, dict) else damage, newest / "trainer.pt")
    with pytest.raises(CheckpointError, match=r"trainer.pt: damaged .*; remove .*step-00000012 to resume from"):
        fit(config(tiny_preset, squares), folder, resume=True)


def test_a_resumed_run_clears_what_a_kill_left_and_keeps_what_is_not_its_own(run, squares, tiny_preset, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    left = [".loss.png.7-other-3f.tmp", ".history.csv.7.tmp", "checkpoints/.best.7-other-3f.old/model.safetensors"]
    left += ["checkpoints/.step-00000006.7.tmp/trainer.pt", "previews/.step-00000006.png.7.tmp"]
    for name in (*left, ".notes"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("half")
    fit(config(tiny_preset, squares), folder, resume=True)
    assert sorted(path.name for path in folder.rglob(".*")) == [".lock", ".notes"]


def test_a_run_is_trained_by_one_command_at_a_time(squares, tiny_preset, tmp_path):
    settings = config(tiny_preset, squares)
    first = train_steps(settings, tmp_path / "run", device="cpu")
    next(first)
    for resume in (True, False):
        with pytest.raises(ConfigError, match=r"run: (another command is training this run|exists and is not empty)"):
            fit(settings, tmp_path / "run", resume=resume)
    finish(first)
    assert fit(settings, tmp_path / "run", resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(squares, tiny_preset, tmp_path):
    settings = config(tiny_preset, squares, "steps=30", "evaluate_every=7")
    with pytest.raises(TrainingDiverged, match=r"last good checkpoint: .*step-00000006.*lower learning_rate"):
        for event in train_steps(settings, tmp_path / "run"):
            if event.kind == "validated" and event.run.step == 7:
                next(event.run.model.parameters()).data.fill_(float("nan"))
    assert all(torch.isfinite(tensor).all() for tensor in weights(newest_checkpoint(tmp_path / "run")).values())


def test_mirrored_images_are_trained_on_and_have_other_labels_of_a_teacher(
    run, squares, tiny_preset, tmp_path, monkeypatch
):
    made = []

    class Kept(Teacher):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr("slotlab.training.loop.Teacher", Kept)
    mirrored = fit(config(tiny_preset, squares, "mirror=true"), tmp_path / "mirrored")
    assert rows(mirrored) != rows(run)
    fit(config(tiny_preset, squares, "mirror=true", f"teacher={run}", "teacher_merged=true"), tmp_path / "taught")
    (teacher,) = made
    both = [number for number in teacher._kept if number + MIRRORED in teacher._kept]
    assert teacher.merged and any(not teacher._kept[one].equal(teacher._kept[one + MIRRORED]) for one in both)


def test_noise_on_bi_level_starts_is_part_of_the_training(squares, tiny_preset, tmp_path):
    final = []
    for steps in (0, 6):
        changes = ("initialisation=bi-level", f"slot_noise_steps={steps}", "steps=6")
        final.append(weights(fit(config(tiny_preset, squares, *changes), tmp_path / str(steps))))
    assert not torch.equal(final[0]["encoder.slot_attention.start"], final[1]["encoder.slot_attention.start"])
