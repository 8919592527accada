import pytest
import torch
from torch import nn

from slotlab.config import run_config
from slotlab.models import unet
from slotlab.models.slot_encoder import SlotEncoder
from slotlab.models.unet import Denoiser, Resample, TimeResidualBlock, TransformerBlock, finest

TINY = {
    "slot_dim": 6,
    "latent_channels": 2,
    "channels": 8,
    "multipliers": [1, 2],
    "attention_levels": [2],
    "blocks": 1,
    "num_repeat": 2,
    "head_dim": 4,
    "time_dim": 8,
}


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return randomised(Denoiser(**TINY))


def randomised(model):
    """Without the zeros that some layers start at, which would hide what is before them."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def inputs(batch=2, slots=3, side=4):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 2, side, side, generator=generator)
    return latents, torch.tensor([10, 700])[:batch], torch.randn(batch, slots, 6, generator=generator)


# The report's U-Net, by block: (kind, channels in and out, side of its output, attends).
C = 64
REPORT_DOWN = [
    *[("same", C, C, 32, False), ("same", C, C, 32, False), ("down", C, C, 16, False)],
    *[("same", C, 2 * C, 16, True), ("same", 2 * C, 2 * C, 16, True), ("down", 2 * C, 2 * C, 8, False)],
    *[("same", 2 * C, 3 * C, 8, True), ("same", 3 * C, 3 * C, 8, True), ("down", 3 * C, 3 * C, 4, False)],
    *[("same", 3 * C, 4 * C, 4, True), ("same", 4 * C, 4 * C, 4, True)],
]
REPORT_UP = [
    *[("same", 4 * C + 4 * C, 4 * C, 4, True), ("same", 4 * C + 4 * C, 4 * C, 4, True)],
    *[("same", 4 * C + 3 * C, 4 * C, 4, True), ("up", 4 * C, 4 * C, 8, False)],
    *[("same", 4 * C + 3 * C, 3 * C, 8, True), ("same", 3 * C + 3 * C, 3 * C, 8, True)],
    *[("same", 3 * C + 2 * C, 3 * C, 8, True), ("up", 3 * C, 3 * C, 16, False)],
    *[("same", 3 * C + 2 * C, 2 * C, 16, True), ("same", 2 * C + 2 * C, 2 * C, 16, True)],
    *[("same", 2 * C + C, 2 * C, 16, True), ("up", 2 * C, 2 * C, 32, False)],
    *[("same", 2 * C + C, C, 32, False), ("same", C + C, C, 32, False), ("same", C + C, C, 32, False)],
]


def test_report_preset_has_the_blocks_of_the_brief():
    with torch.device("meta"):  # no time spent on weights that do not matter here
        model = Denoiser()
    model.to_empty(device="cpu")
    seen = []

    def note(block, arguments, result):
        seen.append((block.mode, arguments[0].shape[1], *result.shape[1:3]))

    hooks = [b.register_forward_hook(note) for b in model.modules() if isinstance(b, TimeResidualBlock)]
    with torch.no_grad():
        out = model(torch.randn(1, 3, 32, 32), torch.tensor([5]), torch.randn(1, 11, 64))
    assert out.shape == (1, 3, 32, 32)
    assert len(hooks) == len(REPORT_DOWN) + 2 + len(REPORT_UP)
    middle = ("same", 4 * C, 4 * C, 4)
    assert seen == [row[:4] for row in REPORT_DOWN] + [middle, middle] + [row[:4] for row in REPORT_UP]
    for stages, rows in ((model.down, REPORT_DOWN), (model.up, REPORT_UP)):
        attends = [isinstance(stage[1], TransformerBlock) for stage in stages]
        assert attends == [row[4] for row in rows]
    transformers = [block for block in model.modules() if isinstance(block, TransformerBlock)]
    assert {len(block.layers) for block in transformers} == {6}
    assert {block.layers[0].cross_attention.head_dim for block in transformers} == {32}
    assert sum(parameter.numel() for parameter in model.parameters()) == 78_704_131


def test_starts_at_zero():
    assert not Denoiser(**TINY)(*inputs()).any()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_and_slot_gets_a_gradient(checkpointing):
    torch.manual_seed(0)
    model = Denoiser(**TINY, checkpointing=checkpointing, time_mlp=True, gated=True, registers=2, last_blocks=2)
    model = randomised(model).train()
    latents, timesteps, slots = inputs()
    slots.requires_grad_()
    model(latents, timesteps, slots).square().mean().backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []
    assert slots.grad.abs().sum(dim=2).all()


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = randomised(Denoiser(**TINY, dropout=0.3, checkpointing=checkpointing)).train()
        torch.manual_seed(1)
        maps = []
        predicted = model(*inputs(), maps)
        (predicted.square().mean() + finest(maps).square().mean()).backward()  # of the maps too
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*gradients)


def test_cached_context_equals_uncached(tiny):
    latents, timesteps, slots = inputs()
    context = tiny.slot_context(slots)
    for _ in range(2):
        assert torch.equal(tiny(latents, timesteps, context), tiny(latents, timesteps, slots))


def test_slots_have_no_order_and_images_do_not_touch_each_other(tiny):
    latents, timesteps, slots = inputs()
    order, maps, reordered = torch.tensor([2, 0, 1]), [], []
    both = tiny(latents, timesteps, slots, maps)
    torch.testing.assert_close(both, tiny(latents, timesteps, slots[:, order], reordered))
    torch.testing.assert_close(finest(maps)[:, order], finest(reordered))
    torch.testing.assert_close(both[1:], tiny(latents[1:], timesteps[1:], slots[1:]))


def test_cross_attention_sums_to_one_and_its_mean_is_over_the_finest_maps(tiny):
    maps = []
    tiny(*inputs(), maps)
    assert [one.shape for one in maps] == [(2, 3, 2, 2)] * 2 * 4  # layers x (down 1, middle 1, up 2)
    torch.testing.assert_close(finest(maps).sum(dim=1), torch.ones(2, 2, 2))
    fine = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(finest([*maps, fine, 3 * fine]), 2 * fine)


def test_last_blocks_change_nothing_at_first(tiny):
    longer = Denoiser(**TINY, last_blocks=2).eval()
    added, unknown = longer.load_state_dict(tiny.state_dict(), strict=False)
    assert {name.partition(".")[0] for name in added} == {"last"} and not unknown
    assert torch.equal(longer(*inputs()), tiny(*inputs()))
    assert not torch.equal(randomised(longer)(*inputs()), tiny(*inputs()))


def test_registers_take_attention_from_the_slots():
    torch.manual_seed(0)
    model = randomised(Denoiser(**TINY, registers=5))
    maps, (latents, timesteps, slots) = [], inputs()
    predicted = model(latents, timesteps, slots, maps)
    assert {one.shape[1] for one in maps} == {3}  # of slots alone, which sum to 1
    torch.testing.assert_close(finest(maps).sum(dim=1), torch.ones(2, 2, 2))
    torch.testing.assert_close(model(latents, timesteps, model.slot_context(slots)), predicted)
    added, model.registers = model.registers, None
    as_slots = model(latents, timesteps, torch.cat([slots, added.expand(2, -1, -1)], dim=1))
    torch.testing.assert_close(as_slots, predicted)  # the denoiser sees them as further slots
    assert not torch.allclose(model(latents, timesteps, slots), predicted)


def test_maps_are_those_that_attention_uses(tiny):
    attention = tiny.middle[1].layers[0].cross_attention
    features, slots = torch.randn(1, 5, 16), torch.randn(1, 3, 6)
    nn.init.eye_(attention.to_out.weight)
    nn.init.zeros_(attention.to_out.bias)
    attention.head_dim = 16  # one head, so that the mean over heads is that head
    keys, values = attention.keys_and_values(slots)
    maps = []
    torch.testing.assert_close(attention(features, (keys, values), maps), attention(features, (keys, values)))
    torch.testing.assert_close(attention(features, (keys, values)), maps[0].transpose(1, 2) @ values[:, 0])


def test_resampling_blocks_pool_and_interpolate():
    features, time = torch.rand(1, 4, 4, 4), torch.randn(1, 8)
    for mode, expected in (("down", nn.AvgPool2d(2)), ("up", nn.Upsample(scale_factor=2))):
        block = TimeResidualBlock(4, 4, 8, mode)
        assert torch.equal(block(features, time), expected(features))  # the last convolution is zero
        assert block.convolution is None


def test_bad_inputs(tiny):
    latents, timesteps, slots = inputs()
    for shape in ([2, 2, 5, 5], [2, 3, 4, 4]):
        with pytest.raises(ValueError, match=r"latents: expected \[B, 2, h, w\].*multiples of 2, got"):
            tiny(torch.zeros(shape), timesteps, slots)
    with pytest.raises(ValueError, match=r"slots: expected \[B, K, 6\], got \[2, 3, 7\]"):
        tiny(latents, timesteps, torch.zeros(2, 3, 7))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_published_preset_is_the_published_model_by_its_number_of_parameters():
    config = run_config("slot-diffusion-published").model
    with torch.device("meta"):
        denoiser = Denoiser(latent_channels=3, slot_dim=192, **config["denoiser"])
        encoder = SlotEncoder(128, config["encoder"], config["slot_attention"])
    assert count(denoiser) == 134_243_331
    resnet = 1_728 + 128 + 147_968 + 525_568 + 2_099_712  # stem, its norm, three stages of ResNet-18 with GroupNorm
    position, mlp = 4 * 256 + 256, 2 * 256 + (256 + 1) * 192 + (192 + 1) * 192
    grouping = 3 * 2 * 192 + 3 * 192**2 + 2 * 3 * (192 + 1) * 192 + (192 + 1) * 384 + (384 + 1) * 192 + 11 * 192
    assert count(encoder.backbone) == resnet
    assert count(encoder) == resnet + position + mlp + grouping
    assert encoder.grid == (32, 32)
    assert encoder.slot_attention.epsilon == 1e-6


def test_convolutions_join_the_levels_if_asked():
    torch.manual_seed(0)
    denoiser = randomised(Denoiser(**TINY, resample="convolution"))
    latents, timesteps, slots = inputs()
    assert denoiser(latents, timesteps, slots).shape == latents.shape
    joints = [block for block, _ in [*denoiser.down, *denoiser.up] if block.mode != "same"]
    assert [type(block) for block in joints] == [Resample, Resample]
    features = torch.randn(1, 8, 4, 4)
    assert Resample(8, "down")(features, timesteps).shape == (1, 8, 2, 2)
    up = Resample(8, "up")
    doubled = features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(up(features, timesteps), up.convolution(doubled))


def test_plain_attention_in_bfloat16_equals_the_fused(monkeypatch):
    attention = unet.Attention(16, 8, head_dim=8)
    features, slots = torch.randn(2, 9, 16), torch.randn(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        keys_and_values = attention.keys_and_values(slots)
        plain = attention(features, keys_and_values)
        monkeypatch.setattr(unet, "FEW_KEYS", 0)
        torch.testing.assert_close(plain, attention(features, keys_and_values), atol=0.02, rtol=0.02)
