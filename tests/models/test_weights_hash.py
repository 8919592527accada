import pytest
import torch
from torch import nn

from slotlab.models.fingerprint import weights_hash

LIKE_A_LIBRARY = "06ee37ae5c2ea7a65312a1b4a02afb339eed9f0734df469122bc987e83eb1934"
LIKE_CACHED_LATENTS = "a57d7da905c57054d55fe9bd7ce3096be942d598a5796553bc5dadc1dac9217b"


def test_stays_what_libraries_and_packed_latents_on_disk_hold():
    model = nn.BatchNorm1d(2)
    assert weights_hash(model, config="{}") == LIKE_A_LIBRARY
    assert weights_hash(model, forms=False) == LIKE_CACHED_LATENTS
    assert weights_hash(model.eval(), config="{}") == LIKE_A_LIBRARY


@pytest.mark.parametrize("forms", [True, False])
def test_any_value_makes_a_difference(forms):
    model = nn.BatchNorm1d(2)
    before = weights_hash(model, forms=forms)
    with torch.no_grad():
        model.running_mean[1] = 1e-6
    assert weights_hash(model, forms=forms) != before
