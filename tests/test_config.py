import itertools

import pytest
import torch
from rich.console import Console
from tiny_timm import open_timm

from slotlab.checkpoints import create_model, list_models
from slotlab.cli.training import settings_table
from slotlab.config import run_config, settings_of
from slotlab.errors import ConfigError
from slotlab.models import DECODERS
from slotlab.models.building import build


@pytest.mark.parametrize("name", list_models())
def test_every_preset_is_valid_and_makes_its_model(name, monkeypatch):
    config = run_config(name)
    if "timm:" in str(config.model):
        open_timm(monkeypatch)
    # On "meta" no memory and no time are spent; weights of a bundled part have to be read.
    with torch.device("cpu" if "pretrained" in str(config.model) else "meta"):
        model = create_model(name)
    assert config.preset == name
    assert model.resolution == config.model["resolution"]


def test_the_report_preset_holds_the_report_s_finalized_parameters():
    model = create_model("slot-attention-clevrtex")
    attention = model.encoder.slot_attention
    assert model.resolution == 128
    assert model.encoder.backbone.out_channels == 64
    assert (attention.slots, attention.iterations, attention.dim) == (11, 3, 64)
    assert attention.to_query.out_features == 64
    assert attention.mlp[0].out_features == 128
    assert model.decoder.broadcast == 128
    assert model.decoder.body[0].in_channels == 64 + 4
    assert model.decoder.body[0].out_channels == 64


def test_the_binding_preset_has_the_report_s_architecture_and_the_recipe_of_textured_128():
    binding, report, textured = (
        run_config(name).model_dump()
        for name in ("slot-attention-clevrtex-binding", "slot-attention-clevrtex", "textured-128")
    )
    starts = {"initialisation": "learned", "gradient": "last-iteration"}
    assert binding["model"]["slot_attention"] == report["model"]["slot_attention"] | starts
    assert binding["model"] | {"slot_attention": None} == report["model"] | {"slot_attention": None, "pixel_sigma": 0.3}
    differing = {key for key, value in textured["training"].items() if binding["training"][key] != value}
    of_size = {"steps", "batch_size", "learning_rate", "warmup_steps", "start_from"}
    assert differing == of_size | {key for key in differing if key.startswith("sharing_penalty") or "_every" in key}


def test_the_report_s_slot_diffusion_holds_its_finalized_parameters():
    with torch.device("meta"):
        model = create_model("slot-diffusion-clevrtex")
    assert sum(parameter.numel() for parameter in model.denoiser.parameters()) == 78_704_131
    assert model.denoiser.time_dim == 128
    assert (model.slots, model.encoder.slot_attention.dim) == (11, 64)
    assert (model.schedule.steps, model.schedule.kind, model.schedule.target) == (1000, "linear", "epsilon")
    assert (model.autoencoder.latent_channels, model.autoencoder.latent_size) == (3, 32)
    assert (model.schedule.start, model.schedule.end) == (0.0015, 0.0195)


def test_short_keys_of_slot_diffusion(tiny_diffusion):
    changes = [
        "steps=5",
        "sampling.steps=3",
        "schedule.steps=50",
        "target=v",
        "num_repeat=2",
        "pretrained=runs/latents",
    ]
    config = run_config(tiny_diffusion, changes)
    assert config.training.steps == 5
    assert config.model["sampling"]["steps"] == 3
    assert config.model["schedule"] == {"steps": 50, "target": "v"}
    assert config.model["denoiser"]["num_repeat"] == 2
    assert config.model["autoencoder"]["pretrained"] == "runs/latents"
    with pytest.raises(ConfigError, match=r"channels: could mean .*model.denoiser.channels"):
        run_config(tiny_diffusion, ["channels=8"])


def test_a_key_may_be_shortened_as_long_as_it_is_unambiguous(tiny_preset):
    config = run_config(tiny_preset, ["slots=6", "steps=5", "encoder.channels=12", "learning_rate=1e-3", "crop=none"])
    assert config.model["slot_attention"]["slots"] == 6
    assert config.model["encoder"]["channels"] == 12
    assert config.training.steps == 5
    assert config.training.learning_rate == 0.001
    assert config.data.crop is None


TRANSFORMER = 384**2 + 256 * 384 + 3 * 768 + 4 * (3 * 768 + 16 * 384**2 + 5 * 384)


@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("dinosaur-mlp", 256 * 256 + 257 * 2048 + 2 * 2049 * 2048 + 2049 * 385),
        ("dinosaur-transformer", 384 + TRANSFORMER),
        ("spot", 9 * 384 + TRANSFORMER),
    ],
)
def test_published_models_of_features_have_the_published_sizes(name, decoder, monkeypatch):
    open_timm(monkeypatch)
    with torch.device("meta"):
        model = create_model(name).train()
        output = model(torch.zeros(2, 3, 224, 224))
    assert output.features.shape == output.predicted.shape == (2, 256, 384)
    assert output.masks.shape == (2, 7, 16, 16) and output.slots.shape == (2, 7, 256)
    encoder = 2 * 384 + 385 * 384 + 385 * 256  # norm and MLP
    start = {"spot": 7 * 256}.get(name, 2 * 256)
    attention = start + 3 * 512 + 3 * 256**2 + 6 * 256**2 + 6 * 256 + 257 * 1024 + 1025 * 256
    learning = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert learning == encoder + attention + decoder


@pytest.mark.parametrize("name", list_models())
def test_every_key_of_a_preset_has_a_meaning(name):
    config = run_config(name)
    settings = settings_of(config.model)
    assert not [key for key, (_, meaning) in settings.items() if not meaning]
    for section, values in config.model.items():
        for key in values if isinstance(values, dict) else ():
            assert f"model.{section}.{key}" in settings


def test_keys_of_a_dry_run_are_whole_on_a_narrow_screen():
    console = Console(width=80)
    with console.capture() as capture:
        console.print(settings_table(run_config("scenes-32")))
    printed = capture.get()
    assert "…" not in printed and "model.decoder.checkpointing" in printed


def test_a_dry_run_prints_the_whole_config_and_trains_nothing(run_slotlab, tiny_preset, tmp_path):
    words = ["train", tiny_preset, "slots=6", "--data", "data/own", "--out", tmp_path / "run", "--dry-run"]
    printed = run_slotlab.fine(*words)
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert "model.slot_attention.slots 6 number of slots K" in lines
    assert "data.source data/own `scenes:VARIANT`, a data set folder, or `kind:PATH`" in lines
    assert "training.clip_norm 1.0 largest norm of the gradient; longer ones are shortened" in lines
    assert not (tmp_path / "run").exists()
    assert run_slotlab("train", tiny_preset, "--dry-run")[0] == 0
    status, _, err = run_slotlab("train", tiny_preset)
    assert (status, err) == (
        2,
        "slotlab: --out: missing; name the folder of the run, or add --dry-run to see its settings\n",
    )


def test_another_kind_of_part_forgets_the_arguments_of_the_old_one(tiny_preset):
    config = run_config(tiny_preset, {"encoder.kind": "resnet", "blocks": 1})
    assert config.model["encoder"] == {"kind": "resnet", "blocks": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["stps=5"],
            r"unknown key 'stps'; did you mean 'steps' \(updates in all\) or .* slotlab train PRESET --dry-run",
        ),
        (["purple=5"], "unknown key 'purple'; all keys: slotlab train PRESET --dry-run"),
        (["channels=5"], "channels: could mean model.encoder.channels or model.decoder.channels"),
        (["steps"], "changes are written key=value"),
        (["steps=0"], r"training.steps: .*greater than or equal to 1 \(got 0\)"),
        (["seed=-1"], "training.seed"),
        (["schedule=cosin"], "training.schedule: .*'cosine'"),
        (["batch_size=many"], "training.batch_size: .*integer.*'many'"),
        (["batch_size={[]: 1}"], "training.batch_size: .*integer"),
        (["batch_size=" + "-" * 100_000 + "1"], "training.batch_size: .*integer"),
        (["model.kind=[1]"], r"unknown kind \[1\]|unknown key|could mean"),
    ],
)
def test_mistakes_are_named(tiny_preset, changes, message):
    with pytest.raises(ConfigError, match=message):
        run_config(tiny_preset, changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slots": 2.5}, r"slot_attention.slots: .*integer \(got 2.5\)"),
        ({"encoder.channels": "wide"}, r"encoder.channels: .*integer \(got 'wide'\)"),
        ({"encoder.strides": 2}, r"encoder.strides: .*Sequence \(got 2\)"),
        ({"resolution": 20}, "doubling"),
    ],
)
def test_a_model_out_of_range_is_refused(tiny_preset, changes, message):
    with pytest.raises(ConfigError, match=message):
        create_model(tiny_preset, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrained": "runs/latents", "layers": 3}, "layers: cannot change a pretrained autoencoder"),
        ({"pretrained": 5}, "pretrained: a folder or name"),
        ({"pretrained": []}, "pretrained: a folder or name"),
    ],
)
def test_a_pretrained_autoencoder_has_a_name_and_is_not_changed(changes, message):
    with pytest.raises(ConfigError, match=f"model.autoencoder.{message}"):
        run_config("scenes-64-diffusion", {f"autoencoder.{name}": value for name, value in changes.items()})


def test_no_pretrained_autoencoder_is_none():
    assert "pretrained" not in run_config("scenes-64-diffusion", ["autoencoder.pretrained=none"]).model["autoencoder"]


def test_a_slash_after_a_folder_makes_no_other_data():
    assert run_config("scenes-32", ["data.source=photos/"]) == run_config("scenes-32", ["data.source=photos"])
    assert run_config("scenes-32", ["data.source=/"]).data.source == "/"


def test_sections_may_be_left_empty(tmp_path):
    preset = tmp_path / "own.yaml"
    preset.write_text("model:\n  kind: slot-autoencoder\n  slot_attention:\ntraining:\n")
    config = run_config(str(preset), ["training.steps=5", "slots=4"])
    assert config.training.steps == 5
    assert config.model["slot_attention"] == {"slots": 4}


def test_a_kind_that_is_no_word_is_unknown():
    with pytest.raises(ConfigError, match=r"decoder.kind: unknown kind \[\]"):
        build("decoder", DECODERS, {"kind": []})


def test_unknown_presets_suggest_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="unknown preset 'slot-atention-clevrtex'; did you mean 'slot-attention-cl"):
        run_config("slot-atention-clevrtex")
    broken = tmp_path / "broken.yaml"
    not_yaml, no_model = "broken.yaml: not readable as YAML", "needs a 'model' section"
    bomb = "a: &a [0, 0]\n" + "".join(
        f"{a}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghij")
    )
    contents = (
        (b"model: [", not_yaml),
        (b"\xff\xfe\x00", not_yaml),
        (b"training: {steps: 3}", no_model),
        (b"model: " + b"[" * 5000, not_yaml),
        (f"{bomb}model: *j".encode(), "an alias"),
        (b"model: {kind: " + b"9" * 5000 + b"}", not_yaml),
        (b"model: {kind: slot-autoencoder}\ntraining: 5", "training: a section of settings, not 5"),
        (b"model: {kind: slot-autoencoder, encoder: cnn}", "model.encoder: a section of settings, not 'cnn'"),
    )
    for content, message in contents:
        broken.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            run_config(str(broken))
