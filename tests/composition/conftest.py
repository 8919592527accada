import pytest
import torch
from edit_samples import RELATIVE, seeded_model

from slotlab.hub import load


@pytest.fixture(scope="module")
def model(tiny_preset):
    """An untrained model whose slots differ: with the small weights of a fresh one, one slot would own everything."""
    model = seeded_model(tiny_preset)
    with torch.no_grad():
        model.decoder.to_rgb_and_mask.weight.mul_(30)
    return model


@pytest.fixture(scope="module")
def relative(tiny_preset):
    return seeded_model(tiny_preset, **RELATIVE)


@pytest.fixture(scope="module")
def diffusion(diffusion_run):
    return load(diffusion_run)
