from typing import get_args

import pytest
from training_runs import fit

from slotlab.config import Speedup, run_config
from slotlab.errors import ConfigError
from slotlab.training.checkpoint import read_history

BFLOAT16_TOLERANCE = 0.02  # relative, of a loss


@pytest.fixture(scope="module")
def losses(tiny_preset, squares, tmp_path_factory):
    def run(*changes):
        folder = tmp_path_factory.mktemp("speedups") / "run"
        settings = run_config(tiny_preset, [f"data.source={squares}", "broadcast=8", *changes])
        fit(settings, folder)
        return [row[name] for row in read_history(folder) for name in ("train_loss", "validation_loss")]

    return run


@pytest.fixture(scope="module")
def fast(losses):
    return losses("precision=fp32")


@pytest.mark.parametrize("name", [*get_args(Speedup), list(get_args(Speedup))], ids=str)
def test_without_a_speedup_the_losses_are_the_same(name, fast, losses):
    assert losses("precision=fp32", f"without={name}") == pytest.approx(fast, rel=1e-4)


def test_losses_in_bfloat16_are_near(fast, losses):
    assert losses("precision=bf16") == pytest.approx(fast, rel=BFLOAT16_TOLERANCE)


def test_an_unknown_speedup_is_named(tiny_preset):
    with pytest.raises(ConfigError, match=r"training.without.0: .*'kept-memory'.*magic"):
        run_config(tiny_preset, ["without=magic"])
