import json
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

import slotlab
from slotlab.checkpoints import save
from slotlab.data import open_data
from slotlab.data.images import decode_mask
from slotlab.data.video import film_frames, write_film
from slotlab.errors import ConfigError, DataError
from slotlab.models import SlotAutoencoder, TrackedModel, VideoModel
from slotlab.segmenting import clips, find_clips, segment_clips

PARTS = {
    "resolution": 16,
    "encoder": {"kind": "cnn", "strides": [2, 1], "channels": 8},
    "slot_attention": {"slots": 3, "dim": 8, "projection_dim": 8, "mlp_dim": 16, "initialisation": "learned"},
    "decoder": {"kind": "broadcast", "channels": 8},
}


def image_model():
    torch.manual_seed(0)
    return SlotAutoencoder(**PARTS)


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "clips" / "one"
    folder.mkdir(parents=True)
    pixels, _ = slotlab.render_video(0, 11, resolution=32, max_objects=4)
    for number, frame in enumerate(pixels):
        Image.fromarray((frame.permute(1, 2, 0) * 255).byte().numpy()).resize((32, 24)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("make", [image_model, lambda: VideoModel(image_model())])
def test_a_folder_of_frames(make, frames, tmp_path):
    (done,) = segment_clips(make(), frames.parent, out=tmp_path / "out")
    assert done.frames == 11 and done.folder == tmp_path / "out" / "clips" / "one"
    with np.load(done.folder / "slots.npz") as arrays:
        assert arrays["slots"].shape == (11, 3, 8)
        assert arrays["share"].sum(axis=1) == pytest.approx(1)
        shares = arrays["share"]
    for number in (0, 10):  # in the order of the numbers: 10 after 9
        mask = decode_mask(done.folder / "masks" / f"{number:04d}.png", "mask")
        assert mask.shape == (24, 32)
        assert np.bincount(mask.ravel(), minlength=3) / mask.size == pytest.approx(shares[number])
    video = make() if isinstance(make(), VideoModel) else TrackedModel(make())
    from slotlab.segmenting.image import fitting

    seen = [fitting("letterbox", (32, 24), 16).shown(np.asarray(Image.open(frames / f"{n}.png"))) for n in range(11)]
    clip = torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2)[None] / 255
    with torch.no_grad(), np.load(done.folder / "slots.npz") as arrays:
        torch.testing.assert_close(video.eval()(clip).slots, torch.from_numpy(arrays["slots"]), atol=1e-5, rtol=1e-4)


def test_what_is_complete_is_kept(frames, tmp_path):
    (done,) = segment_clips(image_model(), frames, out=tmp_path / "out")
    before = (done.folder / "overlays" / "0003.png").stat().st_mtime_ns
    assert [*segment_clips.steps(image_model(), frames, out=tmp_path / "out")] == []
    assert (done.folder / "overlays" / "0003.png").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="mask_source"):
        segment_clips(image_model(), frames, out=tmp_path / "out", mask_source="attention")


def test_a_film_becomes_a_film(tmp_path, run_slotlab):
    pytest.importorskip("av")
    film, folder = tmp_path / "films" / "film.mp4", tmp_path / "model"
    film.parent.mkdir()
    random = np.random.default_rng(0)
    write_film(film, [np.kron(random.integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)] * 5, rate=25)
    save(VideoModel(image_model()), folder)
    printed = run_slotlab.fine("segment", film, "--model", folder, "--out", tmp_path / "out", "--device", "cpu")
    assert "5 frames" in printed
    overlay = [*film_frames(tmp_path / "out" / "film" / "overlay.mp4")]
    assert len(overlay) == 5 and overlay[0].shape == (48, 64, 3)
    assert len([*(tmp_path / "out" / "film" / "masks").iterdir()]) == 5
    printed = run_slotlab.fine("segment", film.parent, "--model", folder, "--out", tmp_path / "all", "--device", "cpu")
    assert "film.mp4: 5 frames in" in printed
    with pytest.raises(ConfigError, match="format coco: needs the frames of .*film.mp4 as files"):
        segment_clips(image_model(), film, out=tmp_path / "other", formats=["coco"])


def test_frames_from_the_shell(frames, tmp_path, run_slotlab):
    save(image_model(), tmp_path / "model")
    words = ["segment", frames, "--track", "--model", tmp_path / "model", "--out", tmp_path / "out", "--device", "cpu"]
    assert "11 frames" in run_slotlab.fine(*words, "--format", "cutouts")
    run_slotlab.fine(*words, "--format", "coco")
    mask = decode_mask(tmp_path / "out" / "one" / "masks" / "0010.png", "mask")
    data = open_data(tmp_path / "out" / "coco.json", images=frames.parent, split="all")
    written = json.loads((tmp_path / "out" / "coco.json").read_text())
    numbers = [one["segment"] for one in written["annotations"] if one["image_id"] == 11]
    assert data.name(10).endswith("one/10.png") and (np.array([-1, *numbers])[data.read(10).mask] == mask).all()
    cut = Image.open(tmp_path / "out" / "one" / f"10_cutout_{numbers[0]}.png")
    assert (np.asarray(cut)[..., 3] > 0).sum() == (mask == numbers[0]).sum()
    assert "--merge" in run_slotlab.refused(*words, "--merge")


def test_a_clip_of_any_length_needs_the_memory_of_a_few_frames(monkeypatch, frames, tmp_path):
    alive, most = weakref.WeakSet(), []

    class Pixels(np.ndarray):
        __hash__ = object.__hash__

    def many(clip):
        for number in range(60):
            pixels = np.full((24, 32, 3), number, np.uint8).view(Pixels)
            alive.add(pixels)
            most.append(len(alive))
            yield pixels

    monkeypatch.setattr(clips, "frames_of", many)
    (done,) = segment_clips(VideoModel(image_model()), frames, out=tmp_path / "out")
    assert done.frames == 60 and max(most) <= 4


@pytest.mark.parametrize("make", [image_model, lambda: VideoModel(image_model())])
def test_one_frame_is_a_clip(make, frames, tmp_path):
    for path in sorted(frames.iterdir())[1:]:
        path.unlink()
    (done,) = segment_clips(make(), frames, out=tmp_path / "out")
    with np.load(done.folder / "slots.npz") as arrays:
        assert done.frames == 1 and arrays["slots"].shape == (1, 3, 8)


def test_bad_input(frames, tmp_path):
    for path, message in ((tmp_path / "none.mp4", "no such file or folder"), (frames / "0.png", "not a film")):
        with pytest.raises(DataError, match=message):
            find_clips([path])
    Image.new("RGB", (9, 9)).save(frames / "5.png")
    with pytest.raises(DataError, match=r"5.png: has 9x9, the first frame 32x24"):
        segment_clips(image_model(), frames, out=tmp_path / "out")
    assert not (tmp_path / "out" / "one" / "slots.npz").exists()
    with pytest.raises(ConfigError, match="starts"):
        segment_clips(VideoModel(image_model(), starts="boxes"), frames, out=tmp_path / "other")
