"""Slot diffusion from data to report, in its two stages."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_runs import fit, losses

import slotlab
from slotlab import checkpoints
from slotlab.config import run_config
from slotlab.data import open_data, pack
from slotlab.errors import CheckpointError, ConfigError
from slotlab.evaluation import evaluate
from slotlab.models import LatentAutoencoder, SlotDiffusion
from slotlab.reporting.report import write_report
from slotlab.training import objectives
from slotlab.training.loop import train_steps
from slotlab.training.objectives import cross_attention_disagreement
from slotlab.training.setup import start_from


def config(preset, latents, data, *changes):
    return run_config(preset, [f"autoencoder.pretrained={latents}", f"data.source={data}", *changes])


def test_stage_1_leaves_an_autoencoder_whose_latents_have_unit_variance(latents_run, squares):
    model = slotlab.load(latents_run)
    assert isinstance(model, LatentAutoencoder)
    images = open_data(squares, split="train").batch(range(16))["image"]
    latents = model.encode(images)
    assert latents.mean().abs() < 0.2
    assert 0.8 < latents.std() < 1.2
    assert Image.open(latents_run / "previews" / "step-00000006.png").width > 100
    assert losses(latents_run)[-1][1] < losses(latents_run)[0][1]


@pytest.mark.parametrize("family", ["vq", "tiny"])
def test_stage_1_trains_the_other_families_as_well(presets, squares, tmp_path, family):
    changes = [f"family={family}", "codes=8", "steps=3", f"data.source={squares}"]
    run = fit(run_config(str(presets / "tiny-latents.yaml"), changes), tmp_path / "run")
    model = checkpoints.load_autoencoder(run, 16)
    assert model.family == family
    images = open_data(squares, split="train").batch(range(16))["image"]
    assert 0.5 < model.encode(images).std() < 2
    assert model.decode(model.encode(images)).shape == images.shape


def test_reports_name_the_masks_that_there_are(latents_run, diffusion_run, squares):
    html = write_report(diffusion_run, images=2).read_text()
    assert "cross-attention masks" in html.lower()
    assert "decoder masks" not in html.lower()
    assert "sample" in html

    evaluation = evaluate(slotlab.load(latents_run), open_data(squares, split="val"))
    assert evaluation.masks == evaluation.attention == {}
    assert evaluation.reconstruction["psnr"].mean > 5
    html = write_report(latents_run, evaluation=evaluation, images=2).read_text()
    assert "first stage of slot diffusion" in html
    assert "FG-ARI" not in html
    assert "PSNR" in html


def test_stage_2_takes_the_autoencoder_along_and_another_takes_it_from_there(
    tiny_diffusion, diffusion_run, latents_run
):
    model = slotlab.load(diffusion_run)
    assert isinstance(model, SlotDiffusion)
    again = slotlab.create_model(tiny_diffusion, **{"autoencoder.pretrained": str(diffusion_run)})
    assert again.autoencoder.fingerprint() == model.autoencoder.fingerprint()
    assert model.autoencoder.fingerprint() == checkpoints.load_autoencoder(latents_run, 16).fingerprint()
    assert model.config["autoencoder"]["source"] == str(latents_run)
    assert len(losses(diffusion_run)) == 2


def test_stage_2_is_scored_with_both_kinds_of_masks_named(diffusion_run, squares):
    evaluation = evaluate(slotlab.load(diffusion_run), open_data(squares, split="val"), weights="moving average")
    content = json.loads(json.dumps(evaluation.to_json()))
    assert content["protocol"]["mask_sources"]["masks"].startswith("cross-attention masks")
    assert content["protocol"]["mask_sources"]["attention"].startswith("attention masks")
    assert (content["protocol"]["sampler"], content["protocol"]["sampling_steps"]) == ("dpm-solver++", 2)
    assert content["protocol"]["weights"] == "moving average"
    assert content["masks"].keys() == content["attention"].keys() == {"ari", "fg_ari", "miou", "mbo"}


@pytest.mark.parametrize("changes", [(), ("denoiser.dropout=0.5",)])
def test_stage_2_resumes_exactly(tiny_diffusion, latents_run, squares, tmp_path, changes):
    settings = config(tiny_diffusion, latents_run, squares, *changes)
    fit(settings, tmp_path / "whole")
    for event in train_steps(settings, tmp_path / "run"):
        if event.kind == "validated" and event.run.step == 6:
            break  # as a kill does, after the checkpoint of step 3
    resumed = [event.run.step for event in train_steps(settings, tmp_path / "run", resume=True)]
    assert resumed[0] == 3
    again, before = (load_file(tmp_path / run / "model.safetensors") for run in ("run", "whole"))
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_training_from_cached_latents_gives_the_same_losses(
    diffusion_run, tiny_diffusion, latents_run, squares, tmp_path
):
    packed = pack(squares, tmp_path / "packed", resolution=16, latents=checkpoints.load_autoencoder(latents_run, 16))
    assert open_data(packed, split="train")[0]["latents"].shape == (3, 4, 4)
    run = fit(config(tiny_diffusion, latents_run, packed), tmp_path / "run")
    for cached, plain in zip(losses(run), losses(diffusion_run), strict=True):
        assert cached == pytest.approx(plain, rel=1e-5)


def test_latents_of_another_autoencoder_are_refused(presets, tiny_diffusion, latents_run, squares, tmp_path):
    other = slotlab.create_model(str(presets / "tiny-latents.yaml"))
    packed = pack(squares, tmp_path / "packed", resolution=16, latents=other)
    with pytest.raises(ConfigError, match="packed: its latents are of another autoencoder"):
        fit(config(tiny_diffusion, latents_run, packed), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_accumulated_gradients_are_those_of_the_whole_batch(
    diffusion_run, tiny_diffusion, latents_run, squares, tmp_path
):
    run = fit(config(tiny_diffusion, latents_run, squares, "accumulate=2"), tmp_path / "run")
    for parts, whole in zip(losses(run), losses(diffusion_run), strict=True):
        assert parts == pytest.approx(whole, rel=1e-4)


def test_latents_without_unit_variance_are_refused(presets, tiny_diffusion, squares, tmp_path):
    wide = slotlab.create_model(str(presets / "tiny-latents.yaml"), scale=1000.0)
    slotlab.save(wide, tmp_path / "wide")
    with pytest.raises(ConfigError, match=r"autoencoder.scale: latents .* root mean square"):
        fit(config(tiny_diffusion, tmp_path / "wide", squares), tmp_path / "run")


@pytest.mark.parametrize(
    ("preset", "change", "message"),
    [
        ("tiny-latents", "mask_penalty=0.1", "a latent autoencoder has no masks"),
        ("tiny-latents", "background_penalty=0.1", "needs the decoder of a slot autoencoder"),
        ("tiny", "background_penalty=0.1", "add initialisation=learned, or use mask_penalty"),
        ("tiny-latents", "encoder_learning_rate=0.1", "this model has no slot encoder"),
        ("tiny-latents", "encoder_steps=3", "this model has no slot encoder"),
        ("tiny", "encoder_steps=2", "add start_from=MODEL, or encoder_steps=none"),
        ("tiny", "cross_attention_loss=0.1", "only slot diffusion has cross-attention"),
        ("tiny-latents", "sharing_penalty=0.1", "needs the decoder of a slot autoencoder"),
        ("tiny-latents", "attention_loss=0.1", "needs the decoder of a slot autoencoder"),
        ("tiny-latents", "colour_loss=0.1", "needs the decoder of a slot autoencoder"),
        ("tiny", "slot_noise_steps=3", "only bi-level slot starts take noise"),
        ("tiny", "accumulate=3", "batch_size=4 does not divide into 3 equal parts"),
        ("tiny-diffusion", "steps=3", "slotlab train scenes-64-latents --out runs/latents"),
        ("tiny-diffusion", "pretrained={slots}", "holds a slot-autoencoder, not a latent-autoencoder"),
        (
            "tiny-diffusion",
            "pretrained={latents} cross_attention_loss=0.1 slot_dropout=0.1",
            "would learn to look at empty slots",
        ),
    ],
)
def test_settings_that_do_not_suit_the_model_are_refused(
    presets, squares, slots_run, latents_run, tmp_path, preset, change, message
):
    changes = change.format(slots=slots_run, latents=latents_run).split()
    settings = run_config(str(presets / f"{preset}.yaml"), [*changes, f"data.source={squares}"])
    with pytest.raises((ConfigError, CheckpointError), match=message):
        fit(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_diffusion_can_start_from_the_slots_of_an_autoencoder(presets, tiny_diffusion, latents_run, squares, tmp_path):
    slots = fit(run_config(str(presets / "tiny.yaml"), {"data.source": str(squares)}), tmp_path / "slots")
    settings = config(tiny_diffusion, latents_run, squares, f"start_from={slots}", "encoder_learning_rate=1e-30")
    run = fit(settings, tmp_path / "run")
    images = open_data(squares, split="val").batch(range(2))["image"]
    before, after = (slotlab.load(folder).encode(images, torch.Generator().manual_seed(0)) for folder in (slots, run))
    torch.testing.assert_close(before, after)


def test_a_denoiser_refines_what_the_decoder_of_its_slots_paints(
    presets, tiny_diffusion, latents_run, squares, tmp_path, monkeypatch
):
    painter = slotlab.create_model(str(presets / "tiny.yaml"), initialisation="learned")
    slotlab.save(painter, tmp_path / "painter")
    changes = [f"decoder.{key}={value}" for key, value in painter.config["decoder"].items()]
    changes += ["initialisation=learned", "encoder_steps=0", "accumulate=2"]

    def settings(*more):
        return config(tiny_diffusion, latents_run, squares, *changes, *more)

    painted = settings(f"start_from={tmp_path / 'painter'}")
    run = fit(painted, tmp_path / "run")
    trained = slotlab.load(run)
    for part in ("encoder", "decoder"):
        values = getattr(trained, part).state_dict()
        assert all(values[name].equal(value) for name, value in getattr(painter, part).state_dict().items())
    before = losses(run)
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    assert losses(fit(painted, run, resume=True)) == before
    monkeypatch.setattr(objectives, "MOST_KEPT", 0)  # paintings are not kept
    assert losses(fit(painted, tmp_path / "again")) == before

    both = settings(f"start_from={tmp_path / 'painter'}, {run}")
    model = checkpoints.model_from_config(both.model)
    assert start_from(model, both.training).endswith("run: encoder, decoder, denoiser")
    assert model.denoiser.conv_out.weight.equal(trained.denoiser.conv_out.weight)

    textured = settings("texture.width=4", "texture.channels=8", f"start_from={run}")  # begins as it was
    model = checkpoints.model_from_config(textured.model)
    said = start_from(model, textured.training)
    assert said.endswith("encoder, decoder, denoiser (grown: 6 to 10 channels); fresh: texture")
    images = open_data(squares, split="val").batch(range(2))["image"]
    one, other = (made.eval()(images, torch.Generator().manual_seed(0)).predicted for made in (trained, model))
    torch.testing.assert_close(one, other)
    learned = slotlab.load(fit(textured, tmp_path / "textured"))
    assert not torch.equal(learned.texture.layers[0].weight, model.texture.layers[0].weight)
    assert learned.denoiser.conv_in.weight[:, 6:].any()
    for more in ("texture.layers=2", "texture.width=6"):  # another texture: fresh, and not seen at first
        another = settings("texture.width=4", "texture.channels=8", f"start_from={tmp_path / 'textured'}", more)
        model = checkpoints.model_from_config(another.model)
        assert start_from(model, another.training).endswith("fresh: texture")
        assert not model.denoiser.conv_in.weight[:, 6:].any()
    wider = settings("texture.width=4", "denoiser.channels=32", f"start_from={run}")
    model = checkpoints.model_from_config(wider.model)
    assert start_from(model, wider.training).endswith("encoder, decoder; fresh: texture, denoiser")
    assert all(learned.encoder.state_dict()[name].equal(value) for name, value in painter.encoder.state_dict().items())
    plain = {"initialisation": "learned", "autoencoder.pretrained": str(latents_run)}
    slotlab.save(slotlab.create_model(tiny_diffusion, **plain), tmp_path / "plain")
    for more, message in (
        ([], "would freeze slots after 0 steps: add start_from=MODEL"),
        ([f"start_from={tmp_path / 'plain'}"], "has no decoder that knows its slots; give a slot autoencoder"),
        ([f"start_from={tmp_path / 'painter'}", "encoder_steps=none"], "slots must stay as the decoder knows them"),
        ([f"start_from={tmp_path / 'painter'}", "teacher_balance=0.5"], "says how a teacher's masks are learned"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(settings(*more), tmp_path / "none")
    for number, scale in enumerate((50, 0.001)):
        with pytest.raises(ConfigError, match="needs about 1; set lacking_scale=") as refused:
            fit(settings(f"start_from={tmp_path / 'painter'}", f"lacking_scale={scale}"), tmp_path / "none")
        suits = str(refused.value).rpartition(" ")[2]
        fit(settings(f"start_from={tmp_path / 'painter'}", suits), tmp_path / f"suits-{number}")


@pytest.mark.parametrize(
    ("change", "why"), [("encoder.channels=12", "another form: a fresh one"), ("slots=6", "fewer slots: the new ones")]
)
def test_what_has_learned_nothing_is_not_frozen(tiny_diffusion, latents_run, squares, tmp_path, change, why):
    start = slotlab.create_model(
        tiny_diffusion, initialisation="learned", **{"autoencoder.pretrained": str(latents_run)}
    )
    slotlab.save(start, tmp_path / "start")
    changes = [f"start_from={tmp_path / 'start'}", "encoder_steps=2", "initialisation=learned", change]
    with pytest.raises(ConfigError, match=f"has {why} would stay untrained after 2 steps"):
        fit(config(tiny_diffusion, latents_run, squares, *changes), tmp_path / "run")


def test_slots_stay_as_they_are_after_the_encoder_s_steps(tiny_diffusion, latents_run, squares, tmp_path):
    fresh = slotlab.create_model(tiny_diffusion, **{"autoencoder.pretrained": str(latents_run)})
    slotlab.save(fresh, tmp_path / "fresh")

    def trained(name, steps):
        changes = [
            f"start_from={tmp_path / 'fresh'}",
            "ema_decay=0",
            "schedule=constant",
            "encoder_steps=4",
            "checkpoint_every=5",
            f"steps={steps}",
        ]
        settings = config(tiny_diffusion, latents_run, squares, *changes)
        run = fit(settings, tmp_path / name)
        if steps > 5:  # resumed after the encoder stopped, it comes out the same
            whole = load_file(run / "model.safetensors")
            shutil.rmtree(run / "checkpoints" / "step-00000006")
            fit(settings, run, resume=True)
            again = load_file(run / "model.safetensors")
            assert all(again[name].equal(value) for name, value in whole.items())
        return slotlab.load(run)

    four, six = trained("four", 4), trained("six", 6)
    images = open_data(squares, split="val").batch(range(2))["image"]
    slots = [model.encode(images, torch.Generator().manual_seed(0)) for model in (four, six, fresh)]
    torch.testing.assert_close(slots[0], slots[1])
    assert not torch.allclose(slots[0], slots[2], atol=1e-4)
    assert not torch.equal(four.denoiser.conv_out.weight, six.denoiser.conv_out.weight)


def test_cross_attention_learns_where_slot_attention_looks(tiny_diffusion, latents_run, squares, tmp_path):
    images = open_data(squares, split="val").batch(range(2))["image"]

    def disagreement(name, weight):
        changes = ["ema_decay=0", "steps=8", "learning_rate=0.01", f"cross_attention_loss={weight}"]
        run = fit(config(tiny_diffusion, latents_run, squares, *changes), tmp_path / name)
        with torch.no_grad():
            return cross_attention_disagreement(slotlab.load(run)(images, torch.Generator().manual_seed(0)))

    assert disagreement("guided", 10.0) < disagreement("free", 0.0)


def test_the_autoencoder_stays_the_one_that_was_named(diffusion_run, presets, tiny_diffusion, tmp_path):
    slotlab.save(slotlab.create_model(str(presets / "tiny-latents.yaml")), tmp_path / "fresh")
    model = slotlab.create_model(tiny_diffusion, **{"autoencoder.pretrained": str(tmp_path / "fresh")})
    assert list(checkpoints.take_parts(model, diffusion_run)) == ["encoder", "denoiser"]
    assert model.autoencoder.fingerprint() == checkpoints.load_autoencoder(tmp_path / "fresh", 16).fingerprint()


def test_the_empty_slot_comes_along(tiny_diffusion, latents_run, tmp_path):
    changes = {"autoencoder.pretrained": str(latents_run), "slot_dropout": 0.1}
    given, model = (slotlab.create_model(tiny_diffusion, **changes) for _ in range(2))
    slotlab.save(given, tmp_path / "given")
    assert not torch.equal(model.empty_slot, given.empty_slot)
    checkpoints.take_parts(model, tmp_path / "given")
    assert torch.equal(model.empty_slot, given.empty_slot)


def test_parts_of_another_form_are_refused(presets, tiny_diffusion, latents_run, squares, tmp_path):
    slotlab.save(slotlab.create_model(str(presets / "tiny.yaml"), slots=5), tmp_path / "other")
    settings = config(tiny_diffusion, latents_run, squares, f"start_from={tmp_path / 'other'}", "dim=16")
    with pytest.raises(
        CheckpointError, match="a slot-autoencoder, has no part to start a slot-diffusion from; encoder"
    ):
        fit(settings, tmp_path / "run")
