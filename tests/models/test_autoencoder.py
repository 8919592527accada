import torch

from slotlab.models import SlotAutoencoder

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
