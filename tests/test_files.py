import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from slotlab.errors import ConfigError, DataError
from slotlab.files import MACHINE, DiskFull, Workspace, clear_leftovers, read_json, remove, replacing, write_json


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


def test_leftovers_of_dead_processes_are_cleared_and_a_retired_folder_comes_back(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    theirs = f"{dead.pid}-{MACHINE}-abcdef"
    alive = f".out.{os.getppid()}-{MACHINE}-abcdef.tmp"
    kept = [alive, f".out.{dead.pid}-00000000-abcdef.tmp"]
    kept += [f".other.{theirs}.tmp", ".out.mine.tmp"]
    for name in [*kept, f".out.{dead.pid}.tmp", f".out.{theirs}.tmp", f".out.{os.getpid()}-{MACHINE}-abcdef.tmp"]:
        (tmp_path / name).write_text("half")
    (tmp_path / f".out.{theirs}.old").mkdir()
    with pytest.raises(KeyError), replacing(tmp_path / "out"):
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "out"])
        raise KeyError
    (tmp_path / f".out.{theirs}.old").mkdir()
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive, ".out.mine.tmp", "out"])


def test_writing_a_file_again_removes_what_a_killed_process_left_of_it(tmp_path):
    (tmp_path / ".scores.json.999999999999.tmp").write_text("half")
    (tmp_path / ".other.json.999999999999.tmp").write_text("half")
    write_json(tmp_path / "scores.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.json.999999999999.tmp", "scores.json"]


def test_a_kill_while_a_folder_is_removed_leaves_no_half_under_its_name(tmp_path, monkeypatch):
    (tmp_path / "step" / "deep").mkdir(parents=True)
    monkeypatch.setattr("shutil.rmtree", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        remove(tmp_path / "step")
    assert not (tmp_path / "step").exists()


def test_what_is_synced_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, plain = [], os.fsync

    def note(descriptor):
        done.append((Path(f"/proc/self/fd/{descriptor}").readlink(), (tmp_path / "model").exists()))
        plain(descriptor)

    monkeypatch.setattr("os.fsync", note)
    with replacing(tmp_path / "model", synced=True) as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("all")
    hidden = done[0][0].parent
    assert done == [(hidden / "weights", False), (hidden, False), (tmp_path, True)]
    assert hidden.name.startswith(".model.")


def test_a_full_disk_names_the_file_even_where_a_library_hides_it(tmp_path):
    def write(temporary):
        temporary.write_bytes(bytes(300_000))
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598") from None

    said = r"/out: the disk is full: it needs more than 0.30 MB, [\d.,]+ MB are free; free"
    with pytest.raises(DiskFull, match=said), replacing(tmp_path / "out") as outer:
        outer.mkdir()
        (outer / "other").write_bytes(bytes(300_000))
        with replacing(outer / "table.csv") as inner:
            write(inner)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_kept_and_its_target_replaced_and_a_mounted_disk_is_refused(tmp_path, monkeypatch):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with replacing(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    remove(tmp_path / "link")
    assert (tmp_path / "target").is_file()
    (tmp_path / "large").mkdir()
    (tmp_path / "place").symlink_to("large")
    with replacing(tmp_path / "place") as temporary:
        temporary.mkdir()
        (temporary / "inside").touch()
    assert (tmp_path / "place").is_symlink() and (tmp_path / "large" / "inside").exists()
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "disk")
    with pytest.raises(DataError, match="name a folder inside it"), replacing(tmp_path / "disk"):
        pass


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


def test_a_link_to_itself_is_replaced(tmp_path):
    (tmp_path / "scores.json").symlink_to(tmp_path / "scores.json")
    write_json(tmp_path / "scores.json", {"count": 1})
    assert read_json(tmp_path / "scores.json", "") == {"count": 1}


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_a_named_pipe_in_the_place_of_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ConfigError, match=r"config.json: not readable .*not a regular file"):
        read_json(tmp_path / "config.json", "name another", ConfigError)


def test_the_same_work_resumes_and_other_work_is_refused(tmp_path):
    settings = {"count": 4, "channels": (8, 16), "model": {"name": "tiny"}}
    work = Workspace(tmp_path / "out", "work.json", settings, "an example")
    assert not work.check()
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".work.json.999999999999.tmp").write_text("killed before it had written its settings")
    assert not work.check()
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
