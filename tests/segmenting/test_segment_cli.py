import json
import shutil

import numpy as np
import pytest
from PIL import Image

import slotlab
from slotlab.figures.grid import write_png


def test_a_folder_is_segmented_from_the_shell(run_slotlab, model_folder, squares, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    words = ["segment", squares / "images", tmp_path / "bad.png", "--model", model_folder, "--threads", 1]
    words += ["--out", squares.parent / "segments", "--json", tmp_path / "listing.json", "--device", "cpu"]
    words += ["--format", "yolo", "--format", "labelme"]
    status, printed, err = run_slotlab(*words)
    assert status == 0, err
    assert "40 written, 0 kept, 1 skipped; masks: masks" in printed
    assert "bad.png: the file is empty (0 bytes)" in err
    listing = json.loads((tmp_path / "listing.json").read_text())
    assert (listing["written"], listing["kept"], listing["skipped"]) == (40, 0, 1)
    assert listing["protocol"]["fit"] == "letterbox"
    assert {image["status"] for image in listing["images"]} == {"written", "skipped"}
    printed = run_slotlab.fine(*words)
    assert "0 written, 40 kept, 1 skipped" in printed
    for pattern in ("yolo/labels/**/*.txt", "labelme/**/*.json"):
        assert len([*(squares.parent / "segments").glob(pattern)]) == 40


def test_images_unlike_the_test_images_of_the_model_are_named(run_slotlab, slots_run, squares, tmp_path):
    run = shutil.copytree(slots_run, tmp_path / "run")
    (run / "metrics.json").unlink(missing_ok=True)  # of another test's evaluation
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    shutil.copy(squares / "images" / "000.png", tmp_path / "in" / "usual.png")
    noise = random.integers(0, 2, (16, 16, 3), dtype=np.uint8) * 255
    Image.fromarray(noise).save(tmp_path / "in" / "odd.png")
    words = ("segment", tmp_path / "in", "--model", run, "--out", tmp_path / "out")
    assert "note:" not in run_slotlab(*words)[1]  # not known before the model is scored
    assert run_slotlab("evaluate", run, "--data", squares, "--split", "all")[0] == 0
    scores = json.loads((run / "metrics.json").read_text())
    assert scores["reconstruction"]["mse"] < scores["usual_error"] < 0.2
    for _ in range(2):  # also of images that were kept
        printed = run_slotlab.fine(*words)
        assert "note: 1 of 2 images is unlike those that" in printed
        assert "odd.png" in printed and "usual.png" not in printed


@pytest.mark.parametrize("name", ["scenes-64", "textured-128"])
def test_photographs_are_unlike_the_scenes_of_the_bundled_models(run_slotlab, tmp_path, name):
    assert run_slotlab("data", "samples", tmp_path / "in")[0] == 0
    rendered = slotlab.render(
        [3], variant="plain" if name == "scenes-64" else "textured", resolution=128, max_objects=6
    )
    write_png(Image.fromarray((rendered.image[0].permute(1, 2, 0) * 255).byte().numpy()), tmp_path / "in" / "scene.png")
    printed = run_slotlab("segment", tmp_path / "in", "--model", name, "--out", tmp_path / "out")[1]
    assert f"unlike those that {name} was trained on" in printed
    assert "scene.png" not in printed
