import json

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel

from slotlab.checkpoints import load_autoencoder
from slotlab.errors import CheckpointError, ConfigError
from slotlab.models.latent_autoencoder import LatentAutoencoder

FRESH = {"channels": [8, 8, 8], "layers": 1, "codes": 16}
LEVELS = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "latent_channels": 4,
}
TINY = {
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
}
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", ["kl", "vq", "tiny"])
def test_fresh(family):
    torch.manual_seed(0)
    model = LatentAutoencoder(16, family, **FRESH).eval()
    assert (model.downsampling, model.latent_size, model.latent_channels) == (4, 4, 3)
    latents = model.encode(IMAGES)
    assert latents.shape == (3, 3, 4, 4)
    assert torch.equal(latents, model.encode(IMAGES))  # no randomness, so that latents may be cached
    assert model.decode(latents).shape == IMAGES.shape
    again = LatentAutoencoder(**{key: value for key, value in model.config.items() if key != "kind"})
    again.load_state_dict(model.state_dict())
    assert again.config == json.loads(json.dumps(model.config))
    torch.testing.assert_close(again.eval()(IMAGES).reconstruction, model.decode(latents))


@pytest.mark.parametrize("family", ["kl", "vq", "tiny"])
@pytest.mark.parametrize("loss", ["l1", "mse"])
def test_objective(family, loss):
    torch.manual_seed(0)
    model = LatentAutoencoder(16, family, **FRESH, loss=loss, regulariser_weight=0.5)
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    output = model(IMAGES, generators)
    error = 2 * (output.reconstruction - IMAGES)
    expected = (error.abs() if loss == "l1" else error.square()).mean() + 0.5 * output.regulariser
    torch.testing.assert_close(model.losses(output, IMAGES).mean(), expected)
    assert (output.regulariser > 0) == (family != "tiny")
    model.losses(output, IMAGES).mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_kl_regulariser_is_the_divergence_of_diffusers():
    model = LatentAutoencoder(16, "kl", **FRESH).eval()
    with torch.no_grad():
        posterior = model.network.encode(IMAGES * 2 - 1).latent_dist
        torch.testing.assert_close(model(IMAGES).regulariser, posterior.kl().sum() / IMAGES.numel())


def test_posterior_noise_is_each_images_own():
    model = LatentAutoencoder(16, "kl", **FRESH).train()
    generators = [[torch.Generator().manual_seed(seed) for seed in seeds] for seeds in ([0, 1, 2], [1])]
    both, one = model(IMAGES, generators[0]), model(IMAGES[1:2], generators[1])
    torch.testing.assert_close(both.reconstruction[1:2], one.reconstruction)


def test_measured_scaling():
    torch.manual_seed(0)
    model = LatentAutoencoder(16, "kl", **FRESH)
    model.measure_scaling([IMAGES[:2], IMAGES[2:]])
    latents = model.encode(IMAGES)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3), unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    model.check_scaling(IMAGES)
    again = LatentAutoencoder(**{key: value for key, value in model.config.items() if key != "kind"})
    assert torch.equal(again.scale, model.scale)
    model.scale.mul_(20)
    with pytest.raises(ConfigError, match=r"root mean square of 20 after scaling.*measure_scaling"):
        model.check_scaling(IMAGES)
    model.network.quant_conv.weight.data.zero_()
    with pytest.raises(ValueError, match="a channel is constant"):
        model.measure_scaling([IMAGES])


@pytest.mark.parametrize(
    ("made", "arguments", "scale", "shift"),
    [
        (AutoencoderKL, {**LEVELS, "scaling_factor": 0.5, "shift_factor": 0.25}, 0.5, 0.25),
        (AutoencoderKL, {**LEVELS, "scaling_factor": 2, "latents_mean": [1.0] * 4, "latents_std": [4.0] * 4}, 0.5, 1.0),
        (VQModel, {**LEVELS, "scaling_factor": 0.75, "num_vq_embeddings": 16}, 0.75, 0.0),
        (AutoencoderTiny, {**TINY, "scaling_factor": 1.5}, 1.5, 0.0),
    ],
    ids=["kl", "kl with mean and deviation", "vq", "tiny"],
)
def test_pretrained_brings_its_own_scaling(tmp_path, made, arguments, scale, shift):
    torch.manual_seed(0)
    original = made(**arguments).eval()
    original.save_pretrained(tmp_path / "vae")
    for name, subfolder in ((tmp_path / "vae", None), (tmp_path, "vae")):
        model = load_autoencoder(name, resolution=16, subfolder=subfolder)
        with torch.no_grad():
            encoded = original.encode(IMAGES * 2 - 1)
            raw = encoded.latent_dist.mode() if made is AutoencoderKL else encoded.latents
            torch.testing.assert_close(model.encode(IMAGES), (raw - shift) * scale)
            decoded = (original.decode(raw).sample + 1) / 2
            torch.testing.assert_close(model.decode(model.encode(IMAGES)), decoded, rtol=1e-3, atol=1e-4)
        assert (model.downsampling, model.latent_channels) == (2, 4)
    config = json.loads(json.dumps(model.config))
    again = LatentAutoencoder(**{key: value for key, value in config.items() if key != "kind"})
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.encode(IMAGES), model.encode(IMAGES))


def test_pretrained_that_is_not_there_or_not_an_autoencoder(tmp_path):
    with pytest.raises(CheckpointError, match=r"no autoencoder found.*config.json"):
        load_autoencoder(tmp_path, 16)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(CheckpointError, match=r"is a UNet2DModel, not one of AutoencoderKL, VQModel, AutoencoderTiny"):
        load_autoencoder(tmp_path, 16)
    AutoencoderTiny(**TINY).save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"the weights do not load"):
        load_autoencoder(tmp_path, 16)
    weights.unlink()
    torch.save({}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"the weights do not load"):
        load_autoencoder(tmp_path, 16)
