import pytest
import torch

import slotlab
from slotlab.checkpoints import model_from_config
from slotlab.errors import ConfigError
from slotlab.models.relative_frames import (
    RelativeBroadcastDecoder,
    RelativeFrame,
    RelativeSlotAttention,
    RelativeSlotAutoencoder,
)

KIND = {"model.kind": "relative-slot-autoencoder"}
OLD = {"slot_attention": {"frame": "relative", "slots": 3}, "decoder": {"kind": "broadcast", "position": "relative"}}


def attention(**changes):
    torch.manual_seed(0)
    settings = {"feature_dim": 6, "slots": 3, "dim": 8, "projection_dim": 8, **changes}
    return RelativeSlotAttention((8, 8), **settings)


def test_a_pose_is_mean_and_spread_of_the_attention():
    frame = RelativeFrame(4, 8, channels=3)
    weights = torch.zeros(1, 2, 4, 8)
    weights[0, 0, 1, 2] = weights[0, 0, 1, 5] = 0.5
    weights[0, 1, 3, 7] = 1
    left, right = frame.pose_of(weights.flatten(2))[0]
    torch.testing.assert_close(left, torch.tensor([0.0, -0.25, 0.375, 0.02]), atol=1e-6, rtol=0)
    torch.testing.assert_close(right, torch.tensor([0.875, 0.75, 0.02, 0.02]), atol=1e-6, rtol=0)


def test_cells_are_a_linear_map_of_their_relative_coordinates():
    frame = RelativeFrame(3, 4, channels=5).double()
    poses = torch.rand(2, 3, 4, dtype=torch.float64) + 0.1
    coordinates = (frame.grid - poses[:, :, None, :2]) / (5 * poses[:, :, None, 2:])
    torch.testing.assert_close(frame(poses), frame.embedding(coordinates))


def test_attention_follows_a_translation_of_the_features():
    module, cells = attention(initialisation="learned"), 2
    image = torch.zeros(1, 8, 8, 6)
    image[0, 2:4, 1:3] = torch.randn(6)
    content = module.start
    poses = torch.tensor([[[-0.4, -0.3, 0.1, 0.1], [0.1, 0.2, 0.1, 0.2], [0.3, -0.2, 0.2, 0.1]]])
    logits = []
    for shift in (0, cells):
        keys = module.to_key(module.norm_features(image.roll(shift, dims=2).flatten(1, 2)))
        places = module.frame(poses + torch.tensor([0.25 * shift, 0, 0, 0])).relu_()
        queries = module.to_query(module.norm_slots(content))
        placed = (module.place_to_key(places) @ queries[..., None]).squeeze(-1)
        logits.append((queries @ keys.mT + placed).unflatten(2, (8, 8)))
    torch.testing.assert_close(logits[1][..., cells:], logits[0][..., :-cells])


@pytest.mark.parametrize("gradient", ["full", "last-iteration"])
def test_every_parameter_gets_a_gradient(gradient):
    module, decoder = attention(gradient=gradient), RelativeBroadcastDecoder(8, 16, broadcast=4, channels=8)
    slots, maps = module(torch.randn(2, 64, 6))
    assert slots.shape == (2, 3, 12) and maps.shape == (2, 3, 3, 64)
    decoder(slots)[0].square().mean().backward()
    for name, parameter in [*module.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_moving_and_resizing_edit_the_pose(tiny_preset):
    torch.manual_seed(0)
    model = slotlab.create_model(tiny_preset, **KIND).eval()
    decoder = RelativeBroadcastDecoder(8, 16, broadcast=16, channels=8, layers=1, kernel_size=1)
    slot = torch.cat([torch.randn(8), torch.tensor([0.0, 0.0, 0.1, 0.2])])
    moved = model.move(slot, 0.125, 0)
    torch.testing.assert_close(moved[8:], torch.tensor([0.25, 0, 0.1, 0.2]))
    before, after = (decoder(one[None, None])[2] for one in (slot, moved))
    torch.testing.assert_close(after[..., 1:-1, 3:-1], before[..., 1:-1, 1:-3], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.resize(slot, 2)[8:], torch.tensor([0, 0, 0.2, 0.4]))
    with pytest.raises(ConfigError, match=r"move: the centre would be at \(1.25, 0.50\)"):
        model.move(slot, 0.75, 0)
    with pytest.raises(ConfigError, match="resize: the factor must be from 0.20 to 10.00, not 11"):
        model.resize(slot, 11)


def test_the_model_is_one_like_the_others(tiny_preset, tmp_path):
    model = slotlab.create_model(tiny_preset, **KIND).eval()
    output = model(torch.rand(2, 3, 16, 16))
    assert output.slots.shape[2] == model.encoder.slot_attention.dim + 4
    torch.testing.assert_close(model.paint(output.slots)[1], output.masks)
    slotlab.save(model, tmp_path)
    again = slotlab.load(tmp_path)
    torch.testing.assert_close(again.paint(output.slots)[0], model.paint(output.slots)[0])


def test_old_configs_open():
    config = {"kind": "slot-autoencoder", "resolution": 16, **OLD}
    model = model_from_config(config)
    assert isinstance(model, RelativeSlotAutoencoder)
    assert {"decoder.position.embedding.weight", "encoder.slot_attention.frame.embedding.weight"} <= {
        *model.state_dict()
    }
    absolute = {"kind": "slot-autoencoder", "resolution": 16, "slot_attention": {"frame": "absolute"}}
    assert model_from_config(absolute).kind == "slot-autoencoder"
    with pytest.raises(ConfigError, match=r"slot_attention.frame: relative needs decoder.position"):
        model_from_config(config | {"decoder": {"kind": "broadcast"}})
    with pytest.raises(ConfigError, match="broadcast decoder without a position"):
        RelativeSlotAutoencoder(16, decoder={"kind": "broadcast", "position": "add"})
