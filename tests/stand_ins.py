"""A small network with the interface of the published Inception, and folders of small pictures."""

import warnings

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


class Layers(nn.Module):
    """Stand-in for the published layers: [B, 3, 299, 299] in [-1, 1] to [B, D, 1, 1]."""

    def __init__(self, dimension: int):
        super().__init__()
        self.convolution = nn.Conv2d(3, dimension, 13, stride=13)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.convolution(x)).mean((2, 3), keepdim=True)


def write_network(path, dimension=8, seed=0, weight=None):
    torch.manual_seed(seed)
    layers = Layers(dimension)
    if weight is not None:
        nn.init.constant_(layers.convolution.weight, weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(nn.ModuleDict({"layers": layers})).save(str(path))
    return path


def write_images(folder, count=12, size=(20, 16), seed=0, suffix=".png", tint=0):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for index in range(count):
        pixels = generator.integers(0, 256 - tint, (size[1], size[0], 3), dtype=np.uint8) + np.uint8(tint)
        Image.fromarray(pixels).save(folder / f"{index:06d}{suffix}")
    return folder
