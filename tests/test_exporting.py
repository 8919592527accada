import sys

import pytest
import torch

import slotlab
from slotlab.checkpoints import model_from_config
from slotlab.errors import CheckpointError
from slotlab.exporting import export
from slotlab.models import SlotDiffusion, SlotOutput

SLOTS = {"slots": 3, "dim": 8, "projection_dim": 8, "mlp_dim": 8, "iterations": 2}
LATENTS = {"family": "tiny", "channels": [8, 8], "layers": 1}
DENOISER = {"channels": 8, "multipliers": [1], "attention_levels": [1], "blocks": 1, "num_repeat": 1, "head_dim": 8}
LEARNED = {**SLOTS, "initialisation": "learned", "gradient": "last-iteration"}
MADE = {
    "slot-autoencoder": {"slot_attention": LEARNED, "pixel_sigma": 0.2},
    "relative-slot-autoencoder": {"slot_attention": SLOTS},
    "slot-diffusion": {"slot_attention": SLOTS, "autoencoder": LATENTS, "denoiser": DENOISER},
    "latent-autoencoder": LATENTS,
}
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def made(kind):
    torch.manual_seed(0)
    return model_from_config({"kind": kind, "resolution": 16, **MADE[kind]}).eval()


def test_torch_export_gives_the_typed_output_for_any_batch(tmp_path):
    model = made("slot-autoencoder")
    program = torch.export.export(model, (IMAGES,), dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}})
    torch.export.save(program, tmp_path / "model.pt2")
    images = torch.rand(5, 3, 16, 16)
    output = torch.export.load(tmp_path / "model.pt2").module()(images)
    assert isinstance(output, SlotOutput)
    torch.testing.assert_close(output.masks, model(images).masks)
    assert output.attention_grid == model(images).attention_grid


@pytest.mark.parametrize("kind", MADE)
def test_an_onnx_file_gives_what_the_model_gives(kind, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = made(kind)
    differences = export(model, tmp_path / "model.onnx")
    names = {"latents", "reconstruction"} if kind == "latent-autoencoder" else {"slots", "attention", "masks"}
    assert names <= differences.keys()
    assert max(differences.values()) < 1e-4
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    (one,) = session.run([min(names)], {"images": IMAGES[:1].numpy()})
    generator = torch.Generator().manual_seed(0)
    output = model.segment(IMAGES[:1], generator) if isinstance(model, SlotDiffusion) else model(IMAGES[:1], generator)
    torch.testing.assert_close(torch.from_numpy(one), getattr(output, min(names)), atol=1e-4, rtol=1e-3)


def test_without_onnx_the_extra_is_named(run_slotlab, tiny_preset, tmp_path, monkeypatch):
    slotlab.save(slotlab.create_model(tiny_preset), tmp_path / "model")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, _, said = run_slotlab("export", tmp_path / "model", "--out", tmp_path / "model.onnx")
    assert (status, said) == (2, "slotlab: ONNX needs onnxruntime: pip install 'slotlab[onnx]'\n")
    assert not (tmp_path / "model.onnx").exists()


def test_other_numbers_are_not_written(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("slotlab.exporting.TOLERANCE", 0.0)
    with pytest.raises(CheckpointError, match=r"model.onnx: not written: onnxruntime differs from the model in slots"):
        export(made("slot-autoencoder"), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
