import json
import os

import pytest

from slotlab.errors import ConfigError, DataError
from slotlab.files import Workspace, read_json, remove, replacing, write_json


def test_a_file_or_folder_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "notes.txt"
    with replacing(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "first"

    folder = tmp_path / "model"
    for text in ("old", "new"):
        with replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert [file.name for file in folder.iterdir()] == ["new"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["deep", "model"]  # nothing is left over


def test_a_link_is_kept_and_its_target_replaced(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with replacing(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    remove(tmp_path / "link")
    assert (tmp_path / "target").is_file()


def test_json_is_read_back_and_faults_name_file_and_remedy(tmp_path):
    path = tmp_path / "settings.json"
    write_json(path, {"seed": 0, "channels": (8, 16)})
    assert read_json(path, "write it") == {"seed": 0, "channels": [8, 16]}
    for text, fault in (("{", "not readable as JSON"), ("[1]", "not a JSON object"), ("[" * 100_000, "not readable")):
        path.write_text(text)
        with pytest.raises(DataError, match=rf"settings.json: {fault}.*; write it"):
            read_json(path, "write it", DataError)
    path.unlink()
    with pytest.raises(DataError, match="missing; write it"):
        read_json(path, "write it", DataError)


def test_the_same_work_resumes_and_other_work_is_refused(tmp_path):
    settings = {"count": 4, "channels": (8, 16), "model": {"name": "tiny"}}
    work = Workspace(tmp_path / "out", "work.json", settings, "an example")
    assert not work.check()
    assert not (tmp_path / "out").exists()
    work.begin()
    (tmp_path / "out" / "images").mkdir()
    (tmp_path / "out" / "images" / f".0.png.{os.getpid()}.tmp").write_text("half")
    (tmp_path / "out" / "images" / ".hidden").write_text("not ours")
    assert work.check()
    work.begin()
    assert [path.name for path in (tmp_path / "out" / "images").iterdir()] == [".hidden"]

    other = Workspace(work.folder, "work.json", {**settings, "count": 5, "model": {"name": "big"}}, "an example")
    with pytest.raises(ConfigError, match="other settings.*count was 4, now 5; model.name was 'tiny', now 'big'"):
        other.check()
    with pytest.raises(ConfigError, match="does not hold a cache"):
        Workspace(work.folder, "cache.json", {}, "a cache").check()
    (work.folder / "work.json").write_text(json.dumps([1]))
    with pytest.raises(ConfigError, match=r"work.json: not a JSON object; name a new folder"):
        work.check()
    with pytest.raises(ConfigError, match="does not hold"):
        Workspace(work.folder / "work.json", "work.json", {}, "an example").check()  # a file, not a folder
