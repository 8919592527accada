import json
import shutil

import pytest

import slotlab
from slotlab import released
from slotlab.errors import CheckpointError


@pytest.fixture
def copy(released, tmp_path):
    return shutil.copytree(released, tmp_path / "copy")


def change_one_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scenes-65", r"scenes-65: no such model folder.*did you mean 'scenes-64'\?"),
        ("scene-64-diffusion", "did you mean 'scenes-64-diffusion'"),
        ("nowhere", "no trained model of that name; there are: moving-64, photos, scenes-64, scenes-64-diffusion"),
        ("scenes-32", "a preset without trained weights; train it with: slotlab train scenes-32 --out RUN"),
        ("runs/nowhere", "runs/nowhere: no such model folder; give the folder that `slotlab train"),
    ],
)
def test_an_unknown_name_suggests_what_was_meant(name, message, tmp_path, monkeypatch, no_network):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()  # so that `runs/nowhere` is a path, and no name on the hub
    for load in (slotlab.load, slotlab.load_library):
        with pytest.raises(CheckpointError, match=message):
            load(name)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "concepts/slots.safetensors"])
def test_a_file_that_was_changed_is_named_with_the_remedy(copy, file):
    load = slotlab.load_library if "concepts" in file else slotlab.load
    load(copy)
    change_one_byte(copy / file)
    with pytest.raises(CheckpointError, match=rf"copy/{file}: changed or damaged.*publish it again, or remove manif"):
        load(copy)


def test_weights_in_the_package_that_differ_ask_for_a_new_installation(copy, monkeypatch):
    monkeypatch.setattr(released, "WEIGHTS", copy.parent)
    assert slotlab.list_models(pretrained=True) == ["copy"]
    change_one_byte(copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.safetensors: .* SHA-256 .* pip install --force-reinstall"):
        slotlab.load("copy")


def test_a_release_without_a_library_says_how_to_make_one(copy, run_slotlab, tmp_path):
    shutil.rmtree(copy / "concepts")
    error = run_slotlab.refused("compose", copy, copy, "--out", tmp_path / "out")
    assert f"{copy}: comes without a concept library; make one with: slotlab concepts fit {copy}" in error


def test_files_that_are_missing_and_damaged_manifests_are_named(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors: missing"):
        slotlab.load(copy)
    (copy / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"manifest.json: not the manifest of"):
        slotlab.load(copy)
    (copy / "manifest.json").write_text(json.dumps({"format": "slotlab-release", "version": 99, "sha256": {}}))
    with pytest.raises(CheckpointError, match=r"version 99; this slotlab reads version 1"):
        slotlab.load(copy)


def test_a_folder_of_ones_own_comes_before_a_model_of_that_name(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes-64").mkdir()  # such as a data set
    assert slotlab.load("scenes-64").resolution == 64
    shutil.rmtree(tmp_path / "scenes-64")
    shutil.copytree(copy, tmp_path / "scenes-64")
    assert slotlab.load("scenes-64").resolution == 16


def test_a_model_comes_from_the_hub_once(hub, released, monkeypatch):
    shutil.copytree(released, hub / "someone" / "tiny")
    model = slotlab.load("someone/tiny")
    assert model.config == slotlab.load(released).config
    library = slotlab.load_library("hf:someone/tiny", model)
    assert library.identity == slotlab.load_library(released).identity
    (commit,) = (hub.parent / "cache" / "models--someone--tiny" / "snapshots").iterdir()
    assert slotlab.load(f"someone/tiny@{commit.name}").config == model.config
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")  # nobody is there
    assert slotlab.load("someone/tiny").config == model.config


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("someone/nothing", "someone/nothing: no such model folder here, and no such public model or revision"),
        ("someone/tiny@v9", "someone/tiny@v9: .*no such public model or revision"),
        ("someone/other", r"someone/other: its repository has no manifest.json: slotlab publish did not write it"),
    ],
)
def test_what_the_hub_does_not_have_is_said(hub, released, name, message):
    shutil.copytree(released, hub / "someone" / "tiny")
    (hub / "someone" / "other").mkdir()
    (hub / "someone" / "other" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        slotlab.load(name)


def test_a_hub_that_cannot_be_reached_is_said(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(CheckpointError, match=r"someone/tiny: no such model folder here, and the hub gave nothing \("):
        slotlab.load("someone/tiny")


def test_a_download_that_was_changed_is_to_be_removed(hub, released):
    shutil.copytree(released, hub / "someone" / "tiny")
    slotlab.load("someone/tiny")
    (weights,) = (hub.parent / "cache").rglob("model.safetensors")
    change_one_byte(weights)
    with pytest.raises(CheckpointError, match=r"model.safetensors: changed .*; remove .*models--someone--tiny to down"):
        slotlab.load("someone/tiny")
