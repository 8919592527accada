import pytest
import torch

from slotlab.checkpoints import create_model
from slotlab.errors import ConfigError
from slotlab.models import SlotAttention, SpatialBroadcastDecoder
from slotlab.models.position import RelativeFrame


def test_a_pose_is_mean_and_spread_of_the_attention():
    frame = RelativeFrame(4, 8, channels=3)
    weights = torch.zeros(1, 2, 4, 8)
    weights[0, 0, 1, 2] = weights[0, 0, 1, 5] = 0.5
    weights[0, 1, 3, 7] = 1
    left, right = frame.pose_of(weights.flatten(2))[0]
    torch.testing.assert_close(left, torch.tensor([-0.375 / 2 + 0.375 / 2, -0.25, 0.375, 0.02]), atol=1e-6, rtol=0)
    torch.testing.assert_close(right, torch.tensor([0.875, 0.75, 0.02, 0.02]), atol=1e-6, rtol=0)


def test_cells_are_a_linear_map_of_their_relative_coordinates():
    frame = RelativeFrame(3, 4, channels=5).double()
    poses = torch.rand(2, 3, 4, dtype=torch.float64) + 0.1
    coordinates = (frame.grid - poses[:, :, None, :2]) / (5 * poses[:, :, None, 2:])
    torch.testing.assert_close(frame(poses), frame.embedding(coordinates))
    torch.testing.assert_close(frame.rectified(poses), torch.relu(frame.embedding(coordinates)))


def test_the_frame_moves_with_the_pose():
    frame = RelativeFrame(8, 8, channels=5)
    pose = torch.tensor([[[0.0, 0.25, 0.1, 0.2]]])
    seen = frame(pose).unflatten(2, (8, 8))
    one_cell = torch.tensor([[[0.25, 0.0, 0.0, 0.0]]])
    moved = frame(pose + one_cell).unflatten(2, (8, 8))
    torch.testing.assert_close(moved[..., :, 1:, :], seen[..., :, :-1, :])


def test_attention_follows_a_translation_of_the_features():
    torch.manual_seed(0)
    module = SlotAttention(6, slots=3, dim=8, projection_dim=8, initialisation="learned", frame="relative", grid=(8, 8))
    feature, shift = torch.randn(6), 2
    image = torch.zeros(1, 8, 8, 6)
    image[0, 2:4, 1:3] = feature
    poses = torch.tensor([[[-0.4, -0.3, 0.1, 0.1], [0.1, 0.2, 0.1, 0.2], [0.3, -0.2, 0.2, 0.1]]])
    keys, values = module.to_key(module.norm_features(image.flatten(1, 2))), module.to_value(image.flatten(1, 2))
    moved = image.roll(shift, dims=2)
    moved_keys = module.to_key(module.norm_features(moved.flatten(1, 2)))
    slots = module.initial_slots(1)
    places, moved_places = (torch.relu(module.frame(p)) for p in (poses, poses + torch.tensor([0.25 * shift, 0, 0, 0])))

    def logits(keys, places):
        queries = module.to_query(module.norm_slots(slots))
        return (queries @ keys.mT + (module.place_to_key(places) @ queries[..., None]).squeeze(-1)).unflatten(2, (8, 8))

    before, after = logits(keys, places), logits(moved_keys, moved_places)
    torch.testing.assert_close(after[..., shift:], before[..., :-shift])
    assert values.shape == (1, 64, 8)


def test_every_parameter_gets_a_gradient():
    module = SlotAttention(6, slots=3, dim=8, projection_dim=8, frame="relative", grid=(4, 4))
    decoder = SpatialBroadcastDecoder(8, 16, broadcast=4, channels=8, position="relative")
    slots, _, poses = module(torch.randn(2, 16, 6))
    decoder(slots, poses)[0].square().mean().backward()
    for name, parameter in [*module.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_an_object_is_moved_by_moving_its_pose():
    torch.manual_seed(0)
    decoder = SpatialBroadcastDecoder(8, 16, broadcast=16, channels=8, layers=1, kernel_size=1, position="relative")
    slots, pose = torch.randn(1, 1, 8), torch.tensor([[[0.0, 0.0, 0.1, 0.1]]])
    _, _, picture = decoder(slots, pose)
    _, _, moved = decoder(slots, pose + torch.tensor([0.25, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(moved[..., 1:-1, 3:-1], picture[..., 1:-1, 1:-3], atol=1e-5, rtol=1e-4)


def test_a_decoder_in_frames_needs_slots_in_frames():
    with pytest.raises(ConfigError, match="decoder.position: relative needs .* slot_attention.frame=relative"):
        create_model("scenes-32", **{"decoder.position": "relative"})


def test_missing_parts_are_named():
    with pytest.raises(ConfigError, match="needs the"):
        SlotAttention(6, frame="relative")
    with pytest.raises(ValueError, match="poses"):
        SpatialBroadcastDecoder(8, 16, position="relative")(torch.randn(1, 2, 8))
