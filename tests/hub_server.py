"""Serves a folder as the Hugging Face Hub: the HTTP of downloads and uploads of models.

`<folder>/<owner>/<name>/` is the newest revision of a repository; there is one branch, "main".
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "hf_test"


@contextmanager
def hub_of(folder: Path) -> Iterator[str]:
    """Serves `folder` as the hub; yields its address. Writing needs the token `TOKEN`."""

    class Handler(_Handler):
        root = folder

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    root: Path

    def do_GET(self):
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["api", "models", owner, name, "revision", revision]:
                repository = self._repository(owner, name, revision)
                if repository is not None:
                    self._answer({"id": f"{owner}/{name}", "sha": _commit(repository), "siblings": []})
            case ["api", "models", owner, name, "tree", revision, *_]:
                repository = self._repository(owner, name, revision)
                if repository is not None:
                    self._answer([_entry(repository, path) for path in _files(repository)])
            case [owner, name, "resolve", revision, *path]:
                repository = self._repository(owner, name, revision)
                if repository is not None:
                    content = (repository / "/".join(path)).read_bytes()
                    headers = {"ETag": f'"{_blob(content)}"', "X-Repo-Commit": _commit(repository)}
                    self._answer(content, headers=headers)
            case _:
                self._answer({"error": f"no such page: {self.path}"}, 404)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid username or password."}, 401)
            return
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["api", "repos", "create"]:
                wanted = json.loads(body)
                repository = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
                (self.root / repository).mkdir(parents=True, exist_ok=True)
                self._answer({"url": f"http://{self.headers['Host']}/{repository}"})
            case ["api", "validate-yaml"]:
                self._answer({"errors": [], "warnings": []})
            case ["api", "models", _, _, "preupload", _]:
                files = json.loads(body)["files"]
                modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
                self._answer({"files": modes})
            case ["api", "models", owner, name, "commit", _]:
                repository = self.root / owner / name
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        path = repository / line["value"]["path"]
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(base64.b64decode(line["value"]["content"]))
                url = f"http://{self.headers['Host']}/{owner}/{name}/commit/{_commit(repository)}"
                self._answer({"commitUrl": url, "commitOid": _commit(repository)})
            case _:
                self._answer({"error": f"no such page: {self.path}"}, 404)

    def _repository(self, owner: str, name: str, revision: str) -> Path | None:
        repository = self.root / owner / name
        if not repository.is_dir():
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", _commit(repository)):
            self._answer({"error": f"Invalid rev id: {revision}"}, 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return repository
        return None

    def _answer(self, content, status: int = 200, headers: dict[str, str] | None = None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format, *args):
        pass


def _files(repository: Path) -> list[Path]:
    return sorted(path for path in repository.rglob("*") if path.is_file())


def _entry(repository: Path, path: Path) -> dict:
    content = path.read_bytes()
    name = path.relative_to(repository).as_posix()
    return {"type": "file", "path": name, "size": len(content), "oid": _blob(content)}


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _commit(repository: Path) -> str:
    return hashlib.sha1("".join(_blob(path.read_bytes()) for path in _files(repository)).encode()).hexdigest()
