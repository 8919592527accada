import shutil

import pytest

import slotlab
from slotlab.errors import CheckpointError, ConfigError
from slotlab.released import check


def test_a_run_is_published_to_a_folder(run_slotlab, slots_run, tmp_path):
    status, out, err = run_slotlab("publish", slots_run, "--to", tmp_path / "first")
    assert status == 0, err
    assert "published: " in out and "card.md" in out
    check(tmp_path / "first")
    assert slotlab.load(tmp_path / "first").slots == 4
    before = (tmp_path / "first" / "manifest.json").read_text()
    assert run_slotlab("publish", slots_run, "--to", tmp_path / "first")[0] == 0
    assert (tmp_path / "first" / "manifest.json").read_text() == before, "the same run gives the same release"


def test_a_released_model_goes_to_the_hub_and_comes_back(hub, released, run_slotlab):
    status, out, err = run_slotlab("publish", released, "--to", "hf:someone/tiny")
    assert status == 0, err
    assert 'slotlab.load("someone/tiny")' in out
    repository = hub / "someone" / "tiny"
    check(repository)
    assert (repository / "README.md").read_text() == (repository / "card.md").read_text()
    assert 'slotlab.load("someone/tiny")' in (repository / "README.md").read_text()
    model = slotlab.load("someone/tiny")
    assert len(slotlab.load_library("someone/tiny", model).slots)
    assert (repository / "model.safetensors").read_bytes() == (released / "model.safetensors").read_bytes()


def test_a_run_goes_to_the_hub_at_once(hub, slots_run):
    assert slotlab.publish(slots_run, "hf:someone/first") == "someone/first"
    assert slotlab.load("hf:someone/first").slots == 4


def test_without_a_login_nothing_is_prepared(hub, slots_run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    monkeypatch.setattr("slotlab.publishing.prepare_steps", lambda *_, **__: pytest.fail("minutes of work for nothing"))
    with pytest.raises(CheckpointError, match=r"hf:someone/first: not published \(.*log in with: hf auth login"):
        slotlab.publish(slots_run, "hf:someone/first")


def test_a_name_that_the_hub_cannot_have_is_refused(hub, slots_run):
    with pytest.raises(CheckpointError, match=r"hf:a/b/c: not published"):
        slotlab.publish(slots_run, "hf:a/b/c")


def test_a_released_model_that_was_changed_is_not_published(released, tmp_path):
    copy = shutil.copytree(released, tmp_path / "copy")
    (copy / "metrics.json").write_text('{"masks": {"ari": 1.0}}')
    with pytest.raises(CheckpointError, match=r"metrics.json: changed or damaged"):
        slotlab.publish(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_left_alone(released, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something other than a released model"):
        slotlab.publish(released, tmp_path)


def test_the_folder_where_one_is_is_not_replaced(released, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="the folder that you are in"):
        slotlab.publish(released, ".")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_is_refused(run_slotlab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run_slotlab("publish", "nowhere", "--to", tmp_path / "out")
    assert status == 2
    assert "nowhere: no such model folder" in err
    (tmp_path / "empty").mkdir()
    status, _, err = run_slotlab("publish", "empty", "--to", tmp_path / "out")
    assert status == 2
    assert "run.json: missing" in err


def test_a_model_from_the_hub_is_published_again(hub, released, tmp_path):
    slotlab.publish(released, "hf:someone/tiny")
    slotlab.publish("someone/tiny", "hf:another/tiny")
    slotlab.publish("another/tiny", tmp_path / "folder")
    slotlab.publish("another/tiny", tmp_path / "folder")
    check(tmp_path / "folder")
