import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from slotlab.data import Clips, ScenesInMemory, check_data, open_data, pack
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


def film(path, count, sides=(16,), codec="libx264"):
    """A film whose frame n has the grey 8 n, with a key frame every four; it may go on in another size."""
    av, beat = pytest.importorskip("av"), Fraction(1, 10)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=10)
        for part, side in enumerate(sides):
            encoder = av.CodecContext.create(codec, "w") if part else stream.codec_context
            encoder.width = encoder.height = side
            encoder.pix_fmt, encoder.gop_size, encoder.time_base = "yuv420p", 4, beat
            first, last = (count * end // len(sides) for end in (part, part + 1))
            for number in [*range(first, last), None]:
                frame = None
                if number is not None:
                    frame = av.VideoFrame.from_ndarray(np.full((side, side, 3), 8 * number, np.uint8), format="rgb24")
                    frame.pts, frame.time_base = number, beat
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    file.mux(packet)
    return path


def numbers(images):
    """The numbers of frames of `film`."""
    return (images.flatten(-3).mean(dim=-1) * 255 / 8).round().int().tolist()


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.webm", "a.gif"])
def test_frames_of_films_in_any_order(tmp_path, name):
    if name == "a.gif":
        pytest.importorskip("av")
        shades = [Image.new("L", (16, 16), 8 * number) for number in range(20)]
        shades[0].save(tmp_path / name, save_all=True, append_images=shades[1:])
    else:
        film(tmp_path / name, 20, codec="libvpx-vp9" if name == "a.webm" else "libx264")
    data = open_data(f"films:{tmp_path / name}", split="all")
    order = [0, 19, 7, 3, 4, 5, 2, 18, 18]
    assert len(data) == 20 and numbers(data.batch(order)["image"]) == order
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(lambda number: numbers(data[number]["image"]), range(20))] == [*range(20)]
    again = pickle.loads(pickle.dumps(data))
    assert numbers(again[9]["image"]) == 9


def test_films_of_a_turned_camera_are_upright(tmp_path):
    av = pytest.importorskip("av")
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    with av.open(str(tmp_path / "turned.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write turned films")
        stream.set_display_rotation(90)  # to the left
        for frame in (av.VideoFrame.from_ndarray(pixels, format="rgb24"), None):
            file.mux(stream.encode(frame))
    (upright,) = film_frames(tmp_path / "turned.mp4")
    assert upright.shape == (32, 16, 3) and upright[:14].min() > 200 and upright[18:].max() < 50


def test_films_are_clips(tmp_path, run_slotlab):
    for name in ("train/a", "train/b", "val/c"):
        film(tmp_path / "films" / f"{name}.mp4", 11)
    data = open_data(tmp_path / "films", frames=3, stride=2, resolution=8)
    assert isinstance(data, Clips) and not data.has_masks and len(data) == 4
    assert numbers(data.batch([0, 1, 3])["image"]) == [[0, 2, 4], [5, 7, 9], [5, 7, 9]]
    assert len(open_data(tmp_path / "films", split="val")) == 1
    one = open_data(tmp_path / "films" / "val" / "c.mp4", frames=1, split="val")  # its samples are split
    assert numbers(one.batch([0])["image"]) == [[1]]
    found = check_data(tmp_path / "films")
    assert (found.count, found.masks, found.sizes, found.ok) == (33, 0, {"16x16": 33}, True)
    assert found.clips and found.splits == {"train": 2, "val": 1}  # clips, not frames
    found = check_data("scenes:moving", count=2, frames=3, resolution=16)
    assert (found.count, found.masks, found.clips, found.splits["val"]) == (18, 18, True, 2)
    found = check_data(pack("scenes:moving", tmp_path / "moving", count=2, frames=3, resolution=16))
    assert (found.count, found.masks, found.clips, found.splits["val"]) == (18, 18, True, 2)
    run_slotlab.fine("data", "pack", tmp_path / "films", tmp_path / "packed", "--resolution", 8, "--frames", 5)
    assert numbers(open_data(tmp_path / "packed", split="val").batch([0, 1])["image"]) == [[*range(5)], [*range(5, 10)]]


def test_bad_films(tmp_path, run_slotlab):
    film(tmp_path / "films" / "good.mp4", 5)
    empty, broken, cut = (tmp_path / "films" / f"{name}.mp4" for name in ("empty", "broken", "cut"))
    empty.write_bytes(b"")
    broken.write_bytes(b"not a film" * 100)
    cut.write_bytes((tmp_path / "films" / "good.mp4").read_bytes()[:-200])
    for path in (empty, broken, cut, tmp_path / "missing.mp4"):
        with pytest.raises(DataError, match=f"{path}: .*; (convert it to mp4|give another film)"):
            next(film_frames(path))
    with pytest.raises(DataError, match=r"broken.mp4: cannot be read as a film"):
        open_data(tmp_path / "films")
    assert len(open_data(f"films:{tmp_path / 'films'}", split="all", skip_broken=True)) == 5
    status, out, _ = run_slotlab("data", "check", tmp_path / "films")
    assert status == 1 and all(path.name in out for path in (empty, broken, cut))
    with pytest.raises(DataError, match=r"old.avi: does not say when its frames are shown; convert it to mp4"):
        open_data(film(tmp_path / "old.avi", 5))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no readable film here"):
        open_data(f"films:{tmp_path / 'none'}")


def test_a_film_of_several_sizes_is_refused(tmp_path):
    path = film(tmp_path / "two.mkv", 8, sides=(16, 32), codec="libvpx")
    with pytest.raises(DataError, match=r"two.mkv: frames of 16x16 and 32x32; convert the film to one size"):
        [*film_frames(path)]
    data = open_data(path, frames=8, split="all", resolution=8)
    with pytest.raises(DataError, match="frames of 16x16 and 32x32"):
        data.batch([0])


def test_a_list_of_other_files_is_no_film(tmp_path):
    pytest.importorskip("av")
    write_film(tmp_path / "film.mp4", [np.zeros((16, 16, 3), np.uint8)] * 2)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile film.mp4\n")
    with pytest.raises(DataError, match=r"list.mp4: cannot be read as a film"):
        next(film_frames(tmp_path / "list.mp4"))
