import pytest
import torch

from slotlab import checkpoints


@pytest.fixture(scope="session")
def model_folder(tiny_preset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    checkpoints.save(checkpoints.create_model(tiny_preset), folder)
    return folder


@pytest.fixture(scope="session")
def model(model_folder):
    """Slot autoencoder for 16x16 images, four slots, hardly better than chance."""
    return checkpoints.load(model_folder)
