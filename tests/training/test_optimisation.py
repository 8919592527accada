from typing import get_args

import pytest
from training_runs import fit

from slotlab.config import Speedup, TrainingSettings, run_config
from slotlab.errors import ConfigError
from slotlab.training.checkpoint import read_history
from slotlab.training.optimisation import learning_rate


@pytest.mark.parametrize(("schedule", "last"), [("constant", [1, 1, 1]), ("cosine", [1, 0.6, 0.2])])
def test_the_rate_rises_linearly_then_follows_its_schedule(schedule, last):
    rates = {"learning_rate": 1.0, "final_learning_rate": 0.2, "schedule": schedule}
    settings = TrainingSettings(steps=110, warmup_steps=10, **rates)
    assert [learning_rate(step, settings) for step in (0, 4, 9, 10, 60, 110)] == pytest.approx([0.1, 0.5, 1, *last])


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


def test_an_unknown_speedup_is_named(tiny_preset):
    with pytest.raises(ConfigError, match=r"training.without.0: .*'kept-memory'.*magic"):
        run_config(tiny_preset, ["without=magic"])
