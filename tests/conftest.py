"""A miniature data set and model that many tests share."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)

TINY_PRESET = """
summary: for tests
model:
  kind: slot-autoencoder
  resolution: 16
  encoder: {kind: cnn, channels: 8, strides: [2, 1], kernel_size: 3}
  slot_attention: {slots: 4, dim: 8, projection_dim: 8, mlp_dim: 8}
  decoder: {kind: broadcast, broadcast: 4, channels: 8, kernel_size: 3}
data:
  validation_count: 4
training:
  steps: 12
  batch_size: 4
  learning_rate: 0.002
  warmup_steps: 2
  evaluate_every: 6
  preview_every: 6
  checkpoint_every: 6
"""


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 40 pictures 16x16: one to three coloured squares on grey, with id masks."""
    folder = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for number in range(40):
        image = np.full((16, 16, 3), 128, np.uint8)
        mask = np.zeros((16, 16), np.uint8)
        for square in range(1, random.integers(2, 5)):
            y, x = random.integers(0, 11, 2)
            image[y : y + 5, x : x + 5] = random.integers(0, 256, 3)
            mask[y : y + 5, x : x + 5] = square
        Image.fromarray(image).save(folder / "images" / f"{number:03d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a preset whose model trains in a second."""
    path = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    path.write_text(TINY_PRESET)
    return str(path)
