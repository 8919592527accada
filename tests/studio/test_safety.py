"""What the server refuses, whoever asks: spoken to directly, without a browser."""

import json
import os
import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest
from visiting import noise

from slotlab.data.images import UPLOAD_LIMITS
from slotlab.studio import app, running
from slotlab.studio.app import LOCAL


def ask(address, path, content=None, kind="application/json", **headers):
    """Status and text of the answer."""
    body = json.dumps(content).encode() if isinstance(content, dict) else content
    request = urllib.request.Request(address + path, body, {"Content-Type": kind, **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def config(address):
    return json.loads(ask(address, "config")[1])


def event_of(address, name, event):
    """The number of the function that an event of the component with an id calls."""
    found = config(address)
    (component,) = (one["id"] for one in found["components"] if one["props"].get("elem_id") == name)
    return next(one["id"] for one in found["dependencies"] if [component, event] in one["targets"])


def upload(address, content, **headers):
    """The path that the server gives an uploaded file."""
    body = b'--mark\r\nContent-Disposition: form-data; name="files"; filename="picture.png"\r\n'
    body += b"Content-Type: image/png\r\n\r\n" + content + b"\r\n--mark--\r\n"
    status, text = ask(address, "gradio_api/upload", body, "multipart/form-data; boundary=mark", **headers)
    return status, json.loads(text)[0] if status == 200 else text


def join(address, function, data, session):
    content = {"data": data, "fn_index": function, "session_hash": session}
    return ask(address, "gradio_api/queue/join", content)


def outcome(address, session):
    """The last message of a session's event."""
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={session}", timeout=30) as stream:
        for line in stream:
            if line.startswith(b"data:"):
                message = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    return message
    raise AssertionError("no outcome")


def given(path):
    return [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]


def test_it_listens_on_this_computer_alone_and_reports_nothing(studio):
    host, port = studio.removeprefix("http://").rstrip("/").split(":")
    assert host == LOCAL
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", int(port)))
    assert config(studio)["analytics_enabled"] is False
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_a_path_from_the_page_is_never_read(studio, squares):
    picture = next((squares / "images").iterdir())
    for field, path in product(("sl-upload", "sl-clip-upload"), (picture, "/etc/hostname", "../../etc/hostname")):
        function = event_of(studio, field, "upload")
        join(studio, function, given(path), session := f"thief-{field}-{Path(path).name}")
        message = outcome(studio, session)
        assert not message["success"]
        assert "data" not in (message["output"] or {})
        assert ask(studio, f"gradio_api/file={path}")[0] in (403, 404)
    assert picture.is_file()


def test_an_upload_is_gone_once_it_is_read(studio):
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    function = event_of(studio, "sl-upload", "upload")
    for content, fine in ((noise(), True), (b"no picture", False)):
        status, path = upload(studio, content)
        assert status == 200
        assert folder in Path(path).parents
        join(studio, function, given(path), session := f"upload-{fine}")
        assert outcome(studio, session)["success"] is fine
        assert not Path(path).exists()
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_one_image_is_uploaded_by_a_whole_class_at_once(studio):
    content, function = noise(), event_of(studio, "sl-upload", "upload")

    def visitor(number):
        path = upload(studio, content)[1]
        join(studio, function, given(path), session := f"class-{number}")
        return outcome(studio, session)["success"]

    with ThreadPoolExecutor(24) as visitors:
        assert all(visitors.map(visitor, range(24)))


def test_only_its_own_page_is_answered(studio):
    port = studio.rstrip("/").rpartition(":")[2]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert ask(studio, "config", Host=host)[0] == 200
        assert upload(studio, noise(), Host=host, Origin=f"http://{host}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", ""):
        assert ask(studio, "config", Host=host)[0] in (400, 403)
    before = sorted(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*"))
    for origin in ("http://evil.example", "null", f"http://localhost:{port}", "http://127.0.0.1:1"):
        status, said = upload(studio, b"theirs", Origin=origin)
        assert (status, "its own page" in said) == (403, True)
    assert sorted(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*")) == before


def test_too_large_a_file_is_not_taken(studio):
    status, said = upload(studio, b"0" * (UPLOAD_LIMITS.size + 1))
    assert status == 413
    assert "Traceback" not in said


def test_work_waits_in_a_bounded_queue_and_nothing_is_left_behind(models, monkeypatch):
    monkeypatch.setattr(app, "WAITING", 3)
    hold = threading.Event()
    held = models[0].model.encoder.register_forward_hook(lambda *_: hold.wait(20) and None)
    try:
        hold.set()
        with running(models[:1]) as address:
            hold.clear()
            folder = Path(os.environ["GRADIO_TEMP_DIR"])
            function = event_of(address, "sl-look-save", "click")
            answers = [join(address, function, ["plain", None], f"busy-{number}") for number in range(9)]
            refused = [text for status, text in answers if status != 200]
            assert 0 < len(refused) < 9
            assert all("full" in text.lower() for text in refused)
            hold.set()
    finally:
        hold.set()
        held.remove()
    assert not folder.exists()
