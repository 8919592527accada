from functools import partial

import pytest
import torch

from slotlab.errors import ConfigError
from slotlab.models import ENCODERS, CNNEncoder, ResNetEncoder
from slotlab.models.building import build


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_encoder_keeps_its_promise_of_width_and_stride(kind):
    encoder = ENCODERS[kind]()
    features = encoder(torch.rand(2, 3, 16, 16))
    assert features.shape == (2, encoder.out_channels, 16 // encoder.stride, 16 // encoder.stride)


def test_the_classic_encoder_has_the_published_shape():
    layers = [layer for layer in CNNEncoder().layers if isinstance(layer, torch.nn.Conv2d)]
    shapes = [(layer.in_channels, layer.out_channels, layer.kernel_size) for layer in layers]
    assert shapes == [(3, 64, (5, 5)), *[(64, 64, (5, 5))] * 3]


def test_resnet_stages_and_strides():
    encoder = ResNetEncoder(channels=[8, 12], strides=[1, 2], blocks=1, stem_stride=2)
    assert encoder(torch.rand(1, 3, 32, 32)).shape == (1, 12, 8, 8)


@pytest.mark.parametrize("encoder", [partial(CNNEncoder, kernel_size=3), lambda channels: CNNEncoder(channels)])
def test_what_declares_no_types_is_built_all_the_same(encoder):
    assert isinstance(build("encoder", {"own": encoder}, {"kind": "own", "channels": 8}), CNNEncoder)
    with pytest.raises(ConfigError, match="unknown key 'chanels'"):
        build("encoder", {"own": encoder}, {"kind": "own", "chanels": 8})
