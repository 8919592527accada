import json

import numpy as np
import pytest
import torch
from PIL import Image

from slotlab.data import Clips, ScenesInMemory, open_data, pack
from slotlab.data.scenes import write_clips
from slotlab.data.video import film_frames, film_rate, write_film
from slotlab.errors import ConfigError, DataError

SMALL = {"variant": "plain", "resolution": 16, "max_objects": 3, "min_objects": 1, "seed": 0, "supersample": 1}


def rendered(**options):
    given = {"split": "test", "resolution": 16, "count": 3, "frames": 4, "min_objects": 1, "max_objects": 3}
    return open_data("scenes:moving", **given | options)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "out"
    return write_clips(folder, count=3, frames=4, **SMALL)


def frames_in(folder, clips, size=8):
    for name, frames in clips.items():
        for frame in range(frames):
            for kind, mode in (("images", "RGB"), ("masks", "L")):
                path = folder / kind / name / f"{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new(mode, (size, size), frame).save(path)
    return folder


def test_a_moving_scene_is_a_clip():
    data = rendered()
    sample = data[1]
    assert (sample["image"].shape, sample["mask"].shape) == ((4, 3, 16, 16), (4, 16, 16))
    assert data.describe()["frames"] == 4
    assert [thing["shape"] for thing in data.objects([1])[0]]
    kept = ScenesInMemory(data)
    assert torch.equal(kept.batch([1])["mask"][0], sample["mask"])
    assert (kept.batch([1])["image"][0] - sample["image"]).abs().max() < 0.5 / 255 + 1e-6
    assert rendered(frames=None)[0]["image"].shape[0] == 12


def test_frames_are_of_clips_only():
    with pytest.raises(ConfigError, match="moving-plain"):
        open_data("scenes:plain", frames=3)


def test_written_clips_are_the_rendered_ones(written):
    data = open_data(written, split="all")
    assert isinstance(data, Clips) and len(data) == 3
    batch, true = data.batch(range(3)), rendered().batch(range(3))
    assert torch.equal(batch["mask"], true["mask"])
    assert (batch["image"] - true["image"]).abs().max() < 1 / 255
    about = json.loads((written / "objects" / "000001.json").read_text())
    assert about["frames"] == 4 and len(about["objects"][0]["rotation"]) == 4


def test_writing_resumes_and_minds_its_settings(written):
    gone = written / "objects" / "000002.json"
    before = (written / "objects" / "000001.json").stat().st_mtime_ns
    gone.unlink()
    write_clips(written, count=3, frames=4, **SMALL)
    assert gone.is_file() and (written / "objects" / "000001.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="frames was 4, now 5"):
        write_clips(written, count=3, frames=5, **SMALL)


def test_windows_strides_and_the_order_of_frames(tmp_path):
    frames_in(tmp_path, {"a": 11, "b": 3})
    data = open_data(f"clips:{tmp_path}", split="all", frames=2, stride=2)
    values = [clip["mask"][:, 0, 0].tolist() for clip in data]
    assert values == [[0, 2], [3, 5], [6, 8], [0, 2]]  # by number: 10 after 9
    with pytest.raises(DataError, match="clips of 3 and 11 frames; pass frames=3"):
        open_data(f"clips:{tmp_path}", split="all").batch([0, 1])
    with pytest.raises(DataError, match="longest clip has 11 frames"):
        open_data(f"clips:{tmp_path}", split="all", frames=12)


def test_splits_never_cut_a_clip(tmp_path):
    frames_in(tmp_path / "flat", {f"{clip:02d}": 3 for clip in range(10)})
    parts = {split: open_data(f"clips:{tmp_path}/flat", split=split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 8, "val": 1, "test": 1}
    frames_in(tmp_path / "named", {"train/x": 2, "val/y": 2, "train/z": 2})
    assert [len(open_data(f"clips:{tmp_path}/named", split=split)) for split in ("train", "val")] == [2, 1]


def test_packed_clips(tmp_path, written):
    packed = pack(open_data(written, split="all"), tmp_path / "packed")
    data = open_data(packed, split="all")
    assert torch.equal(data.batch([2])["mask"], open_data(written, split="all").batch([2])["mask"])
    assert data[0]["image"].shape == (4, 3, 16, 16)


def test_clips_need_frames(tmp_path):
    with pytest.raises(DataError, match="no frames of clips"):
        open_data("clips:scenes:plain")
    with pytest.raises(DataError, match="no such file or folder"):
        open_data(f"clips:{tmp_path}/none")


def test_films_there_and_back(tmp_path):
    pytest.importorskip("av")
    frames = [np.full((10, 15, 3), 40 * number, np.uint8) for number in range(5)]
    write_film(tmp_path / "film.mp4", frames, rate=10)
    found = [*film_frames(tmp_path / "film.mp4")]
    assert len(found) == 5 and found[0].shape == (10, 16, 3)
    assert all(np.abs(one[:, :15].astype(int) - other).max() < 8 for one, other in zip(found, frames, strict=True))
    assert film_rate(tmp_path / "film.mp4") == (10.0, 5)


def test_broken_films(tmp_path):
    pytest.importorskip("av")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a film" * 100)
    for path in (broken, tmp_path / "missing.mp4"):
        with pytest.raises(DataError, match=str(path)):
            next(film_frames(path))


def test_a_list_of_other_files_is_no_film(tmp_path):
    pytest.importorskip("av")
    write_film(tmp_path / "film.mp4", [np.zeros((16, 16, 3), np.uint8)] * 2)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile film.mp4\n")
    with pytest.raises(DataError, match=r"list.mp4: cannot be read as a film"):
        next(film_frames(tmp_path / "list.mp4"))
