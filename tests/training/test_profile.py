import time

import pytest
import torch

from slotlab.checkpoints import create_model
from slotlab.training.console import MEASURED, WARM_UP, StepProfile


def test_a_part_within_another_counts_for_itself_alone(tiny_preset):
    profile = StepProfile(create_model(tiny_preset), lambda table: None, torch.device("cpu"))
    with profile.part("outer"):
        time.sleep(0.01)
        with profile.part("inner"):
            time.sleep(0.05)
        time.sleep(0.01)
    outer, inner = (profile.spent[name] for name in ("outer", "inner"))
    assert inner[0] >= 0.05
    assert 0.02 <= outer[0] < inner[0]
    assert outer[1] < 0.02  # asleep, it takes no processor time


def test_the_table_is_told_once_and_without_the_warm_up(tiny_preset):
    tables = []
    profile = StepProfile(create_model(tiny_preset), tables.append, torch.device("cpu"))
    done = []
    for step in range(WARM_UP + MEASURED):
        with profile.part("backward"):
            time.sleep(0.05 if step < WARM_UP else 0.001)
        done.append(profile.step(images=4))
    assert done == [False] * (WARM_UP + MEASURED - 1) + [True]
    assert len(tables) == 1
    assert profile.spent["backward"][0] < 0.05 * WARM_UP


def test_too_few_steps_are_told_of(tiny_preset):
    told = []
    profile = StepProfile(create_model(tiny_preset), told.append, torch.device("cpu"))
    for _ in range(WARM_UP):
        with profile.part("backward"):
            profile.step(images=4)
    profile.end(images=4)
    assert len(told) == 1 and "nothing measured" in told[0]


def test_what_runs_between_steps_is_not_of_a_step(tiny_preset):
    model = create_model(tiny_preset)
    profile = StepProfile(model, lambda table: None, torch.device("cpu"))
    model(torch.rand(1, 3, 16, 16))
    assert not profile.spent
    with profile.part("loss and the rest"):
        model(torch.rand(1, 3, 16, 16))
    assert {"encoder", "slot attention", "decoder"} <= profile.spent.keys()


@pytest.mark.parametrize("kind", ["slots", "diffusion"])
def test_train_prints_where_the_time_of_a_step_goes(kind, request, run_slotlab, squares, tmp_path):
    preset = request.getfixturevalue("tiny_preset" if kind == "slots" else "tiny_diffusion")
    changes = [f"steps={WARM_UP + MEASURED}", "evaluate_every=1000", "preview_every=1000"]
    if kind == "diffusion":
        changes.append(f"autoencoder.pretrained={request.getfixturevalue('latents_run')}")
    status, printed, complaints = run_slotlab(
        "train", preset, "--data", squares, "--out", tmp_path / "run", "--profile", *changes
    )
    assert status == 0, complaints
    decoder = "decoder" if kind == "slots" else "denoiser"
    rows = [line.strip() for line in printed.splitlines()]
    for part in ("data", "encoder", "slot attention", decoder, "backward", "optimiser", "all"):
        assert any(row.startswith(part + " ") for row in rows), part
