"""What was uploaded does not outlive the studio, however it ends."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from slotlab.studio.app import PREFIX, YOUNG, upload_folder


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def grown_old(folder):
    then = time.time() - 2 * YOUNG
    os.utime(folder, (then, then))


def test_the_folder_is_gone_after_an_error(temporary):
    with pytest.raises(KeyboardInterrupt), upload_folder() as folder:
        (folder / "picture.png").write_bytes(b"mine")
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == []


def test_what_a_killed_studio_left_is_removed_and_nothing_else(temporary):
    killed, starting, other = (temporary / name for name in (f"{PREFIX}killed", f"{PREFIX}starting", "other"))
    for folder in (killed, starting, other):
        (folder / "uploads").mkdir(parents=True)
        (folder / "uploads" / "picture.png").write_bytes(b"mine")
        (folder / "in-use").touch()
    (link := temporary / f"{PREFIX}link").symlink_to(other)
    with upload_folder() as running:
        for folder in (killed, other, running.parent):
            grown_old(folder)
        with upload_folder():
            assert running.is_dir()
            assert not killed.exists()
            assert link.is_symlink()
            assert (starting / "uploads" / "picture.png").exists()
            assert (other / "uploads" / "picture.png").exists()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_studio_that_is_ended_by_a_signal_leaves_nothing(plain_model, tmp_path, end):
    words = ["-m", "slotlab", "studio", "--model", str(plain_model), "--no-browser"]
    studio = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by what a script runs with &
    )
    try:
        assert studio.stdout is not None
        assert studio.stdout.readline().startswith("studio: http://127.0.0.1:")
        assert list(tmp_path.glob(f"{PREFIX}*/uploads"))
        studio.send_signal(end)
        assert studio.wait(120) == 130
    finally:
        studio.kill()
        studio.wait()
    assert [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith(PREFIX)] == []
