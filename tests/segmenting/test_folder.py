import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import png_by_hand
from PIL import Image

import slotlab
from slotlab.errors import ConfigError, DataError
from slotlab.segmenting import folder

SLOTS = 4


def picture(number, size=(20, 14)):
    random = np.random.default_rng(number)
    return Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path):
    """Images of several sizes and suffixes, in a folder and below it."""
    root = tmp_path / "photos"
    (root / "day" / "one").mkdir(parents=True)
    picture(0).save(root / "a.png")
    picture(1, (9, 30)).save(root / "b.jpg")
    picture(2, (16, 16)).save(root / "day" / "a.png")
    picture(3, (40, 31)).save(root / "day" / "one" / "c.v2.webp")
    (root / "notes.txt").write_text("no image")
    return root


def rows(out):
    with (out / "segments.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stamps(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if "segments" not in path.name}


def test_every_image_gets_its_files_in_its_own_size_and_folder(model, photos, tmp_path):
    out = tmp_path / "out"
    listing = slotlab.segment(model, photos, out=out, batch_size=3)
    assert [outcome.name for outcome in listing.outcomes] == ["a", "b", "day/a", "day/one/c.v2"]
    for outcome in listing.outcomes:
        image = Image.open(outcome.image).convert("RGB")
        expected = slotlab.segment_image(model, image)
        stem = str(out / outcome.name)
        segmentation = Image.open(f"{stem}_segmentation.png")
        assert segmentation.mode == "P"
        np.testing.assert_array_equal(np.asarray(segmentation), expected.segmentation.numpy())
        for slot in range(SLOTS):
            mask = np.asarray(Image.open(f"{stem}_{slot}.png"))
            np.testing.assert_allclose(mask / 255, expected.masks[slot].numpy(), atol=0.6 / 255)
        painted = np.asarray(Image.open(f"{stem}.png")).transpose(2, 0, 1)
        np.testing.assert_allclose(painted / 255, expected.reconstruction.numpy(), atol=0.6 / 255)
        np.testing.assert_array_equal(np.asarray(Image.open(f"{stem}_overlay.png")), np.asarray(expected.overlay))
        with np.load(f"{stem}.npz") as arrays:
            np.testing.assert_allclose(arrays["slots"], expected.slots.numpy(), atol=1e-5)
            assert arrays["share"].shape == (SLOTS,)
            assert arrays["share"].sum() == pytest.approx(1)
            assert tuple(arrays["size"]) == image.size
    files = sorted(path.name for path in (out / "day" / "one").iterdir())
    assert files == sorted(
        [f"c.v2{end}" for end in (".npz", ".png", "_0.png", "_1.png", "_2.png", "_3.png")]
        + ["c.v2_overlay.png", "c.v2_segmentation.png"]
    )


def test_crop_marks_the_pixels_that_were_not_seen(model, photos, tmp_path):
    slotlab.segment(model, photos / "b.jpg", out=tmp_path / "out", fit="crop")
    owners = np.asarray(Image.open(tmp_path / "out" / "b_segmentation.png"))
    assert (owners[:10] == 255).all()
    assert (owners[19:] == 255).all()
    assert (owners[10:19] < SLOTS).all()
    assert (np.asarray(Image.open(tmp_path / "out" / "b_segmentation.png").convert("RGB"))[:10] == 0).all()
    assert (np.asarray(Image.open(tmp_path / "out" / "b.png"))[:10] == 0).all()


def test_other_formats_hold_what_the_palette_images_show_and_can_be_added_later(model, photos, tmp_path):
    out = tmp_path / "out"
    (photos / "broken.png").write_bytes(b"")
    slotlab.segment(model, photos, out=out, fit="crop")
    again = slotlab.segment(model, photos, out=out, fit="crop", formats=["coco", "cutouts", "coco"])
    kept = [outcome for outcome in again.outcomes if outcome.status == "kept"]
    assert len(kept) == len(again.outcomes) - 1
    coco = json.loads((out / "coco.json").read_text())
    assert [Path(image["file_name"]).with_suffix("").as_posix() for image in coco["images"]] == [o.name for o in kept]
    for image, outcome in zip(coco["images"], kept, strict=True):
        owners = np.asarray(Image.open(out / f"{outcome.name}_segmentation.png"))
        found = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        wanted = {slot: area for slot, area in zip(*np.unique(owners, return_counts=True), strict=True) if slot != 255}
        assert {a["segment"]: a["area"] for a in found} == wanted
        cut = {path.name for path in (out / outcome.name).parent.glob(f"{Path(outcome.name).name}_cutout_*.png")}
        assert cut == {f"{Path(outcome.name).name}_cutout_{slot}.png" for slot in wanted}


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_unreadable_images_are_skipped_and_listed_and_the_others_are_written(model, photos, tmp_path):
    (photos / "empty.png").write_bytes(b"")
    (photos / "text.jpg").write_text("not a picture")
    whole = (photos / "day" / "a.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.ones((4, 4), np.float32)).save(photos / "float.tif")
    picture(4).save(photos / f"{'é' * 111}.png")  # too long for what outputs add
    (photos / "loop.png").symlink_to("loop.png")
    os.mkfifo(photos / "pipe.png")
    for name, side in {"large": 11_000, "bomb": 60_000}.items():
        (photos / f"{name}.png").write_bytes(png_by_hand(side, side))
    listing = slotlab.segment(model, photos, out=tmp_path / "out", batch_size=2)
    reasons = {
        "empty": "is empty",
        "text": "cannot be decoded",
        "cut": "cannot be decoded",
        "float": "no known range",
        "é" * 111: "more than 220 bytes",
        "loop": "no such image file",
        "pipe": "no such image file",
        "large": "11,000x11,000 pixels; at most 67,108,864 in all can be read, make it smaller",
        "bomb": "decompression bomb",
    }
    skipped = {outcome.name: outcome.reason for outcome in listing.skipped}
    assert skipped.keys() == reasons.keys()
    assert [name for name, reason in reasons.items() if reason not in skipped[name]] == []
    assert [row["status"] for row in rows(tmp_path / "out")].count("written") == 4
    assert not list((tmp_path / "out").glob("cut*"))


def test_an_interrupted_run_goes_on_and_does_nothing_twice(model, photos, tmp_path):
    out = tmp_path / "out"
    steps = folder.segment.steps(model, photos, out=out, batch_size=1)
    next(steps), next(steps)
    steps.close()
    assert (out / "b.npz").is_file()
    before = stamps(out)
    listing = slotlab.segment(model, photos, out=out, batch_size=1)
    assert listing.count("kept") >= 2
    assert listing.count("kept") + listing.count("written") == 4
    assert {path: stamps(out)[path] for path in before} == before
    after = stamps(out)
    assert slotlab.segment(model, photos, out=out).count("kept") == 4
    assert stamps(out) == after
    assert [row["status"] for row in rows(out)] == ["kept"] * 4


def test_an_image_that_changed_was_repaired_or_got_another_suffix_is_done_again(model, photos, tmp_path):
    out = tmp_path / "out"
    (photos / "new.png").write_bytes(b"")
    assert len(slotlab.segment(model, photos, out=out).skipped) == 1
    for name in ("new.png", "day/a.png", "a.jpg"):
        picture(9, (10, 10)).save(photos / name)
    (photos / "a.png").unlink()
    os.utime(photos / "a.jpg", (1, 1))  # older than the outputs of a.png
    later = (out / "day" / "a.npz").stat().st_mtime + 5
    os.utime(photos / "day" / "a.png", (later, later))
    status = {outcome.name: outcome.status for outcome in slotlab.segment(model, photos, out=out).outcomes}
    written = dict.fromkeys(("new", "day/a", "a"), "written")
    assert status == written | {"b": "kept", "day/one/c.v2": "kept"}
    assert all(Image.open(out / f"{name}_overlay.png").size == (10, 10) for name in written)


def test_an_image_whose_arrays_are_damaged_is_done_again(model, photos, tmp_path):
    out = tmp_path / "out"
    slotlab.segment(model, photos, out=out)
    with np.load(out / "b.npz") as arrays:
        whole = dict(arrays)
    for damage in ({"error": np.array("a word")}, {"error": np.zeros(2)}, {"slots": np.zeros(3)}):
        np.savez(out / "b.npz", **(whole | damage))
        status = {outcome.name: outcome.status for outcome in slotlab.segment(model, photos, out=out).outcomes}
        assert [name for name in status if status[name] == "written"] == ["b"]
    np.savez(out / "b.npz", image=whole["image"])
    slotlab.segment(model, photos, out=out)
    with np.load(out / "b.npz") as arrays:
        assert set(arrays) == set(whole)


def test_few_images_are_on_their_way_at_a_time(model, tmp_path, monkeypatch):
    """Reading is never far ahead of writing, so memory does not grow with the number of images."""
    root = tmp_path / "many"
    root.mkdir()
    for number in range(120):
        picture(number, (4, 4)).save(root / f"{number:03d}.png")
    read, ahead = [], []
    original = folder._read
    monkeypatch.setattr(folder, "_read", lambda *words: (read.append(1), original(*words))[1])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for done, _ in enumerate(folder.segment.steps(model, root, out=tmp_path / "out", batch_size=5), start=1):
        ahead.append(len(read) - done)
    assert len(ahead) == 120
    assert max(ahead) <= 5 + 2 * 4 * 2 + 2


def test_images_of_one_name_in_several_folders_and_links_do_not_meet(model, tmp_path):
    for name in ("x", "y", "links"):
        (tmp_path / name).mkdir()
        picture(ord(name[0])).save(tmp_path / name / "1.png")
    (tmp_path / "links" / "1.png").rename(tmp_path / "elsewhere.png")
    (tmp_path / "links" / "here.png").symlink_to(tmp_path / "elsewhere.png")
    given = [tmp_path / "x" / "1.png", tmp_path / "y", tmp_path / "x", tmp_path / "links"]
    listing = slotlab.segment(model, given, out=tmp_path / "out")
    assert [outcome.name for outcome in listing.outcomes] == ["x/1", "y/1", "links/here"]
    assert all((tmp_path / "out" / f"{outcome.name}_overlay.png").is_file() for outcome in listing.outcomes)


@pytest.mark.parametrize("other", ["a.jpg", "A.bmp", "a_3.png", "a_overlay.png"])
def test_images_that_would_write_the_same_file_are_refused(model, photos, tmp_path, other):
    picture(7).save(photos / other)
    with pytest.raises(ConfigError, match=r"both would write .*; rename one, or use two output folders"):
        slotlab.segment(model, photos, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_only_look_alike_are_fine(model, photos, tmp_path):
    for other in ("a_4.png", "a_03.png", "a_b.png", "b_overlays.png"):
        picture(7).save(photos / other)
    assert slotlab.segment(model, photos, out=tmp_path / "out").count("written") == 8


def test_outputs_never_lie_among_the_images(model, photos, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for out in (photos, photos / "out", photos / "day", tmp_path, photos / ".." / "photos" / "day" / "one"):
        with pytest.raises(ConfigError, match="would mix; name another --out"):
            slotlab.segment(model, photos, out=out)
    with pytest.raises(ConfigError, match="would mix"):
        slotlab.segment(model, photos / "a.png", out=photos)
    assert sorted(tmp_path.rglob("*")) == before
    assert slotlab.segment(model, [photos / "a.png"], out=photos / "out").count("written") == 1  # beside a single file


def test_bad_input(model, photos, squares, tmp_path):
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    (empty / "text.txt").write_text("")
    for images, message in [
        (empty, r"empty: no image file in this folder or below it \(\.png, \.jpg"),
        ([], "no images: name image files, or folders"),
        (tmp_path / "nowhere", "nowhere: no such file or folder"),
        ([photos, photos / "z.png"], r"z\.png: no such file or folder"),
        (squares, r"masks/000\.png: a mask, not an image"),
    ]:
        with pytest.raises(DataError, match=message):
            slotlab.segment(model, images, out=out)
    for options, message in [
        ({"fit": "squash"}, "fit: unknown 'squash'"),
        ({"mask_source": "decoder"}, "mask_source: unknown"),
        ({"batch_size": 0}, "batch_size: must be 1 or more"),
        ({"seed": -1}, "seed: must be 0 or more"),
    ]:
        with pytest.raises(ConfigError, match=message):
            slotlab.segment(model, photos, out=out, **options)
    assert not out.exists()


def test_a_folder_of_something_else_or_of_other_options_or_another_model_is_refused(
    model, tiny_preset, photos, tmp_path
):
    with pytest.raises(ConfigError, match="day: not empty and does not hold segments"):
        slotlab.segment(model, photos / "a.png", out=photos / "day")
    out = tmp_path / "out"
    slotlab.segment(model, photos, out=out)
    with pytest.raises(
        ConfigError, match=r"out: holds segments with other settings .fit was 'letterbox', now 'crop'; seed was 0"
    ):
        slotlab.segment(model, photos, out=out, fit="crop", seed=1)
    with pytest.raises(ConfigError, match=r"out: holds segments with other settings .input folder was"):
        slotlab.segment(model, photos / "day" / "a.png", out=out)
    with pytest.raises(ConfigError, match=r"other settings \(another model\)"):
        slotlab.segment(slotlab.create_model(tiny_preset), photos, out=out)
    (out / "segments.json").write_text("{")
    with pytest.raises(ConfigError, match=r"segments\.json: not readable"):
        slotlab.segment(model, photos, out=out)


def test_if_nothing_can_be_read_it_is_an_error_that_names_one(model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^\S*a\.png: the file is empty"):
        slotlab.segment(model, tmp_path / "in", out=tmp_path / "out")
    (tmp_path / "in" / "b.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"none of the 2 images can be read; see .*segments\.csv.*a\.png: the file is empty"
    ):
        slotlab.segment(model, tmp_path / "in", out=tmp_path / "out2")
    assert rows(tmp_path / "out")[0]["status"] == "skipped"
