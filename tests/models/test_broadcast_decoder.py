import pytest
import torch

from slotlab.errors import ConfigError
from slotlab.models import SpatialBroadcastDecoder
from slotlab.models.position import direction_grid


@pytest.mark.parametrize(
    "form",
    [
        {"broadcast": 16, "layers": 2, "position": "concatenate"},
        {"broadcast": 4, "layers": 1},
        {"broadcast": 4, "layers": 2, "shuffle": 4},
        {"broadcast": 4, "layers": 1, "shuffle": 2},
    ],
)
def test_every_form_paints_the_whole_image(form):
    decoder = SpatialBroadcastDecoder(slot_dim=6, resolution=16, channels=8, **form)
    reconstruction, masks, slot_images = decoder(torch.randn(2, 3, 6))
    assert reconstruction.shape == (2, 3, 16, 16)
    assert masks.shape == (2, 3, 16, 16)
    assert slot_images.shape == (2, 3, 3, 16, 16)
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(2, 16, 16))
    torch.testing.assert_close(reconstruction, (masks[:, :, None] * slot_images).sum(dim=1))


@pytest.mark.parametrize("shuffle", [1, 4])
def test_mixing_before_the_shuffle_is_mixing_of_shuffled_layers(shuffle):
    decoder = SpatialBroadcastDecoder(slot_dim=6, resolution=16, broadcast=4, channels=8, shuffle=shuffle).double()
    slots = torch.randn(2, 3, 6, dtype=torch.float64)
    layers = decoder.shuffle(decoder.to_rgb_and_mask(decoder.body(decoder._place(slots, None)))).unflatten(0, (2, 3))
    masks, colours = torch.softmax(layers[:, :, 0], dim=1), (layers[:, :, 1:] + 1) / 2
    expected = (masks[:, :, None] * colours).sum(dim=1), masks, colours
    for made, plain in zip(decoder(slots), expected, strict=True):
        torch.testing.assert_close(made, plain)


def test_the_direction_grid_runs_both_ways_on_both_axes():
    down, right, up, left = direction_grid(3, 5)
    assert down[:, 0].tolist() == [0.0, 0.5, 1.0]
    assert right[0].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    torch.testing.assert_close(up, 1 - down)
    torch.testing.assert_close(left, 1 - right)


def test_slots_are_decoded_apart_and_in_any_order():
    decoder = SpatialBroadcastDecoder(slot_dim=6, resolution=8, broadcast=8, channels=8)
    slots = torch.randn(1, 3, 6)
    reconstruction, masks, _ = decoder(slots)
    swapped_reconstruction, swapped_masks, _ = decoder(slots[:, [2, 0, 1]])
    torch.testing.assert_close(swapped_reconstruction, reconstruction)
    torch.testing.assert_close(swapped_masks, masks[:, [2, 0, 1]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"broadcast": 3}, "does not reach the resolution 16 by doubling"),
        ({"broadcast": 0}, "decoder.broadcast"),
        ({"broadcast": 32}, "decoder.broadcast"),
        ({"kernel_size": 2}, "must be odd"),
        ({"position": "multiply"}, "'add', 'concatenate' or 'relative'"),
        ({"shuffle": 0}, "decoder.shuffle"),
    ],
)
def test_values_out_of_range_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SpatialBroadcastDecoder(**{"slot_dim": 4, "resolution": 16, **arguments})
