import json

import pytest
import torch

from slotlab.errors import ConfigError
from slotlab.models.latent_autoencoder import LatentAutoencoder
from slotlab.models.sampling import SamplingSettings
from slotlab.models.slot_diffusion import SlotDiffusion
from slotlab.progress import finish

RESOLUTION = 16
PARTS = {
    "resolution": RESOLUTION,
    "encoder": {"kind": "cnn", "strides": [2, 2], "channels": 8},
    "slot_attention": {"slots": 3, "dim": 8, "projection_dim": 8, "mlp_dim": 16},
    "autoencoder": {"family": "kl", "channels": [8, 8, 8], "layers": 1},
    "denoiser": {"channels": 16, "multipliers": [1, 2], "attention_levels": [2], "blocks": 1, "num_repeat": 1}
    | {"head_dim": 8, "time_dim": 16},
    "sampling": {"steps": 3},
}
IMAGES = torch.rand(2, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(0))


def made(**changes):
    torch.manual_seed(0)
    model = SlotDiffusion(**{**PARTS, **changes})
    for parameter in model.denoiser.parameters():
        if not parameter.any():  # the zeros that some layers start at would hide what is before them
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_output_in_evaluation_mode():
    model = made().eval()
    output = model(IMAGES, generators(0, 1))
    assert output.slots.shape == (2, 3, 8)
    assert output.attention.shape == (2, 3, 3, 16)
    assert output.masks.shape == output.attention_masks().shape == (2, 3, 16, 16)
    torch.testing.assert_close(output.masks.sum(dim=1), torch.ones(2, 16, 16))
    assert output.cross_attention.shape == (2, 3, 2, 2)
    assert output.segmentation("masks").shape == output.segmentation("attention").shape == (2, 16, 16)
    assert output.reconstruction.shape == IMAGES.shape
    assert output.reconstruction.min() >= 0
    assert output.reconstruction.max() <= 1
    assert output.loss.shape == (2,)
    torch.testing.assert_close(output.loss, (output.predicted - output.noise).square().mean(dim=(1, 2, 3)))
    assert torch.equal(model.encode(IMAGES, generators(0, 1)), output.slots)
    assert torch.equal(model.attend(IMAGES, generators(0, 1)), output.attention)


def test_training_mode_computes_only_the_loss():
    model = made().train()
    sampled = []
    model.generate = lambda *_, **__: sampled.append(1)
    output = model(IMAGES, generators(0, 1))
    assert sampled == []
    assert output.reconstruction.shape == (2, 3, 0, 0)
    assert output.cross_attention is None
    torch.testing.assert_close(output.masks, output.attention_masks())
    output.loss.mean().backward()
    assert all(parameter.grad is None for parameter in model.autoencoder.parameters())
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.denoiser.parameters())
    assert not model.autoencoder.training
    model.keeps_cross_attention = True
    cross_attention = model(IMAGES, generators(0, 1)).cross_attention
    assert cross_attention.requires_grad
    torch.testing.assert_close(cross_attention.sum(dim=1), torch.ones_like(cross_attention[:, 0]))


def test_each_image_depends_on_its_own_generator():
    for mode in (True, False):
        model = made(slot_dropout=0.3).train(mode)
        with torch.no_grad():
            both, one = model(IMAGES, generators(4, 5)), model(IMAGES[1:], generators(5))
        for name in ("slots", "timesteps", "noise", "predicted", "masks", "reconstruction"):
            torch.testing.assert_close(getattr(both, name)[1:], getattr(one, name), rtol=1e-4, atol=1e-4, msg=name)


def test_cached_latents_give_the_same_loss():
    model = made().train()
    latents = model.latents(IMAGES)
    cached, fresh = model(IMAGES, generators(0, 1), latents), model(IMAGES, generators(0, 1))
    assert torch.equal(cached.loss, fresh.loss)
    with pytest.raises(ValueError, match=r"latents: expected \[2, 3, 4, 4\], got \[2, 4, 4, 4\]; cache them again"):
        model(IMAGES, latents=torch.zeros(2, 4, 4, 4))


def test_config_and_weights_make_the_same_model():
    model = made(slot_dropout=0.1, schedule={"target": "v", "min_snr_gamma": 5.0})
    model.autoencoder.measure_scaling([IMAGES])
    config = json.loads(json.dumps(model.config))
    assert config.pop("kind") == "slot-diffusion"
    again = SlotDiffusion(**config)
    again.load_state_dict(model.state_dict())
    assert again.config == model.config
    slots = model.encode(IMAGES, generators(0, 1))
    images = [one.eval().generate(slots, generator=generators(2, 3)) for one in (model, again)]
    assert torch.equal(*images)
    assert (again.slots, again.resolution) == (3, RESOLUTION)


def test_takes_a_trained_autoencoder():
    autoencoder = LatentAutoencoder(RESOLUTION, "vq", channels=[8, 8], layers=1, codes=8, latent_channels=4)
    autoencoder.measure_scaling([IMAGES])
    model = made(autoencoder=autoencoder)
    assert model.denoiser.latent_channels == 4
    assert model.config["autoencoder"]["scale"] == autoencoder.scale.flatten().tolist()
    assert not any(parameter.requires_grad for parameter in model.autoencoder.parameters())


def test_dropout_and_guidance():
    model = made(slot_dropout=0.5, guidance_dropout=0.5)
    slots = torch.ones(200, 3, 8)
    replaced = (model._with_dropout(slots, torch.Generator().manual_seed(0)) != slots).all(dim=2)
    assert 0.68 < replaced.float().mean() < 0.82  # 1 - 0.5 x 0.5
    assert 0.5 < replaced.all(dim=1).float().mean() < 0.65  # 0.5 + 0.5 x 0.5^3
    model.train()(IMAGES).loss.mean().backward()
    assert model.empty_slot.grad is not None
    slots = model.eval().encode(IMAGES, generators(0, 1))
    plain, strong = (model.generate(slots, generator=generators(0, 1), guidance=scale) for scale in (1.0, 4.0))
    assert not torch.allclose(plain, strong)


def test_without_an_empty_slot_guidance_contrasts_slots_with_their_mean():
    model = made().eval()
    slots = model.encode(IMAGES, generators(0, 1))
    alike = slots.mean(dim=1, keepdim=True).expand_as(slots)
    for given, changes in ((slots, True), (alike, False)):
        plain, strong = (model.generate(given, generator=generators(0, 1), guidance=scale) for scale in (1.0, 4.0))
        assert torch.allclose(plain, strong, atol=1e-5) != changes


def test_generate():
    model = made().eval()
    slots = model.encode(IMAGES, generators(0, 1))
    images = model.generate(slots, steps=2, sampler="ddim", generator=generators(7, 8))
    assert torch.equal(images, model.generate(slots, steps=2, sampler="ddim", generator=generators(7, 8)))
    assert model.generate(slots[:, :2], steps=1).shape == IMAGES.shape  # an object taken away
    with pytest.raises(ConfigError, match=r"steps: Input should be greater than or equal to 1"):
        model.generate(slots, steps=0)
    with pytest.raises(ConfigError, match=r"sampler: Input should be 'ddpm', 'ddim' or"):
        model.generate(slots, sampler="dimm")
    with pytest.raises(ValueError, match=r"slots: expected \[B, K, 8\]"):
        model.generate(torch.zeros(1, 3, 9))


def test_overfits_eight_images_and_generates_them():
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 2, 2, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    autoencoder = LatentAutoencoder(8, "tiny", channels=[12, 12], layers=1, loss="mse")
    optimizer = torch.optim.Adam(autoencoder.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        autoencoder.losses(autoencoder(images), images).mean().backward()
        optimizer.step()
    autoencoder.measure_scaling([images])
    model = SlotDiffusion(
        resolution=8,
        encoder={"kind": "cnn", "strides": [2], "channels": 16},
        slot_attention={"slots": 3, "dim": 16, "projection_dim": 16, "mlp_dim": 32, "initialisation": "learned"},
        autoencoder=autoencoder,
        denoiser={**PARTS["denoiser"], "channels": 32, "multipliers": [1], "attention_levels": []},
        schedule={"target": "x0"},
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    steps, peak = 240, 4e-3
    optimizer = torch.optim.Adam(trained, peak)
    batch = images.repeat(4, 1, 1, 1)
    latents = model.latents(batch)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = peak * min(1.0, (step + 1) / 20) * (1 - step / steps)
        optimizer.zero_grad()
        loss = model(batch, generator, latents).loss.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.detach())
    assert torch.stack(losses[-30:]).mean() < 0.02
    generated = model.eval().generate(model.encode(images), steps=10, generator=generator)
    distances = (generated[:, None] - images[None]).square().flatten(2).mean(dim=2)
    assert torch.equal(distances.argmin(dim=1), torch.arange(8))
    ceiling = (autoencoder.decode(latents[:8]).clamp(0, 1) - images).square().mean()
    assert distances.diagonal().mean() < ceiling + 0.005


def test_paint_gives_images_and_masks_of_any_slots():
    model = made().eval()
    slots = model.encode(IMAGES, generators(0, 1)).flip(0)
    images, masks = model.paint(slots, generator=generators(2, 3))
    assert torch.equal(images, model.generate(slots, generator=generators(2, 3)))
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(2, RESOLUTION, RESOLUTION))
    assert not images.requires_grad and not masks.requires_grad
    steps = list(model.paint_steps(slots, generators(2, 3), SamplingSettings(steps=2)))
    assert [step[:2] for step in steps] == [(1, 2), (2, 2)]
    assert all(step[2].shape == IMAGES.shape for step in steps)
    assert all(map(torch.equal, finish(model.paint_steps(slots, generators(2, 3))), (images, masks)))


def test_the_denoiser_refines_what_a_decoder_paints_of_the_slots():
    model = made(decoder={"kind": "broadcast", "channels": 8}, slot_dropout=0.5, guidance_dropout=0.5)
    model.train()(IMAGES).loss.mean().backward()
    assert not any(parameter.requires_grad for parameter in model.decoder.parameters())
    config = json.loads(json.dumps(model.config))
    again = SlotDiffusion(**{key: value for key, value in config.items() if key != "kind"})
    again.load_state_dict(model.state_dict())
    slots = model.eval().encode(IMAGES, generators(0, 1))
    images = model.generate(slots, generator=generators(2, 3))
    assert torch.equal(images, again.eval().generate(slots, generator=generators(2, 3)))
    guided = model.generate(slots, generator=generators(2, 3), guidance=2.0)
    masks = model(IMAGES, generators(0, 1)).masks
    torch.nn.init.normal_(model.decoder.to_rgb_and_mask.weight)
    assert not torch.allclose(images, model.generate(slots, generator=generators(2, 3)))
    assert not torch.allclose(guided, model.generate(slots, generator=generators(2, 3), guidance=2.0))
    assert not torch.allclose(masks, model(IMAGES, generators(0, 1)).masks)

    # a denoiser that finds that nothing is lacking leaves the painting as it is
    refined = made(decoder={"kind": "broadcast", "channels": 8}, schedule={"target": "x0"}).eval()
    torch.nn.init.zeros_(refined.denoiser.conv_out.weight)
    torch.nn.init.zeros_(refined.denoiser.conv_out.bias)
    painting = refined.painting(slots)
    assert torch.equal(refined.generate(slots), refined.autoencoder.decode(painting).clamp(0, 1))
    output = refined(IMAGES, generators(0, 1), painting=refined.painting(refined.encode(IMAGES, generators(0, 1))))
    lacking = (refined.latents(IMAGES) - refined.painting(output.slots)) / 0.5
    torch.testing.assert_close(output.loss, lacking.square().mean(dim=(1, 2, 3)))
    assert not refined.train().decoder.training
    with pytest.raises(ValueError, match=r"painting: expected \[2, 3, 4, 4\], got \[2, 3, 2, 2\]"):
        refined(IMAGES, painting=painting[:, :, :2, :2])
    with pytest.raises(ValueError, match="painting: expected 3 channels, got 0"):
        refined.denoiser(painting, torch.tensor([1, 2]), slots)


def test_a_texture_is_learned_by_the_denoiser_and_placed_by_the_decoders_masks():
    painter = {"kind": "broadcast", "channels": 8}
    model = made(decoder=painter, texture={"width": 4, "channels": 8, "layers": 2})
    model.encoder.requires_grad_(False)
    model.train()(IMAGES).loss.mean().backward()
    assert all(parameter.grad is not None for parameter in model.texture.parameters())
    again = SlotDiffusion(
        **{key: value for key, value in json.loads(json.dumps(model.config)).items() if key != "kind"}
    )
    again.load_state_dict(model.state_dict())
    slots = model.eval().encode(IMAGES, generators(0, 1))
    assert slots.shape == (2, 3, model.slot_width) == (2, 3, 12)
    assert torch.equal(slots[..., :8], model.encoder(IMAGES, generators(0, 1))[0])
    output = model(IMAGES, generators(0, 1), painting=model.painting(slots), latents=model.latents(IMAGES))
    assert torch.equal(output.slots, slots)
    assert torch.equal(output.predicted, again.eval()(IMAGES, generators(0, 1)).predicted)
    torch.testing.assert_close(model.segment(IMAGES[:1], generators(0)).slots, slots[:1])

    # the texture of a slot changes the image only near where the decoder paints the slot
    masks = torch.zeros(2, 3, RESOLUTION, RESOLUTION)
    masks[:, 0, :, :8], masks[:, 1, :, 8:] = 1, 1
    model.decoder.forward = lambda slots: (IMAGES, masks)
    noise = torch.randn(2, 3, 4, 4)
    other, third = slots.clone(), slots.clone()
    other[:, 0, 8:] += 5
    third[:, 2, 8:] += 5
    seen, changed, unseen = (model.textured(model.painting(one), one) for one in (slots, other, third))
    assert torch.equal(seen, unseen) and torch.equal(seen[..., 2:], changed[..., 2:])
    assert not torch.allclose(seen[..., :2], changed[..., :2])
    assert torch.equal(seen[:, 3:, 0, 3], slots[:, 1, 8:])
    assert not torch.allclose(
        *(model.denoiser(noise, torch.tensor([9, 9]), slots[..., :8], painting=one) for one in (seen, changed))
    )
    with pytest.raises(ValueError, match=r"slots: expected \[B, K, 12\], got \[2, 3, 8\]"):
        model.generate(slots[..., :8])
    with pytest.raises(ValueError, match=r"slots: expected \[B, K, 12\], got \[2, 3, 13\]"):
        model.generate(torch.zeros(2, 3, 13))
    for channels in (3, 4):  # no masks, or one for all slots
        with pytest.raises(ValueError, match=rf"painting: expected \[2, 6, 4, 4\], got \[2, {channels}, 4, 4\]"):
            model(IMAGES, painting=torch.zeros(2, channels, 4, 4))
    with pytest.raises(ConfigError, match="texture: needs a decoder"):
        made(texture={"width": 4})
    with pytest.raises(ConfigError, match="texture.width"):
        made(decoder=painter, texture={"width": 0})


def test_a_texture_is_as_exact_in_bfloat16_and_changes_in_training_steps_only():
    model = made(decoder={"kind": "broadcast", "channels": 8}, texture={"width": 4, "channels": 8}).train()
    before = {name: value.clone() for name, value in model.texture.state_dict().items()}
    with pytest.raises(ConfigError, match="lacking_scale"):
        model.check_lacking(IMAGES * 100)
    assert all(value.equal(before[name]) for name, value in model.texture.state_dict().items())
    exact = model.encode(IMAGES, generators(0, 1))[..., 8:].detach()
    with torch.autocast("cpu", torch.bfloat16):
        near = model.encode(IMAGES, generators(0, 1))[..., 8:].detach()
    assert near.dtype == torch.float32
    assert 0 < exact.var(dim=(0, 1), unbiased=False).sum() < 1.01
    assert (near - exact).square().mean() < 0.005 * exact.square().mean()  # 0.03 with averages in bfloat16
