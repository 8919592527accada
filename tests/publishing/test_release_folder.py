import json
import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import slotlab
from slotlab.data import open_data
from slotlab.errors import CheckpointError, ConfigError
from slotlab.publishing import ImageScores, prepare, write_card
from slotlab.released import check, write_manifest


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


def test_pictures_are_chosen_by_score():
    scores = ImageScores(index=[7, 8, 9, 10], values=[0.5, 0.9, 0.1, 0.9])
    assert scores.chosen(3) == {"first": [0, 1, 2], "best": [1, 3, 0], "worst": [2, 0, 1]}


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


def test_the_card_names_all_data_and_machines_of_the_runs_before(released, tmp_path):
    shutil.copytree(released, tmp_path / "tiny")
    training = read(released, "training.json")
    (last,) = training["runs"]
    scenes = last["train_data"] | {"data": "scenes:plain", "kind": "scenes"}
    before = last | {"machine": "another machine", "train_data": scenes}
    (tmp_path / "tiny" / "training.json").write_text(json.dumps(training | {"runs": [before, before, last]}))
    write_manifest(tmp_path / "tiny")
    write_card(tmp_path / "tiny", "tiny")
    card = (tmp_path / "tiny" / "card.md").read_text()
    assert f"on `scenes:plain`, then on `{last['train_data']['data']}`, in" in card
    assert f"in all on another machine and {last['machine']}." in card
    assert f"It has seen only `scenes:plain` and `{last['train_data']['data']}`; the scores" in card
    assert "Look at the licence of the data too" in card


def test_scenes_are_scored_with_as_many_rays_as_were_trained_on(tiny_preset, run_slotlab, tmp_path):
    few = {"train_count": 24, "validation_count": 2, "max_objects": 4, "supersample": 2, "steps": 2}
    run = slotlab.train(tiny_preset, out=tmp_path / "run", data="scenes:plain", show_progress=False, **few)
    folder = prepare(run, tmp_path / "tiny", name="tiny", images=4, library_images=20)
    command = re.search(r"slotlab (evaluate .+)", (folder / "card.md").read_text())
    assert command is not None
    assert "--max-objects 4 --supersample 2" in command[1]
    words = command[1].replace(" tiny ", f" {folder} ").split()
    status, out, _ = run_slotlab(*words, "--json", tmp_path / "again.json")
    assert status == 0
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


def test_a_folder_with_something_else_is_left_alone(slots_run, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something other than a released model; name a new folder"):
        prepare(slots_run, tmp_path, name="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_weights_beyond_float16_are_refused_and_nothing_is_left(slots_run, tmp_path):
    import shutil

    run = shutil.copytree(slots_run, tmp_path / "run")
    model = slotlab.load(run)
    torch.nn.init.constant_(model.decoder.to_rgb_and_mask.bias, 1e6)
    slotlab.save(model, run)
    with pytest.raises(CheckpointError, match=r"decoder.to_rgb_and_mask.bias: holds values that are not finite in flo"):
        prepare(run, tmp_path / "out", name="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_card_leaves_out_what_is_not_known_of_a_first_part_that_is_gone(released, tmp_path):
    folder = shutil.copytree(released, tmp_path / "release")
    training = read(folder, "training.json")
    training["runs"].insert(0, {"out": "runs/gone"})
    (folder / "training.json").write_text(json.dumps(training))
    write_manifest(folder)
    write_card(folder, "release")
    card = (folder / "card.md").read_text()
    assert "after what `runs/gone` had seen, which is not known" in card
    assert "no other data went into it" not in card
