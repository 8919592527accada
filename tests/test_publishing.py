import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import slotlab
from slotlab.config import run_config
from slotlab.data import open_data
from slotlab.errors import CheckpointError, ConfigError
from slotlab.publishing import prepare, training_records, write_card
from slotlab.released import check, write_manifest
from slotlab.runs import train


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_the_weights_are_those_of_the_run_in_float16(released, slots_run):
    stored = load_file(released / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    loaded = slotlab.load(released)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    for name, tensor in slotlab.load(slots_run).state_dict().items():
        assert torch.equal(tensor.half().float(), loaded.state_dict()[name])


def test_scores_and_library_are_of_exactly_these_weights(released, squares):
    model = slotlab.load(released)
    data = open_data(squares, split="test", resolution=16)
    again = slotlab.evaluate(model, data, weights="moving average").to_json()
    kept = read(released, "metrics.json")
    assert kept["masks"] == again["masks"]
    assert kept["attention"] == again["attention"]
    assert kept["protocol"] == {**again["protocol"], "data": f"data/{squares.name}"}
    library = slotlab.load_library(released, model)  # which refuses slots of other weights
    assert library.table.facts["images"] == 20


def test_the_card_has_command_seed_version_protocol_and_pictures(released):
    card = (released / "card.md").read_text()
    training = read(released, "training.json")["runs"][-1]
    assert training["command"] in card
    for said in ("Seed 0, 12 steps", f"slotlab {slotlab.__version__}", training["machine"], "split test", "Apache-2.0"):
        assert said in card
    assert "slotlab evaluate tiny --data data/" in card
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", card)
    assert pictures == ["first.png", "best.png", "worst.png", "concepts/concepts.png", "concepts/compositions.png"]
    for picture in pictures:
        with Image.open(released / picture) as image:
            assert min(image.size) > 100


def card_of(released, folder, change):
    """The card of a copy in which the records of the runs are changed."""
    shutil.copytree(released, folder)
    training = read(folder, "training.json")
    (folder / "training.json").write_text(json.dumps(training | {"runs": change(*training["runs"])}))
    write_manifest(folder)
    write_card(folder, folder.name)
    return (folder / "card.md").read_text()


def test_the_card_names_all_data_and_machines_of_the_runs_before(released, tmp_path):
    (last,) = read(released, "training.json")["runs"]
    scenes = last["train_data"] | {"data": "scenes:plain", "kind": "scenes"}
    before = last | {"machine": "another machine", "train_data": scenes}
    card = card_of(released, tmp_path / "tiny", lambda last: [before, before, last])
    assert f"on `scenes:plain` and `{last['train_data']['data']}`, in" in card
    assert f"in all on another machine and {last['machine']}." in card
    assert f"It has seen only `scenes:plain` and `{last['train_data']['data']}`; the scores" in card
    assert "Look at the licence of the data too" in card


def test_the_card_leaves_out_what_is_not_known_of_a_first_part_that_is_gone(released, tmp_path):
    card = card_of(released, tmp_path / "tiny", lambda last: [{"out": "runs/gone"}, last])
    assert "after what `runs/gone` had seen, which is not known" in card
    assert "no other data went into it" not in card


def test_a_record_without_what_a_card_needs_is_one_sentence(released, tmp_path):
    with pytest.raises(CheckpointError, match="training.json: .*'processes'; only a trained run can be published"):
        card_of(released, tmp_path / "tiny", lambda last: [{key: last[key] for key in last.keys() - {"processes"}}])


def test_scenes_are_scored_with_as_many_rays_as_were_trained_on(tiny_preset, run_slotlab, tmp_path):
    few = {"train_count": 24, "validation_count": 2, "max_objects": 4, "supersample": 2, "steps": 2}
    run = slotlab.train(tiny_preset, out=tmp_path / "run", data="scenes:plain", show_progress=False, **few)
    folder = prepare(run, tmp_path / "tiny", name="tiny", images=4, library_images=20)
    command = re.search(r"slotlab (evaluate .+)", (folder / "card.md").read_text())
    assert command is not None
    assert "--max-objects 4 --supersample 2" in command[1]
    words = command[1].replace(" tiny ", f" {folder} ").split()
    out = run_slotlab.fine(*words, "--json", tmp_path / "again.json")
    assert "supersample 2" in " ".join(out.split())
    assert read(folder, "metrics.json") == read(tmp_path, "again.json")


def test_nothing_says_where_it_was_made(released, diffusion_run, tmp_path):
    prepared = prepare(diffusion_run, tmp_path / "out", name="diffusion", library_images=20)
    for folder in (released, prepared):
        for path in folder.rglob("*"):
            if path.suffix in (".json", ".md"):
                assert not re.search(r"[\" `(:=]/\w+/", path.read_text().replace("https://", "")), path
    config = read(prepared, "config.json")
    assert config["autoencoder"]["source"] == "runs/latents"
    assert "runs/latents" in (prepared / "card.md").read_text()
    model = slotlab.load(prepared)
    assert len(slotlab.load_library(prepared, model).slots)


def test_an_autoencoder_has_a_card_too(latents_run, tmp_path):
    folder = prepare(latents_run, tmp_path / "out", name="latents")
    check(folder)
    card = (folder / "card.md").read_text()
    assert "PSNR of the reconstruction" in card
    assert "concepts" not in card


def test_a_folder_with_something_else_and_the_one_where_one_is_are_left_alone(released, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="the folder that you are in"):
        slotlab.publish(released, ".")
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something other than a released model; name a new folder"):
        slotlab.publish(released, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    mine = Path(shutil.copytree(released, "first")) / "mine" / "library.json"
    mine.parent.mkdir()
    mine.write_text("{}")
    with pytest.raises(ConfigError, match="library.json: not part of the release, and would be lost"):
        slotlab.publish(released, "first")
    assert mine.is_file()
    Path("page").mkdir()
    Path("page", "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(ConfigError, match="manifest.json: not that of a released model; name a new folder"):
        slotlab.publish(released, "page")


def test_data_without_a_test_split_is_scored_on_val(slots_run, squares, tmp_path):
    for split, numbers in {"train": range(8), "val": range(8, 12)}.items():
        for part in ("images", "masks"):
            (tmp_path / "data" / part / split).mkdir(parents=True)
            for number in numbers:
                name = f"{number:03d}.png"
                shutil.copy(squares / part / name, tmp_path / "data" / part / split / name)
    released = prepare(slots_run, tmp_path / "out", name="first", data=str(tmp_path / "data"))
    protocol = read(released, "metrics.json")["protocol"]
    assert (protocol["split"], protocol["images"]) == ("val", 4)
    assert "--split val" in (released / "card.md").read_text()


def trained(preset, out, squares, **overrides):
    return train(preset, out=out, data=squares, device="cpu", show_progress=False, **overrides)


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


def test_a_preset_of_ones_own_is_kept_with_its_run(diffusion_run, tmp_path):
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

    of_both = shutil.copytree(second, tmp_path / "of both")
    values = json.loads((of_both / "run.json").read_text())
    values["training"] |= {"start_from": f"{first}, {second}", "teacher": str(first)}
    (of_both / "run.json").write_text(json.dumps(values))
    *before, last = training_records(of_both)
    assert before == [earlier, later]
    training = yaml.safe_load(last["preset_file"])["training"]
    assert (training["start_from"], training["teacher"]) == (f"{earlier['out']},{later['out']}", earlier["out"])


def test_options_that_change_the_last_digits_stay_in_the_command(slots_run, tmp_path):
    run = shutil.copytree(slots_run, tmp_path / "run")
    training = json.loads((run / "training.json").read_text())
    training["command"] = "slotlab train tiny --threads 1 --resume --device=cpu --data /secret --out /secret"
    (run / "training.json").write_text(json.dumps(training))
    (record,) = training_records(run)
    assert record["command"] == "slotlab train tiny.yaml --out runs/run --threads 1 --device=cpu"


def test_a_released_run_and_one_of_its_name_are_told_apart(released, squares, tiny_preset, tmp_path):
    run = trained(tiny_preset, tmp_path / "slots", squares, start_from=str(released), steps=1)
    before, after = training_records(run)
    assert [before] == read(released, "training.json")["runs"]
    assert (before["out"], after["out"]) == ("runs/slots", "runs/slots-1")
    assert "--out runs/slots-1 " in after["command"]


def test_a_run_that_a_release_knows_is_recorded_once(released, slots_run, squares, tiny_preset, tmp_path):
    run = trained(tiny_preset, tmp_path / "run", squares, start_from=str(released), steps=1)
    values = json.loads((run / "run.json").read_text())
    values["training"] |= {"start_from": f"{released},{slots_run}"}
    (run / "run.json").write_text(json.dumps(values))
    known, after = training_records(run)
    assert [known] == read(released, "training.json")["runs"]
    assert yaml.safe_load(after["preset_file"])["training"]["start_from"].endswith(f",{known['out']}")


def test_a_run_is_published_to_a_folder(run_slotlab, slots_run, tmp_path):
    (tmp_path / ".first.999999999.tmp").mkdir()  # left by a kill
    out = run_slotlab.fine("publish", slots_run, "--to", tmp_path / "first")
    assert "published: " in out and "card.md" in out
    check(tmp_path / "first")
    assert slotlab.load(tmp_path / "first").slots == 4
    before = (tmp_path / "first" / "manifest.json").read_text()
    assert run_slotlab("publish", slots_run, "--to", tmp_path / "first")[0] == 0
    assert (tmp_path / "first" / "manifest.json").read_text() == before, "the same run gives the same release"
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_released_model_goes_to_the_hub_comes_back_begins_a_run_and_is_published_again(
    hub, released, run_slotlab, squares, tiny_preset, tmp_path
):
    out = run_slotlab.fine("publish", released, "--to", "hf:someone/tiny")
    assert 'slotlab.load("someone/tiny")' in out
    repository = hub / "someone" / "tiny"
    check(repository)
    assert (repository / "README.md").read_text() == (repository / "card.md").read_text()
    assert 'slotlab.load("someone/tiny")' in (repository / "README.md").read_text()
    model = slotlab.load("someone/tiny")
    assert len(slotlab.load_library("someone/tiny", model).slots)
    assert (repository / "model.safetensors").read_bytes() == (released / "model.safetensors").read_bytes()
    run = trained(tiny_preset, tmp_path / "run", squares, start_from="hf:someone/tiny", steps=1)
    before, after = training_records(run)
    assert [before] == read(released, "training.json")["runs"]
    assert yaml.safe_load(after["preset_file"])["training"]["start_from"] == "hf:someone/tiny"
    assert slotlab.publish("someone/tiny", "hf:another/tiny") == "another/tiny"
    for _ in range(2):
        slotlab.publish("another/tiny", tmp_path / "folder")
    check(tmp_path / "folder")


def test_without_a_login_or_with_an_impossible_name_nothing_is_prepared(hub, slots_run, monkeypatch):
    monkeypatch.setattr(prepare, "steps", lambda *_, **__: pytest.fail("minutes of work for nothing"))
    with pytest.raises(CheckpointError, match=r"hf:a/b/c: not published"):
        slotlab.publish(slots_run, "hf:a/b/c")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(CheckpointError, match=r"hf:someone/first: not published \(.*log in with: hf auth login"):
        slotlab.publish(slots_run, "hf:someone/first")


def test_what_cannot_be_published_is_said_and_nothing_is_left(released, slots_run, run_slotlab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(released, "changed")
    Path("changed", "metrics.json").write_text('{"masks": {"ari": 1.0}}')
    for name in ("damaged", "large"):
        shutil.copytree(slots_run, name)
    Path("damaged", "training.json").write_text(json.dumps(read(slots_run, "training.json") | {"train_data": 7}))
    model = slotlab.load("large")
    torch.nn.init.constant_(model.decoder.to_rgb_and_mask.bias, 1e6)
    slotlab.save(model, "large")
    Path("empty").mkdir()
    for run, message in {
        "changed": "metrics.json: changed or damaged",
        "damaged": "training.json: train_data does not describe data; only a trained",
        "large": "decoder.to_rgb_and_mask.bias: holds values that are not finite in float16",
        "empty": "run.json: missing",
        "nowhere": "nowhere: no such model folder",
    }.items():
        assert message in run_slotlab.refused("publish", run, "--to", "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["changed", "damaged", "empty", "large"]
