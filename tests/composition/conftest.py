import pytest
import torch
from edit_samples import RELATIVE, pictures, seeded_model

from slotlab.checkpoints import load
from slotlab.composition.edits import read_scene


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


@pytest.fixture(params=["model", "relative", "diffusion"])
def any_model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def scenes(any_model, squares):
    return [read_scene(any_model, path) for path in pictures(squares)[:2]]


@pytest.fixture
def scene(model, squares):
    return read_scene(model, pictures(squares)[0])
