import pytest
import torch
from torch.nn import functional as F

import slotlab
from slotlab.checkpoints import grown, take_parts
from slotlab.config import run_config
from slotlab.errors import CheckpointError
from slotlab.models.broadcast_decoder import SpatialBroadcastDecoder
from slotlab.runs import fit


def model(presets, **changes):
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


def test_a_cell_whose_pixels_are_no_whole_multiple_is_left_as_it_is():
    small = SpatialBroadcastDecoder(8, resolution=16, broadcast=8, channels=8, shuffle=2)
    large = SpatialBroadcastDecoder(8, resolution=24, broadcast=8, channels=8, shuffle=3)
    weights, said = grown(small.state_dict(), shapes(large))
    assert said == []
    assert shapes(small) == {name: tensor.shape for name, tensor in weights.items()}


def test_new_slots_begin_near_those_of_objects_and_old_ones_stay(presets, tmp_path):
    torch.manual_seed(0)
    small, large = model(presets, slots=3), model(presets, slots=6)
    slotlab.save(small, tmp_path / "small")
    assert take_parts(large, tmp_path / "small") == {"encoder": ["3 to 6 slots"], "decoder": []}
    old, new = small.encoder.slot_attention.start, large.encoder.slot_attention.start
    assert torch.equal(new[:, :3], old)
    nearest = torch.cdist(new[0, 3:], old[0]).argmin(dim=1)
    assert nearest.tolist() == [1, 2, 1]
    assert not torch.equal(new[:, 3], new[:, 5])
    again = model(presets, slots=6)
    take_parts(again, tmp_path / "small")
    assert torch.equal(again.encoder.slot_attention.start, new)


def test_a_run_goes_on_from_a_smaller_model(presets, squares, tmp_path, capsys):
    small = model(presets, slots=3)
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


def test_one_slot_does_not_become_several(presets, tmp_path):
    slotlab.save(model(presets, slots=1), tmp_path / "one")
    assert take_parts(model(presets, slots=3), tmp_path / "one") == {"decoder": []}


def test_the_parts_of_a_larger_model_do_not_shrink(presets, tmp_path):
    slotlab.save(model(presets, slots=6), tmp_path / "large")
    small = model(presets, slots=3)
    assert take_parts(small, tmp_path / "large") == {"decoder": []}
    slotlab.save(model(presets, slots=6, dim=24), tmp_path / "wide")
    with pytest.raises(CheckpointError, match="encoder and decoder differ in form"):
        take_parts(small, tmp_path / "wide")
