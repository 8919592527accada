import pytest

from slotlab.config import TrainingSettings
from slotlab.training.optimisation import learning_rate, slot_noise


def test_warm_up_is_linear_and_reaches_the_peak():
    settings = TrainingSettings(steps=100, warmup_steps=10, learning_rate=1.0, schedule="constant")
    assert [learning_rate(step, settings) for step in (0, 4, 9, 10, 99)] == pytest.approx([0.1, 0.5, 1, 1, 1])


def test_cosine_falls_from_the_peak_to_the_final_rate():
    settings = TrainingSettings(steps=110, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.2)
    assert [learning_rate(step, settings) for step in (10, 60, 110)] == pytest.approx([1, 0.6, 0.2])


def test_exponential_halves_every_half_life():
    settings = TrainingSettings(warmup_steps=0, learning_rate=1.0, schedule="exponential", half_life=50)
    assert [learning_rate(step, settings) for step in (0, 50, 100)] == pytest.approx([1, 0.5, 0.25])


def test_slot_noise_falls_from_one_to_none():
    settings = TrainingSettings(slot_noise_steps=100)
    assert [slot_noise(step, settings) for step in (0, 50, 100, 1000)] == pytest.approx([1, 0.5, 0, 0])
    assert slot_noise(0, TrainingSettings()) == 0
