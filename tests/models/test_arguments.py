"""Arguments that models and their parts refuse: one sentence, which names section and key.

Types and ranges are pydantic's; of those there is one case for each section.
"""

from functools import partial

import pytest

from slotlab import models
from slotlab.errors import ConfigError
from slotlab.models.sampling import SamplingSettings

SLOTS = {"slots": 3, "dim": 8, "projection_dim": 8, "mlp_dim": 8}
UNET = {"channels": 8, "multipliers": [1, 2], "attention_levels": [2], "blocks": 1, "num_repeat": 1, "head_dim": 4}
LATENTS = {"channels": [8, 8, 8], "layers": 1}

decoder = partial(models.SpatialBroadcastDecoder, slot_dim=4, resolution=16)
denoiser = partial(models.Denoiser, slot_dim=6, latent_channels=2, **UNET)
autoencoder = partial(models.SlotAutoencoder, resolution=16, slot_attention=SLOTS)
latents = partial(models.LatentAutoencoder, resolution=16, **LATENTS)
diffusion = partial(models.SlotDiffusion, resolution=16, slot_attention=SLOTS, autoencoder=LATENTS, denoiser=UNET)
attention = partial(models.SlotAttention, 6)


@pytest.mark.parametrize(
    ("made", "arguments", "message"),
    [
        (models.CNNEncoder, {"strides": [9]}, "encoder.strides: Input should be less than or equal to 4"),
        (models.CNNEncoder, {"kernel_size": 4}, "encoder.kernel_size: .*must be odd"),
        (models.ResNetEncoder, {"channels": [8], "strides": [1, 2]}, "1 stages but encoder.strides 2"),
        (attention, {"slots": 0}, "slot_attention.slots: Input should be greater than or equal to 1 .got 0"),
        (attention, {"initialisation": "learnt"}, "Input should be 'gaussian', 'learned', 'bi-level' or 'groups'"),
        (decoder, {"broadcast": 3}, "does not reach the resolution 16 by doubling"),
        (decoder, {"broadcast": 32}, "does not reach the resolution"),
        (decoder, {"position": "multiply"}, "'add' or 'concatenate'"),
        (autoencoder, {"encoder": {"kind": "resnett"}}, "did you mean 'resnet'"),
        (autoencoder, {"encoder": {"kind": "cnn", "chanels": 8}}, "unknown key 'chanels'; did you mean 'channels'"),
        (autoencoder, {"decoder": {"kind": "broadcast", "slot_dim": 8}}, "decoder: unknown key 'slot_dim'"),
        (autoencoder, {"slot_attention": {"num_slots": 8}}, "slot_attention: unknown key 'num_slots'"),
        (
            autoencoder,
            {"resolution": 15, "encoder": {"kind": "cnn", "strides": [2]}},
            "not a multiple of the encoder's",
        ),
        (autoencoder, {"resolution": 0}, "model.resolution: Input should be greater than or equal to 8"),
        (denoiser, {"channels": 5}, "head_dim: 4 does not divide the 10 channels"),
        (denoiser, {"attention_levels": [3]}, "attention_levels: must be from 1 to 2"),
        (denoiser, {"time_dim": 7}, "time_dim: .*multiple of 2"),
        (latents, {"family": "vae"}, "autoencoder.family: Input should be 'kl', 'vq' or 'tiny'"),
        (latents, {"resolution": 18}, "resolution: 18 is not a multiple of 4"),
        (latents, {"scale": [1.0, 2.0]}, "autoencoder.scale: 2 numbers for 3 latent channels"),
        (latents, {"scale": 0.0}, "autoencoder.scale: must be finite and positive"),
        (latents, {"shift": float("nan")}, "autoencoder.shift: must be finite"),
        (latents, {"family": "tiny", "channels": [8, 16]}, "one width for all levels"),
        (latents, {"network": {"latent_chanels": 3}}, "network: unknown key 'latent_chanels'; did you mean"),
        (models.NoiseSchedule, {"target": "noise"}, "schedule.target: Input should be 'epsilon', 'v' or 'x0'"),
        (models.NoiseSchedule, {"start": 0.02}, "start <= end"),
        (
            models.NoiseSchedule,
            {"zero_terminal_snr": True},
            "zero_terminal_snr: the last timestep has no signal.*'v' or",
        ),
        (models.NoiseSchedule, {"zero_terminal_snr": True, "target": "v", "min_snr_gamma": 5.0}, "min_snr_gamma to 0"),
        (models.NoiseSchedule, {"zero_terminal_snr": True, "target": "v", "steps": 1}, "steps to 2 or more"),
        (SamplingSettings, {"steps": 2.5}, "sampling.steps: Input should be a valid integer"),
        (SamplingSettings, {"sampler": "dpm"}, r"sampling.sampler: Input should be 'ddpm', 'ddim' or 'dpm-solver\+\+'"),
        (diffusion, {"denoiser": {"chanels": 16}}, "denoiser: unknown key 'chanels'; did you mean 'channels'"),
        (diffusion, {"denoiser": {**UNET, "latent_channels": 4}}, "latent_channels: 4 does not fit.*gives 3x4x4"),
        (diffusion, {"denoiser": {**UNET, "slot_dim": 64}}, "slot_dim: 64 does not fit, slot_attention.dim is 8"),
        (diffusion, {"denoiser": {"channels": 32}}, "latents of 4x4 cannot be halved 3 times"),
        (diffusion, {"schedule": {"betas": 1}}, "schedule: unknown key 'betas'"),
        (diffusion, {"autoencoder": {"kind": "slot-autoencoder"}}, "autoencoder.kind: unknown kind 'slot-autoencoder'"),
        (diffusion, {"autoencoder": {"family": "kl", "chanels": [8]}}, "autoencoder: unknown key 'chanels'"),
        (diffusion, {"autoencoder": models.LatentAutoencoder(32, **LATENTS)}, "made for 32 pixels, the model for 16"),
        (diffusion, {"mask_timestep": 1000}, "mask_timestep: must be from 0 to 999"),
    ],
)
def test_what_is_wrong_is_named(made, arguments, message):
    with pytest.raises(ConfigError, match=message):
        made(**arguments)
