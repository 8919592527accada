import json
import shlex
import shutil

import pytest
import yaml

import slotlab
from slotlab.config import run_config
from slotlab.errors import CheckpointError
from slotlab.publishing import portable, training_records
from slotlab.runs import train


def trained(preset, out, squares, **overrides):
    return train(preset, out=out, data=squares, accelerator="cpu", show_progress=False, **overrides)


def read_released(folder):
    (record,) = json.loads((folder / "training.json").read_text())["runs"]
    return record


def test_the_commands_of_a_run_and_of_those_before_it_make_it_again(squares, tmp_path):
    small = {"steps": 1, "slots": 3, "batch_size": 2, "validation_count": 2, "model.resolution": 16, "broadcast": 4}
    first = trained("scenes-32", tmp_path / "first", squares, **small)
    second = trained("scenes-32", tmp_path / "second", squares, start_from=str(first), seed=5, **small)
    records = training_records(second)
    assert [record["out"] for record in records] == ["runs/first", "runs/second"]
    assert str(tmp_path) not in str(records)
    for record, seed, parent in zip(records, (0, 5), (None, "runs/first"), strict=True):
        words = shlex.split(record["command"])
        assert words[:3] == ["slotlab", "train", "scenes-32"]
        assert words[-4:] == ["--out", record["out"], "--threads", "1"]
        config = run_config("scenes-32", words[3:-4])
        expected = run_config("scenes-32", {**small, "seed": seed, "start_from": parent, "data.source": "data/"})
        assert config.model == expected.model
        assert config.training == expected.training
        assert config.data.source == f"data/{squares.name}"
        assert record["seed"] == seed and record["steps"] == 1 and record["machine"]


def test_a_preset_of_ones_own_is_kept_with_its_run(diffusion_run, latents_run, squares, tmp_path):
    records = training_records(diffusion_run)
    assert [record["out"] for record in records] == ["runs/latents", "runs/diffusion"]
    for record in records:
        name = shlex.split(record["command"])[2]
        (tmp_path / name).write_text(record["preset_file"])
        again = run_config(str(tmp_path / name))
        assert again.training.steps == record["steps"]
    assert again.model["autoencoder"]["pretrained"] == "runs/latents"


def test_a_run_whose_first_part_is_gone_still_has_its_own_record(diffusion_run, tmp_path):
    run = shutil.copytree(diffusion_run, tmp_path / "run")
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace("/latents", "/gone"))
    first, last = training_records(run)
    assert first == {"out": "runs/gone"}
    assert yaml.safe_load(last["preset_file"])["model"]["autoencoder"]["pretrained"] == "runs/gone"


def test_runs_of_one_name_are_told_apart(squares, tiny_preset, tmp_path):
    first = trained(tiny_preset, tmp_path / "old" / "run", squares, steps=1)
    second = trained(tiny_preset, tmp_path / "new" / "run", squares, steps=1, start_from=str(first))
    earlier, later = training_records(second)
    assert earlier["out"] == "runs/run" != later["out"]
    assert yaml.safe_load(later["preset_file"])["training"]["start_from"] == earlier["out"]


def test_options_that_change_the_last_digits_stay_in_the_command(slots_run, tmp_path):
    run = shutil.copytree(slots_run, tmp_path / "run")
    training = json.loads((run / "training.json").read_text())
    training["command"] = "slotlab train tiny --threads 1 --resume --device=cpu --data /secret --out /secret"
    (run / "training.json").write_text(json.dumps(training))
    (record,) = training_records(run)
    assert record["command"] == "slotlab train tiny.yaml --out runs/run --threads 1 --device=cpu"


def test_what_begins_with_a_released_model_has_its_records(released, squares, tiny_preset, tmp_path):
    run = trained(tiny_preset, tmp_path / "run", squares, start_from=str(released), steps=1)
    assert [record["out"] for record in training_records(run)] == ["runs/slots", "runs/run"]


def test_a_released_run_and_one_of_its_name_are_told_apart(released, squares, tiny_preset, tmp_path):
    run = trained(tiny_preset, tmp_path / "slots", squares, start_from=str(released), steps=1)
    before, after = training_records(run)
    assert before == read_released(released)
    assert (before["out"], after["out"]) == ("runs/slots", "runs/slots-1")
    assert "--out runs/slots-1 " in after["command"]


def test_what_begins_with_a_model_of_the_hub_has_its_records(hub, released, squares, tiny_preset, tmp_path):
    slotlab.publish(released, "hf:someone/tiny")
    run = trained(tiny_preset, tmp_path / "run", squares, start_from="hf:someone/tiny", steps=1)
    before, after = training_records(run)
    assert before == read_released(released)
    assert yaml.safe_load(after["preset_file"])["training"]["start_from"] == "hf:someone/tiny"


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("/home/me/clevrtex", "data/clevrtex"),
        ("clevrtex:/home/me/clevrtex", "clevrtex:data/clevrtex"),
        ("data/clevrtex", "data/clevrtex"),
        ("scenes:plain", "scenes:plain"),
        ("hub:owner/name", "hub:owner/name"),
    ],
)
def test_paths_of_a_machine_are_left_out(place, shown):
    assert portable(place, "data") == shown


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"run.json: missing; give the folder that `slotlab train"):
        training_records(tmp_path)
