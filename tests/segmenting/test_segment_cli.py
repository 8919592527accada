import json

import numpy as np
import pytest
from PIL import Image


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
    status, printed, _ = run_slotlab(*words)
    assert status == 0
    assert "0 written, 40 kept, 1 skipped" in printed
    for pattern in ("yolo/labels/**/*.txt", "labelme/**/*.json"):
        assert len([*(squares.parent / "segments").glob(pattern)]) == 40


def test_slot_diffusion_is_segmented_too(run_slotlab, diffusion_run, squares, tmp_path):
    image = squares / "images" / "000.png"
    status, printed, err = run_slotlab("segment", image, "--model", diffusion_run, "--out", tmp_path / "out")
    assert status == 0, err
    assert "masks: attention" in printed
    assert np.asarray(Image.open(tmp_path / "out" / "000.png")).std() > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{tmp} --model {model} --out {out}", "no image file in this folder"),
        ("{data}/images --model {model} --out {data}/images/out", "would mix"),
        ("{data}/images --model {model} --out {out} --fit squeeze", "letterbox, stretch"),
        ("{data}/images --model {model} --out {out} --format cocoa", "did you mean 'coco'?"),
        ("{data}/images --model {latents} --out {out}", "has no slots"),
        ("{data}/images --model {tmp}/nothing --out {out}", "nothing"),
    ],
)
def test_bad_input_ends_with_one_sentence(run_slotlab, model_folder, latents_run, squares, tmp_path, words, message):
    places = {"tmp": tmp_path, "model": model_folder, "data": squares, "out": tmp_path / "out", "latents": latents_run}
    status, _, err = run_slotlab("segment", *words.format(**places).split())
    assert status == 2
    assert err.strip().startswith("slotlab: ")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_help_states_the_rule(run_slotlab):
    status, printed, _ = run_slotlab("segment", "--help")
    assert status == 0
    for part in ("letterbox", "stretch", "crop", "EXIF", "border pixels", "NAME_segmentation.png"):
        assert part in printed
