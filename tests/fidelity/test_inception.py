import hashlib
import io
import urllib.error
from email.message import Message

import pytest

from slotlab.errors import CheckpointError
from slotlab.fidelity import statistics
from slotlab.fidelity.statistics import cached_file, find_inception

CONTENT = b"the weights"


@pytest.fixture(autouse=True)
def world(monkeypatch, tmp_path):
    """An empty cache, no variable, a known content, and a network that must not be used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(statistics.VARIABLE, raising=False)
    monkeypatch.setattr(statistics, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    serve(monkeypatch, AssertionError("nothing may be downloaded here"))


def serve(monkeypatch, answer):
    def urlopen(request):
        assert request.full_url == statistics.URL
        if isinstance(answer, Exception):
            raise answer
        reply = io.BytesIO(answer)
        reply.info = Message  # no headers
        return reply

    monkeypatch.setattr("torch.hub.urlopen", urlopen)


def test_order_is_argument_variable_cache(monkeypatch, tmp_path):
    files = [tmp_path / "argument.pt", tmp_path / "variable.pt", cached_file()]
    for file in files:
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes(CONTENT)
    assert find_inception() == files[2]
    monkeypatch.setenv(statistics.VARIABLE, str(files[1]))
    assert find_inception() == files[1]
    assert find_inception(files[0]) == files[0]


def test_a_download_is_kept_whole_or_not_at_all_and_offline_says_where_to_put_the_file(monkeypatch):
    serve(monkeypatch, CONTENT[:-1])
    with pytest.raises(CheckpointError, match="could not be downloaded .*invalid hash"):
        find_inception()
    assert list(cached_file().parent.iterdir()) == []
    serve(monkeypatch, urllib.error.URLError("no route"))
    with pytest.raises(CheckpointError) as caught:
        find_inception()
    for said in (statistics.URL, str(cached_file()), "SLOTLAB_INCEPTION", "efficientnet-lite0"):
        assert said in str(caught.value)
    serve(monkeypatch, CONTENT)
    assert find_inception() == cached_file()
    serve(monkeypatch, AssertionError("twice"))
    assert find_inception().read_bytes() == CONTENT


def test_missing_and_other_files(monkeypatch, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere.pt: no such file \(the given file\)"):
        find_inception(tmp_path / "nowhere.pt")
    monkeypatch.setenv(statistics.VARIABLE, str(tmp_path / "gone.pt"))
    with pytest.raises(CheckpointError, match=r"gone.pt: no such file \(\$SLOTLAB_INCEPTION\)"):
        find_inception()
    other = tmp_path / "other.pt"
    other.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="is not the Inception network that FID is defined by"):
        find_inception(other)
