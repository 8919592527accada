import json

import numpy as np
import pytest
import torch
from training_runs import fit, losses, weights

from slotlab.checkpoints import load
from slotlab.config import run_config
from slotlab.data.video import write_film
from slotlab.errors import ConfigError
from slotlab.models import VideoModel
from slotlab.publishing import prepare
from slotlab.reporting.report import write_report
from slotlab.training.loop import train_steps
from slotlab.training.objectives import prediction_error, slot_contrast
from slotlab.training.setup import new_model, start_from

PRESET = """
model:
  kind: slot-autoencoder
  resolution: 16
  encoder: {kind: cnn, strides: [2, 1], channels: 8}
  slot_attention: {slots: 3, dim: 8, projection_dim: 8, mlp_dim: 16, initialisation: bi-level}
  decoder: {kind: broadcast, channels: 8}
  video: {heads: 2, predictor_dim: 16}
data: {source: "scenes:moving", frames: 3, min_objects: 1, max_objects: 2, train_count: 4, validation_count: 2}
training:
  {steps: 4, batch_size: 2, warmup_steps: 1, ema_decay: 0.5, contrast_loss: 0.1, prediction_loss: 0.1,
   attention_loss: 0.1, background_penalty: 0.01, evaluate_every: 2, checkpoint_every: 2, slot_noise_steps: 4}
"""


@pytest.fixture
def preset(tmp_path):
    path = tmp_path / "video.yaml"
    path.write_text(PRESET)
    return str(path)


def test_a_resumed_training_is_the_same_bits(preset, tmp_path):
    settings = run_config(preset)
    whole = fit(settings, tmp_path / "whole")
    events = train_steps(settings, tmp_path / "parts", device="cpu")
    for event in events:
        if event.run.step == 3:
            break
    events.close()
    parts = fit(settings, tmp_path / "parts", resume=True)
    assert losses(parts) == losses(whole)
    assert all(torch.equal(one, weights(whole)[name]) for name, one in weights(parts).items())


def test_a_film_is_enough_to_train_on(preset, tmp_path):
    pytest.importorskip("av")
    random = np.random.default_rng(0)
    write_film(tmp_path / "film.mp4", random.integers(0, 255, (60, 24, 32, 3)).astype(np.uint8))
    words = [f"data.source={tmp_path / 'film.mp4'}", "stride=2", "workers=1", "steps=2"]
    run = fit(run_config(preset, words), tmp_path / "run")
    assert np.isfinite(losses(run)).all()
    released = prepare(run, tmp_path / "films", name="films", images=2)  # without masks: scored by PSNR
    examples = json.loads((released / "examples.json").read_text())
    assert examples["score"] == "PSNR of the reconstruction" and 1 <= len(examples["first"]) <= 2


def test_parts_of_a_batch_and_starts_from_boxes(preset, tmp_path):
    run = fit(run_config(preset, ["accumulate=2", "starts=boxes", "steps=2"]), tmp_path / "run")
    assert any(name.startswith("cue.") for name in weights(run))


def test_it_starts_from_a_model_of_images(preset, tmp_path):
    words = ["data.source=scenes:plain", "frames=none", "contrast_loss=0", "prediction_loss=0", "steps=2"]
    image = tmp_path / "image.yaml"
    image.write_text(PRESET.replace("  video: {heads: 2, predictor_dim: 16}\n", ""))
    run = fit(run_config(str(image), words), tmp_path / "run")
    model = new_model(run_config(preset))
    assert isinstance(model, VideoModel)
    said = start_from(model, run_config(preset, [f"start_from={run}"]).training)
    assert said == f"starting from {run}: encoder, decoder; fresh: predictor"


def test_contrast_wants_each_slot_to_stay_itself():
    slots = torch.eye(6)[None, None].repeat(1, 3, 1, 1)
    shuffled = slots.clone()
    shuffled[:, 1] = slots[:, 1, [1, 2, 3, 4, 5, 0]]
    assert slot_contrast(slots) < 0.01 < 5 < slot_contrast(shuffled)


def test_the_error_of_a_prediction_teaches_the_predictor_and_not_the_slots_it_predicts():
    slots = torch.randn(2, 3, 4, 8, requires_grad=True)
    predicted = torch.randn(2, 2, 4, 8, requires_grad=True)
    error = prediction_error(predicted, slots)
    torch.testing.assert_close(error, (predicted - slots[:, 1:]).square().mean())
    error.backward()
    assert predicted.grad is not None and slots.grad is None


def test_contrast_is_of_clips(preset):
    values = run_config(preset).model_dump()
    del values["model"]["video"]
    settings = type(run_config(preset)).model_validate(values)
    from slotlab.training.setup import check_settings

    with pytest.raises(ConfigError, match="contrast_loss: needs a video model"):
        check_settings(new_model(settings), settings, 1)


def test_a_run_is_evaluated_reported_and_published(preset, tmp_path, run_slotlab):
    run = fit(run_config(preset), tmp_path / "run")
    words = ["--data", "scenes:moving", "--count", 2, "--frames", 3, "--max-objects", 3, "--device", "cpu"]
    printed = run_slotlab.fine("evaluate", run, *words)
    assert "whole clips" in printed and "identity" in printed
    report = write_report(run, device="cpu")
    assert "Clips" in report.read_text() and "frames" in report.read_text()
    prepare(run, tmp_path / "film-16", name="film-16", images=2)
    card = (tmp_path / "film-16" / "card.md").read_text()
    assert "video FG-ARI" in card and "frame before" in card and "model.stream" in card
    assert (tmp_path / "film-16" / "first.png").is_file()
    protocol = json.loads((tmp_path / "film-16" / "metrics.json").read_text())["protocol"]
    assert protocol["frames"] == 3  # as many as it was trained on, not 12
    assert isinstance(load(tmp_path / "film-16"), VideoModel)
