import pytest
import torch

from slotlab.models import SlotAttention
from slotlab.models.sampling import seeded_generator


def make(**changes):
    settings = {"slots": 4, "dim": 8, "projection_dim": 8, "mlp_dim": 16, **changes}
    torch.manual_seed(0)
    return SlotAttention(6, **settings)


def by_the_book(module, features, slots):
    """Algorithm 1 of Locatello et al. 2020, line by line, for one image at a time."""
    maps = []
    inputs = module.norm_features(features)
    for _ in range(module.iterations):
        previous = slots
        queries = module.to_query(module.norm_slots(slots))
        logits = module.to_key(inputs) @ queries.T / module.to_query.out_features**0.5
        attention = torch.softmax(logits, dim=-1)
        weights = (attention + module.epsilon) / (attention + module.epsilon).sum(dim=0, keepdim=True)
        slots = module.gru(weights.T @ module.to_value(inputs), previous)
        slots = slots + module.mlp(module.norm_mlp(slots))
        maps.append(attention.T)
    return slots, torch.stack(maps)


@pytest.mark.parametrize("initialisation", ["gaussian", "learned"])
def test_equals_the_published_algorithm(initialisation):
    module = make(initialisation=initialisation)
    features = torch.randn(2, 10, 6)
    start = module.initial_slots(2, [seeded_generator(1), seeded_generator(2)])
    slots, attention = module(features, [seeded_generator(1), seeded_generator(2)])
    for image in range(2):
        expected_slots, expected_attention = by_the_book(module, features[image], start[image])
        torch.testing.assert_close(slots[image], expected_slots, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(attention[image], expected_attention, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradient", ["full", "last-iteration"])
@pytest.mark.parametrize("initialisation", ["gaussian", "learned", "bi-level"])
def test_every_parameter_gets_a_gradient(initialisation, gradient):
    module = make(initialisation=initialisation, gradient=gradient)
    module.noise = 0.5
    slots, _ = module(torch.randn(2, 10, 6))
    slots.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_bi_level_starts_are_noisy_in_training_alone_and_by_the_share_asked_for():
    module = make(initialisation="bi-level", slots=100, dim=100)
    module.noise = 0.5
    ratio = module.initial_slots(1) / module.start
    assert float(ratio.mean()) == pytest.approx(1, abs=0.05)
    assert float(ratio.std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(module.eval().initial_slots(1), module.start)
    module.train().noise = 0.0
    assert torch.equal(module.initial_slots(1), module.start)


@pytest.mark.parametrize("initialisation", ["gaussian", "learned"])
def test_the_last_iteration_s_gradient_is_that_of_one_iteration_begun_where_the_others_ended(initialisation):
    module = make(gradient="last-iteration", initialisation=initialisation).double()
    features = torch.randn(2, 10, 6, dtype=torch.float64, requires_grad=True)
    generators = [1, 2]

    def by_hand():
        inputs = module.norm_features(features)
        keys, values = module.to_key(inputs), module.to_value(inputs)
        drawn = [seeded_generator(one) for one in generators]
        start = slots = module.initial_slots(2, drawn)
        for _ in range(2):
            slots, _ = module.iterate(slots, keys, values)
        return module.iterate(slots.detach() + start - start.detach(), keys, values)[0]

    parameters = [features, *module.parameters()]
    results = module(features, [seeded_generator(one) for one in generators])[0], by_hand()
    gradients = [torch.autograd.grad(slots.square().sum(), parameters) for slots in results]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    for parameter, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=0)


def test_slots_follow_a_permutation_of_their_starts():
    module = make(initialisation="learned")
    features = torch.randn(1, 10, 6)
    slots, attention = module(features)
    order = torch.tensor([2, 0, 3, 1])
    module.start.data = module.start.data[:, order]
    permuted, permuted_attention = module(features)
    torch.testing.assert_close(permuted, slots[:, order])
    torch.testing.assert_close(permuted_attention, attention[:, :, order])


def test_a_draw_depends_on_the_image_and_not_on_its_batch():
    module = make()
    features = torch.randn(3, 10, 6)
    together, _ = module(features, [seeded_generator(7, index) for index in range(3)])
    alone, _ = module(features[2:], [seeded_generator(7, 2)])
    torch.testing.assert_close(together[2:], alone)
    other, _ = module(features[2:], [seeded_generator(8, 2)])
    assert not torch.allclose(alone, other)


def test_attention_stays_in_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        slots, attention = make()(torch.randn(2, 10, 6))
    assert slots.dtype == attention.dtype == torch.float32


def test_a_slot_that_no_pixel_chooses_stays_finite_in_float16():
    attention = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]], dtype=torch.float16)
    assert make().weights(attention).tolist() == [[[0.5, 0.5], [0.5, 0.5]]]
