import pytest
import torch
from torch import nn

from slotlab.models import SlotAutoencoder
from slotlab.models.building import evaluating, initialise, weights_hash


def test_a_stack_of_convolutions_keeps_the_size_of_its_signal():
    torch.manual_seed(0)
    layers = [part for _ in range(6) for part in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())]
    stack = nn.Sequential(*layers).apply(initialise)
    signal = torch.randn(4, 32, 16, 16)
    assert 0.3 < stack(signal).square().mean() / signal.square().mean() < 3


def test_slots_are_seen_in_the_first_picture():
    torch.manual_seed(0)
    decoder = SlotAutoencoder().decoder
    one, other = (decoder(torch.randn(1, 2, 64))[0] for _ in range(2))
    assert (one - other).abs().mean() > 0.05


def test_biases_start_at_zero_and_recurrence_orthogonal():
    cell = nn.GRUCell(4, 8)
    initialise(cell)
    for gate in cell.weight_hh.chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0)
    assert cell.bias_ih.abs().sum() == cell.bias_hh.abs().sum() == 0


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_also_after_an_error(training):
    model = nn.Sequential(nn.Linear(2, 2)).train(training)
    with pytest.raises(KeyError), evaluating(model):
        assert (model.training, model[0].training) == (False, False)
        raise KeyError
    assert (model.training, model[0].training) == (training, training)


LIKE_A_LIBRARY = "06ee37ae5c2ea7a65312a1b4a02afb339eed9f0734df469122bc987e83eb1934"
LIKE_CACHED_LATENTS = "a57d7da905c57054d55fe9bd7ce3096be942d598a5796553bc5dadc1dac9217b"


def test_hashes_of_weights_stay_what_libraries_and_packed_latents_hold():
    model = nn.BatchNorm1d(2)
    assert weights_hash(model, config="{}") == LIKE_A_LIBRARY
    assert weights_hash(model, forms=False) == LIKE_CACHED_LATENTS
    assert weights_hash(model.eval(), config="{}") == LIKE_A_LIBRARY


@pytest.mark.parametrize("forms", [True, False])
def test_any_value_changes_the_hash_of_weights(forms):
    model = nn.BatchNorm1d(2)
    before = weights_hash(model, forms=forms)
    with torch.no_grad():
        model.running_mean[1] = 1e-6
    assert weights_hash(model, forms=forms) != before
