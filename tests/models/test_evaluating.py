import pytest
from torch import nn

from slotlab.models.building import evaluating


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_also_after_an_error(training):
    model = nn.Sequential(nn.Linear(2, 2)).train(training)
    with evaluating(model):
        assert not model.training
        assert not model[0].training
    assert (model.training, model[0].training) == (training, training)
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert (model.training, model[0].training) == (training, training)
