"""Sample photographs, and downloads from a local server."""

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from slotlab.data import published
from slotlab.data.published import PUBLISHED, SAMPLES, Archive, Published, download
from slotlab.errors import ConfigError, DataError


def test_samples_are_small_photographs_with_their_credits(run_slotlab, tmp_path):
    out = run_slotlab.fine("data", "samples", tmp_path / "samples")
    assert "5 photographs" in out
    photographs = sorted((tmp_path / "samples").glob("*.jpg"))
    credits = (tmp_path / "samples" / "CREDITS.md").read_text(encoding="utf-8")
    for path in photographs:
        with Image.open(path) as image:
            assert image.format == "JPEG" and max(image.size) <= 640
        assert f"`{path.name}`" in credits
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 700_000
    assert run_slotlab("data", "samples", tmp_path / "samples")[0] == 0  # again, over the same files


def test_samples_replace_no_other_file(run_slotlab, tmp_path):
    (tmp_path / "bus.jpg").write_bytes(b"mine")
    status, _, err = run_slotlab("data", "samples", tmp_path)
    assert status == 2 and "bus.jpg: exists and is another file" in err
    assert (tmp_path / "bus.jpg").read_bytes() == b"mine" and not (tmp_path / "CREDITS.md").exists()


class Server:
    """Serves `files`; `cut`: most bytes of the next answer, `asked`: the ranges asked for."""

    def __init__(self):
        self.files, self.cut, self.asked, self.ranges = {}, None, [], True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                content = outer.files.get(self.path.lstrip("/"))
                if content is None:
                    return self.send_error(404)
                asked = self.headers.get("Range")
                outer.asked.append(asked)
                start = int(re.findall(r"\d+", asked)[0]) if asked and outer.ranges else 0
                if start >= len(content):
                    return self.send_error(416)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start:][: outer.cut])
                outer.cut = None

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def server(monkeypatch):
    """A server of a data set "small": a zip, of which one file is used, and a tar in two parts."""
    server = Server()
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as content:
        content.writestr("annotations/wanted.json", "{}")
        content.writestr("annotations/unwanted.json", "[]")
    with tarfile.open(fileobj=tarred, mode="w:gz") as content:
        for name in ("images/a.png", "images/b.png"):
            member = tarfile.TarInfo(name)
            member.size = 5000
            content.addfile(member, io.BytesIO(hashlib.sha256(name.encode()).digest() * 157))
    tar = tarred.getvalue()
    server.files = {"a.zip": zipped.getvalue(), "t_part1.tar.gz": tar[:90], "t_part2.tar.gz": tar[90:]}
    zip_archive = Archive(
        f"{server.address}/a.zip",
        len(zipped.getvalue()),
        hashlib.md5(zipped.getvalue()).hexdigest(),
        ("annotations/wanted.json",),
    )
    archives = (zip_archive, Archive(f"{server.address}/t_part{{part}}.tar.gz", parts=2))
    monkeypatch.setitem(PUBLISHED, "small", Published("a small set", "http://site", "CC0", archives, 1e4))
    yield server
    server.server.shutdown()
    server.server.server_close()


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_data_set_is_downloaded_and_unpacked_once(server, run_slotlab, tmp_path):
    out = run_slotlab.fine("data", "get", "small", tmp_path / "small")
    assert "source: http://site" in out and "licence: CC0" in out and "slotlab data check" in out
    assert names(tmp_path / "small") == ["annotations/wanted.json", "images/a.png", "images/b.png", "source.json"]
    asked = len(server.asked)
    assert run_slotlab("data", "get", "small", tmp_path / "small")[0] == 0
    assert len(server.asked) == asked == 3
    with pytest.raises(ConfigError, match="holds another data set; name a new folder"):
        download("coco", tmp_path / "small")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_cut_is_resumed(server, tmp_path, ranges):
    server.cut, server.ranges = 100, ranges
    with pytest.raises(
        DataError, match=r"a.zip: the connection ended after 100 of .* re-run the same command to resume"
    ):
        download("small", tmp_path)
    download("small", tmp_path)
    assert server.asked[:2] == [None, "bytes=100-"]
    assert "images/b.png" in names(tmp_path)


def test_a_file_that_was_complete_when_the_process_was_killed_is_kept(server, tmp_path):
    (tmp_path / "t_part1.tar.gz.download.part").write_bytes(server.files["t_part1.tar.gz"])
    download("small", tmp_path)
    assert server.asked == [None, "bytes=90-", None]


def test_a_file_that_is_not_the_published_one_is_removed(server, tmp_path):
    good = server.files["a.zip"]
    server.files["a.zip"] = good[:-1] + b"x"
    with pytest.raises(DataError, match=r"a.zip: has another checksum than published, and was removed"):
        download("small", tmp_path)
    server.files["a.zip"] = good + b"more"
    with pytest.raises(DataError, match=r"a.zip: has .* bytes instead of .*, and was removed"):
        download("small", tmp_path)
    server.files["a.zip"] = good
    server.files["t_part2.tar.gz"] = b"no tar"
    with pytest.raises(DataError, match=r"t_part1.tar.gz.download: cannot be unpacked"):
        download("small", tmp_path)
    assert "source.json" not in names(tmp_path)


def test_what_cannot_be_got_is_said_in_one_sentence(server, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no data set 'coca' to get; did you mean 'coco'?"):
        download("coca", tmp_path)
    del server.files["a.zip"]
    with pytest.raises(DataError, match=r"a.zip: cannot be downloaded \(HTTP Error 404"):
        download("small", tmp_path)
    monkeypatch.setattr(published.shutil, "disk_usage", lambda _: published.shutil._ntuple_diskusage(1, 1, 10))
    with pytest.raises(DataError, match="small needs 0.0 GB while it is unpacked, 0.0 GB are free"):
        download("small", tmp_path)


def test_without_a_name_all_are_listed(run_slotlab):
    out = run_slotlab.fine("data", "get")
    for name in ("coco", "voc2012", "clevrtex", "bsds500"):
        assert f"{name}: " in out
