from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from slotlab.models import SlotAutoencoder, SpatialBroadcastDecoder, slot_autoencoder
from slotlab.models.building import initialise
from slotlab.models.relative_frames import RelativeBroadcastDecoder
from slotlab.models.slot_encoder import direction_grid

TINY = {
    "resolution": 16,
    "encoder": {"kind": "cnn", "channels": 8, "strides": [2, 1], "kernel_size": 3},
    "slot_attention": {"slots": 3, "dim": 8, "projection_dim": 8, "mlp_dim": 8},
    "decoder": {"kind": "broadcast", "broadcast": 4, "channels": 8, "kernel_size": 3},
}


def test_the_output_is_what_every_later_room_reads():
    output = SlotAutoencoder(**TINY)(torch.rand(2, 3, 16, 16))
    assert output.slots.shape == (2, 3, 8)
    assert output.attention.shape == (2, 3, 3, 64)
    assert output.attention_grid == (8, 8)
    assert output.masks.shape == (2, 3, 16, 16)
    assert output.reconstruction.shape == (2, 3, 16, 16)
    assert len(output) == 2 and torch.equal(output[1].masks, output.masks[1:])
    assert [one.slots.shape for one in output] == [(1, 3, 8)] * 2
    for source in ("masks", "attention"):
        segmentation = output.segmentation(source)
        assert segmentation.shape == (2, 16, 16)
        assert segmentation.dtype == torch.int64
    torch.testing.assert_close(output.attention_masks().sum(dim=1), torch.ones(2, 16, 16))


def test_every_parameter_gets_a_gradient():
    model = SlotAutoencoder(**TINY)
    model(torch.rand(2, 3, 16, 16)).reconstruction.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_few_images_can_be_learned_by_heart():
    torch.manual_seed(0)
    model = SlotAutoencoder(**TINY)
    images = torch.zeros(4, 3, 16, 16)
    for number in range(4):
        images[number, number % 3, 2 + 3 * number : 6 + 3 * number, 4:10] = 1
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(150):
        loss = (model(images).reconstruction - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_the_loss_is_that_of_the_brief():
    model = SlotAutoencoder(**TINY)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    output = model(images)
    in_both_signs = ((2 * output.reconstruction - 1) - (2 * images - 1)) ** 2
    torch.testing.assert_close(model.losses(output, images).mean(), in_both_signs.sum() / (2 * 16 * 16))


def test_painting_its_own_slots_gives_the_reconstruction():
    model = SlotAutoencoder(**TINY)
    output = model(torch.rand(2, 3, 16, 16), torch.Generator().manual_seed(0))
    images, masks = model.paint(output.slots)
    torch.testing.assert_close(images, output.reconstruction.clamp(0, 1))
    torch.testing.assert_close(masks, output.masks)


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


def painted(decoder, slots, **attributes):
    """What the decoder paints with `attributes` set, and gradients of all that it depends on."""
    for name, value in attributes.items():
        setattr(decoder, name, value)
    made = decoder(slots)
    weighted = sum((image * torch.linspace(0, 1, image.numel()).view(image.shape)).sum() for image in made)
    return made, torch.autograd.grad(weighted, [slots, *decoder.parameters()])


FORMS = [
    {"broadcast": 16, "layers": 2, "position": "concatenate", "kernel_size": 3},
    {"broadcast": 16, "layers": 0, "position": "add"},
    {"broadcast": 4, "layers": 1, "position": "add"},
    {"broadcast": 8, "layers": 0, "position": "concatenate", "kernel_size": 7},
    {"broadcast": 4, "layers": 2, "relative": True, "shuffle": 4, "kernel_size": 3},
    {"broadcast": 8, "layers": 1, "relative": True},
]


def made(form, **changes):
    """A decoder of one of these forms."""
    settings = {key: value for key, value in form.items() if key != "relative"}
    kind = RelativeBroadcastDecoder if "relative" in form else SpatialBroadcastDecoder
    return kind(slot_dim=6, resolution=16, channels=8, **settings, **changes)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_fast_path_paints_and_learns_as_the_plain_one(form, checkpointing, monkeypatch):
    torch.manual_seed(0)
    decoder = made(form, checkpointing=checkpointing)
    for parameter in decoder.double().parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    poses = torch.rand(2, 3, 4 if "relative" in form else 0, dtype=torch.float64) + 0.1
    slots = torch.cat([torch.randn(2, 3, 6, dtype=torch.float64), poses], dim=2).requires_grad_()
    plain, plain_gradients = painted(decoder, slots, factored=False, in_parts=False)
    for pixels in (256, 10**6):  # slot by slot, and all in one
        monkeypatch.setitem(slot_autoencoder.PIXELS_AT_ONCE, "cpu", pixels)
        fast, gradients = painted(decoder, slots, factored=True, in_parts=True)
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(gradients, plain_gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_in_bfloat16_the_fast_path_is_as_near_as_the_plain_one(form):
    torch.manual_seed(0)
    decoder = made(form).apply(initialise)
    slots = torch.cat([torch.randn(4, 3, 6), torch.rand(4, 3, 4 if "relative" in form else 0) + 0.1], dim=2)
    exact = decoder(slots)[0]
    errors = []
    for factored in (True, False):
        decoder.factored = factored
        with torch.autocast("cpu", dtype=torch.bfloat16):
            errors.append((decoder(slots)[0] - exact).square().mean().sqrt() / exact.std())
    assert errors[0] < 0.02
    assert errors[0] < 2 * errors[1]


class Operations(TorchDispatchMode):
    """Counts what is computed."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def test_for_the_gradient_no_convolution_is_computed_again(monkeypatch):
    monkeypatch.setitem(slot_autoencoder.PIXELS_AT_ONCE, "cpu", 256)
    decoder = SpatialBroadcastDecoder(6, 16, broadcast=16, channels=8, layers=3, position="concatenate")
    loss = decoder(torch.randn(1, 3, 6))[0].sum()
    with Operations() as backward:
        loss.backward()
    assert backward.counts["convolution"] == 0
    assert backward.counts["baddbmm"] == 3  # the factored one, for each of three slots


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


@pytest.mark.parametrize("kind", [SpatialBroadcastDecoder, RelativeBroadcastDecoder])
@pytest.mark.parametrize("width", [1, 3, 127])
def test_slots_of_another_width_are_refused(kind, width):
    with pytest.raises(ValueError, match=r"slots: expected \[B, K, "):
        kind(slot_dim=6, resolution=16)(torch.randn(2, 3, width))
