import json

import pytest
import torch
from PIL import Image

import slotlab
from slotlab import checkpoints
from slotlab.data import open_data
from slotlab.evaluation import diagnose
from slotlab.models import with_slots


@pytest.fixture(scope="module")
def model(tiny_preset):
    torch.manual_seed(0)
    return slotlab.create_model(tiny_preset).eval()


@pytest.mark.parametrize("kind", ["autoencoder", "diffusion"])
def test_an_evaluation_holds_the_same_diagnosis(kind, model, diffusion_run, squares):
    chosen = with_slots(model if kind == "autoencoder" else checkpoints.load(diffusion_run))
    data = open_data(squares, split="all", resolution=16, count=24)
    numbers, evaluation = diagnose(chosen, data, seed=2).numbers(), slotlab.evaluate(chosen, data, seed=2)
    assert evaluation.diagnostics.pop("mask_source") == ("masks" if kind == "autoencoder" else "attention")
    assert evaluation.diagnostics.keys() == numbers.keys()
    for name in ("slots_used", "mask_entropy", "attention_change", "likeness", "background_slots", "duplicates"):
        assert evaluation.diagnostics[name] == pytest.approx(numbers[name], abs=1e-4), name
    assert evaluation.slots_used == pytest.approx(numbers["slots_used"])
    content = json.loads(json.dumps(evaluation.to_json()))
    assert content["diagnostics"]["slots_used_counts"] == numbers["slots_used_counts"]
    assert content["warnings"] == evaluation.warnings


def test_a_model_whose_decoder_ignores_its_slots_is_caught(model, squares):
    """All of a trained model works, but the masks are the same for each image."""

    class Tiles(torch.nn.Module):
        def forward(self, slots, poses=None):
            painted, _, pictures = decoder(slots, poses)
            tiles = torch.arange(16)[None, :, None].expand(len(slots), 16, 16) // 4
            return painted, torch.nn.functional.one_hot(tiles, 4).movedim(-1, 1).float(), pictures

    decoder, data = model.decoder, open_data(squares, split="all", resolution=16)
    model.decoder = Tiles()
    try:
        warnings = diagnose(model, data).warnings()
    finally:
        model.decoder = decoder
    assert any(warning.startswith("slots tile the picture: ") for warning in warnings)


def test_a_model_without_slots_has_no_diagnosis(latents_run, squares):
    data = open_data(squares, split="all", resolution=16, count=4)
    evaluation = slotlab.evaluate(checkpoints.load(latents_run), data)
    assert evaluation.diagnostics == {}
    assert evaluation.warnings == []
    content = evaluation.to_json()
    assert content["slots_used"] is None
    json.dumps(content, allow_nan=False)


@pytest.mark.parametrize("source", ["masks", "attention"])
def test_slot_diffusion_is_diagnosed_from_the_shell(run_slotlab, diffusion_run, squares, tmp_path, source):
    words = ["--data", squares, "--split", "all", "--count", 24, "--mask-source", source, "--threads", 1]
    words += ["--json", tmp_path / "found.json", "--out", tmp_path / "look.png"]
    status, printed, err = run_slotlab("diagnose", diffusion_run, *words)
    assert status == 0, err
    for part in ("slots used", "mask entropy", "attention change", "likeness", "dead slots", "protocol: data"):
        assert part in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["diagnostics"]["mask_source"] == source
    assert found["protocol"]["images"] == found["diagnostics"]["images"] == 24
    for warning in found["warnings"]:
        assert f"warning: {warning}" in printed
    picture = Image.open(tmp_path / "look.png")
    assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 50


def test_the_picture_lies_in_the_run_folder(run_slotlab, diffusion_run, squares):
    status, printed, err = run_slotlab("diagnose", diffusion_run, "--data", squares / "images")
    assert status == 0, err
    assert (diffusion_run / "diagnostics.png").is_file()
    assert "diagnostics.png" in printed
    assert "background slots" not in printed


def test_bad_input_ends_with_one_sentence(run_slotlab, latents_run, diffusion_run, squares, tmp_path):
    for words, message in [
        (["diagnose", latents_run, "--data", squares], "latent-autoencoder has no slots"),
        (["diagnose", diffusion_run, "--data", tmp_path / "nowhere"], "nowhere: no such file or folder"),
        (["diagnose", diffusion_run, "--data", squares, "--mask-source", "decoder"], "mask_source: unknown 'decoder'"),
    ]:
        status, _, err = run_slotlab(*words)
        assert status == 2
        assert message in err
        assert "Traceback" not in err
