import json
import pickle
import shutil
import time
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import slotlab
from slotlab import checkpoints
from slotlab.checkpoints import grown, take_parts
from slotlab.config import run_config
from slotlab.errors import CheckpointError
from slotlab.models.latent_autoencoder import LatentAutoencoder
from slotlab.models.slot_autoencoder import DECODERS, SpatialBroadcastDecoder
from slotlab.models.video import VideoModel
from slotlab.runs import fit


@pytest.fixture
def saved(tiny_preset, tmp_path):
    model = slotlab.create_model(tiny_preset)
    slotlab.save(model, tmp_path / "model")
    return tmp_path / "model"


def edit(saved, change):
    tensors = load_file(saved / "model.safetensors")
    change(tensors)
    save_file(tensors, saved / "model.safetensors")


def change_config(saved, change):
    config = json.loads((saved / "config.json").read_text())
    change(config)
    (saved / "config.json").write_text(json.dumps(config))


def test_what_was_saved_is_loaded(tiny_preset, tmp_path):
    model = slotlab.create_model(tiny_preset, slots=5).eval()
    slotlab.save(model, tmp_path)
    loaded = slotlab.load(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    images = torch.rand(2, 3, 16, 16)
    generators = [torch.Generator().manual_seed(n) for n in (1, 2)], [torch.Generator().manual_seed(n) for n in (1, 2)]
    assert torch.equal(loaded(images, generators[0]).masks, model(images, generators[1]).masks)


def test_who_may_read_new_files_may_read_a_saved_model(saved, tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    assert {file.stat().st_mode for file in saved.iterdir()} == {usual.stat().st_mode}


BIAS = "decoder.to_rgb_and_mask.bias"
DAMAGES = [
    (lambda m: edit(m, lambda t: t.pop(BIAS)), f"does not fit config.json: missing tensor {BIAS}"),
    (lambda m: edit(m, lambda t: t.update(intruder=torch.zeros(1))), "extra tensor intruder"),
    (lambda m: edit(m, lambda t: t.update({BIAS: torch.zeros(5)})), rf"{BIAS} has shape \[5\], the config wants \[4\]"),
    (lambda m: edit(m, lambda t: t.update({BIAS: torch.zeros(4).bool()})), f"{BIAS} has torch.bool, the model wants"),
    (lambda m: edit(m, lambda t: t.update({BIAS: torch.zeros(4).char()})), f"{BIAS} has torch.int8, the model wants"),
    (lambda m: edit(m, lambda t: t[BIAS].fill_(torch.nan)), f"tensor {BIAS} has values that are not finite: .*earlier"),
    (lambda m: edit(m, lambda t: t[BIAS].fill_(torch.inf)), f"tensor {BIAS} has values that are not finite"),
    (lambda m: (m / "model.safetensors").write_bytes(b"\0" * 10), "model.safetensors: not a whole safetensors file"),
    (lambda m: (m / "model.safetensors").unlink(), "model.safetensors: missing"),
    (lambda m: (m / "config.json").unlink(), "config.json: missing"),
    (lambda m: (m / "config.json").write_text("{"), "config.json: not readable as JSON"),
    (lambda m: change_config(m, lambda c: c["encoder"].update(kind="cnm")), "config.json: encoder.kind: unknown kind"),
    (lambda m: change_config(m, lambda c: c.update(autoencoder={"pretrained": "a/b"})), "a saved model holds its own"),
    (shutil.rmtree, "no such model folder"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_model_is_refused_by_name_without_a_look_at_the_hub(saved, no_network, damage, message):
    damage(saved)
    with pytest.raises(CheckpointError, match=message):
        slotlab.load(saved)


def test_weights_that_may_not_be_read_are_named(saved, monkeypatch):
    def denied(path):
        raise PermissionError("denied")

    monkeypatch.setattr(checkpoints, "load_file", denied)
    with pytest.raises(CheckpointError, match=r"model.safetensors: cannot be read \(denied\)"):
        slotlab.load(saved)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_a_pickle_in_disguise_is_refused_and_not_executed(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (saved / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="pickle, which slotlab never opens"):
        slotlab.load(saved)
    assert not Path("exploded").exists()


def test_pretrained_models_are_made_with_changes_that_keep_the_weights(saved):
    model = slotlab.create_model(str(saved), pretrained=True, iterations=5)
    assert model.config["slot_attention"]["iterations"] == 5
    assert not model.training
    given = slotlab.load(saved).state_dict()
    assert all(torch.equal(tensor, given[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(CheckpointError, match=r"model.safetensors: does not fit config.json.*decoder"):
        slotlab.create_model(str(saved), pretrained=True, **{"decoder.channels": 16})
    with pytest.raises(CheckpointError, match=r"config.json: unknown key 'iteration'; did you mean 'iterations'"):
        slotlab.create_model(str(saved), pretrained=True, iteration=5)
    with pytest.raises(CheckpointError, match=r"training.batch_size: a setting of training"):
        slotlab.create_model(str(saved), pretrained=True, batch_size=4)


def test_half_the_size_is_loaded_in_float32(saved, tmp_path):
    model = slotlab.load(saved)
    slotlab.save(model, tmp_path / "half", half=True)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (saved, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = slotlab.load(tmp_path / "half")
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].half().float())


@pytest.mark.parametrize(
    "wrapped",
    [
        torch.compile,
        torch.nn.DataParallel,
        lambda model: Fabric(accelerator="cpu").setup(torch.compile(model)),
        lambda model: torch.optim.swa_utils.AveragedModel(model),
        lambda model: setattr(model, "decoder", torch.compile(model.decoder)) or model,
    ],
    ids=["compiled", "parallel", "fabric", "average", "part compiled"],
)
@pytest.mark.parametrize("half", [False, True])
def test_a_wrapped_model_is_saved_without_its_wrapping(tiny_preset, tmp_path, wrapped, half):
    model = slotlab.create_model(tiny_preset)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    slotlab.save(wrapped(model), tmp_path, half=half)
    for name, tensor in slotlab.load(tmp_path).state_dict().items():
        assert torch.equal(tensor, weights[name].half().float() if half else weights[name])


HUGE = {
    "slot_attention": {"dim": 30_000, "projection_dim": 30_000, "mlp_dim": 10**9},
    "encoder": {"kind": "resnet", "blocks": 10**6, "channels": [8, 8], "strides": [2, 1]},
    "decoder": {"kind": "broadcast", "broadcast": 4, "channels": 10**9},
}


@pytest.mark.parametrize("section", HUGE)
def test_a_config_that_asks_for_a_huge_model_is_refused_at_once(saved, section):
    change_config(saved, lambda config: config.update({section: HUGE[section], "settings": []}))
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"config.json: describes a far larger model than model.safetensors"):
        slotlab.load(saved)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("network", [{"layers_per_block": 10**6}, {"block_out_channels": [7]}, {"latent_channels": []}])
def test_so_is_a_huge_or_senseless_autoencoder(network, tmp_path):
    slotlab.save(LatentAutoencoder(16, channels=[8, 8], layers=1), tmp_path)
    slotlab.load(tmp_path)
    kept = {"kind": "latent-autoencoder", "resolution": 16, "network": network}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    with pytest.raises(CheckpointError, match=r"config.json: "):
        slotlab.load(tmp_path)


def test_a_part_of_ones_own_that_needs_numbers_when_it_is_made_is_loaded(saved, monkeypatch):
    class Own(SpatialBroadcastDecoder):
        def __init__(self, slot_dim, resolution, broadcast, channels, kernel_size):
            super().__init__(slot_dim, resolution, broadcast, channels, kernel_size=kernel_size)
            self.first_weight = self.to_rgb_and_mask.bias[0].item()

    monkeypatch.setitem(DECODERS, "broadcast", Own)
    assert isinstance(slotlab.load(saved).decoder, Own)


def test_a_setting_that_was_removed_is_named(tiny_preset, tmp_path):
    model = slotlab.create_model(tiny_preset, iterations=5, pixel_sigma=0.3)
    slotlab.save(model, tmp_path)
    assert slotlab.load(tmp_path).config == model.config
    change_config(tmp_path, lambda config: (config["slot_attention"].pop("iterations"), config.pop("pixel_sigma")))
    with pytest.raises(CheckpointError, match=r"config.json: pixel_sigma, slot_attention.iterations missing; restore"):
        slotlab.load(tmp_path)
    change_config(tmp_path, lambda config: config.pop("settings"))  # as configs were before
    assert slotlab.load(tmp_path).config["slot_attention"].get("iterations") is None
    change_config(tmp_path, lambda config: config.update(settings=["kind", 1.5]))
    with pytest.raises(CheckpointError, match=r"config.json: settings: not a list of names; restore"):
        slotlab.load(tmp_path)


def learned(presets, **changes):
    return slotlab.create_model(str(presets / "tiny.yaml"), initialisation="learned", **changes)


def shapes(part):
    return {name: tensor.shape for name, tensor in part.state_dict().items()}


def test_a_cell_of_more_pixels_paints_each_of_the_old_ones_several_times():
    small = SpatialBroadcastDecoder(8, resolution=16, broadcast=8, channels=8, shuffle=2)
    large = SpatialBroadcastDecoder(8, resolution=48, broadcast=8, channels=8, shuffle=6)
    weights, said = grown(small.state_dict(), shapes(large))
    large.load_state_dict(weights)
    assert said == ["each pixel to 3x3"]
    slots = torch.randn(2, 3, 8)
    for painted, wanted in zip(large(slots), small(slots), strict=True):
        wanted = F.interpolate(wanted.flatten(0, -4) if wanted.ndim == 5 else wanted, scale_factor=3)
        torch.testing.assert_close(painted.flatten(0, -4) if painted.ndim == 5 else painted, wanted)
    odd = SpatialBroadcastDecoder(8, resolution=24, broadcast=8, channels=8, shuffle=3)  # no whole multiple of 2
    weights, said = grown(small.state_dict(), shapes(odd))
    assert (said, {name: tensor.shape for name, tensor in weights.items()}) == ([], shapes(small))


def test_new_slots_begin_near_those_of_objects_and_old_ones_stay(presets, tmp_path):
    torch.manual_seed(0)
    small, large = learned(presets, slots=3), learned(presets, slots=6)
    slotlab.save(small, tmp_path / "small")
    assert take_parts(large, tmp_path / "small") == {"encoder": ["3 to 6 slots"], "decoder": []}
    old, new = small.encoder.slot_attention.start, large.encoder.slot_attention.start
    assert torch.equal(new[:, :3], old)
    nearest = torch.cdist(new[0, 3:], old[0]).argmin(dim=1)
    assert nearest.tolist() == [1, 2, 1]
    assert not torch.equal(new[:, 3], new[:, 5])
    again = learned(presets, slots=6)
    take_parts(again, tmp_path / "small")
    assert torch.equal(again.encoder.slot_attention.start, new)


def test_a_run_goes_on_from_a_smaller_model(presets, squares, tmp_path, capsys):
    small = learned(presets, slots=3)
    slotlab.save(small, tmp_path / "small")
    changes = {"start_from": str(tmp_path / "small"), "slots": 5, "initialisation": "learned"}
    still = {"data.source": str(squares), "steps": 2, "learning_rate": 1e-30, "ema_decay": 0.9}
    run = fit(run_config(str(presets / "tiny.yaml"), changes | still), tmp_path / "run")
    assert "encoder (grown: 3 to 5 slots), decoder" in " ".join(capsys.readouterr().out.split())
    saved = slotlab.load(run).encoder.slot_attention.start
    assert saved.shape[1] == 5
    torch.testing.assert_close(saved[:, :3], small.encoder.slot_attention.start)

    fit(run_config(str(presets / "tiny.yaml"), changes | still | {"slots": 2}), tmp_path / "smaller")
    assert "decoder; fresh: encoder" in " ".join(capsys.readouterr().out.split())


def test_one_slot_does_not_become_several_and_larger_parts_do_not_shrink(presets, tmp_path):
    small = learned(presets, slots=3)
    for slots in (1, 6):
        slotlab.save(learned(presets, slots=slots), tmp_path / str(slots))
        assert take_parts(small, tmp_path / str(slots)) == {"decoder": []}
    slotlab.save(learned(presets, slots=6, dim=24), tmp_path / "wide")
    with pytest.raises(CheckpointError, match="encoder and decoder differ in form"):
        take_parts(small, tmp_path / "wide")


def test_a_trained_model_takes_another_number_of_slots(presets, tmp_path):
    model = learned(presets, slots=4)
    slotlab.save(model, tmp_path)
    trained = model.encoder.slot_attention.start
    fewer, more = (slotlab.create_model(str(tmp_path), pretrained=True, slots=slots) for slots in (2, 7))
    assert torch.equal(fewer.encoder.slot_attention.start, trained[:, :2])
    assert torch.equal(more.encoder.slot_attention.start[:, :4], trained)
    new = more.encoder.slot_attention.start[0, 4:]
    assert new.unique(dim=0).shape == new.shape, "new slots differ from each other"
    for slots, changed in ((2, fewer), (7, more)):
        output = changed(torch.rand(1, 3, 16, 16))
        assert output.masks.shape[1] == changed.slots == slots
        slotlab.save(changed, tmp_path / str(slots))
        assert torch.equal(
            slotlab.load(tmp_path / str(slots)).encoder(torch.ones(1, 3, 16, 16))[0],
            changed.encoder(torch.ones(1, 3, 16, 16))[0],
        )
    slotlab.save(VideoModel(model), tmp_path / "video")
    video = slotlab.create_model(str(tmp_path / "video"), pretrained=True, slots=7)
    assert torch.equal(video.image_model.encoder.slot_attention.start, more.encoder.slot_attention.start)
