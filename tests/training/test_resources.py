import re

import pytest
import torch

from slotlab.checkpoints import create_model
from slotlab.config import TrainingSettings
from slotlab.models import SlotAutoencoder
from slotlab.runs import profile_table
from slotlab.training import resources
from slotlab.training.resources import MEASURED, WARM_UP, StepProfile, bytes_for_gradient, what_would_fit

CPU = torch.device("cpu")


def refused_by_the_allocator():
    torch.empty(2**60)


def refused_by_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of ...")


def refused_by_python():
    raise MemoryError


def another_error():
    raise RuntimeError("shapes do not fit")


def failing(refusal, monkeypatch):
    """Lets the third step of a run fail."""
    plain, calls = SlotAutoencoder.losses, []

    def losses(self, output, images):
        calls.append(None)
        if len(calls) == 3:
            refusal()
        return plain(self, output, images)

    monkeypatch.setattr(SlotAutoencoder, "losses", losses)


@pytest.mark.parametrize("refusal", [refused_by_the_allocator, refused_by_a_gpu, refused_by_python])
def test_a_step_that_runs_out_of_memory_says_what_would_fit(
    refusal, tiny_preset, squares, tmp_path, run_slotlab, monkeypatch
):
    failing(refusal, monkeypatch)
    complaint = run_slotlab.refused("train", tiny_preset, "--data", squares, "--out", tmp_path / "run")
    assert "slotlab: out of memory: 4 images at a time of 16x16 with 4 slots need about" in complaint
    assert "lower batch_size to 2, or keep it and add accumulate=2, which gives the same gradient" in complaint


def test_another_error_stays_what_it_is(tiny_preset, squares, tmp_path, run_slotlab, monkeypatch):
    failing(another_error, monkeypatch)
    err = run_slotlab.refused("train", tiny_preset, "--data", squares, "--out", tmp_path / "run")
    assert "shapes do not fit" in err
    assert "out of memory" not in err


def test_advice_follows_the_memory_that_there_is(tiny_preset, monkeypatch):
    model = create_model(tiny_preset)
    each = resources.OVERHEAD * bytes_for_gradient(model, CPU)
    state = 5 * sum(parameter.nbytes for parameter in model.parameters())
    monkeypatch.setattr(resources, "memory_of", lambda device: int(state + 5.5 * each))
    advice = what_would_fit(model, CPU, TrainingSettings(batch_size=16), processes=2)
    assert "8 images at a time" in advice
    assert "About 5 would fit: lower batch_size to 10, or keep it and add accumulate=2" in advice
    monkeypatch.setattr(resources, "memory_of", lambda device: int(state + 0.5 * each))
    advice = what_would_fit(model, CPU, TrainingSettings(batch_size=16), processes=1)
    assert "not even one image fits: only decoder.checkpointing=true, a lower resolution or fewer slots" in advice


def test_checkpointing_keeps_less(tiny_preset):
    sizes = [
        bytes_for_gradient(create_model(tiny_preset, **{"decoder.checkpointing": checkpointing}), CPU)
        for checkpointing in (True, False)
    ]
    assert sizes[0] < 0.9 * sizes[1]


def test_evaluate_says_what_to_lower(tiny_preset, run_slotlab, squares, tmp_path, monkeypatch):
    run_slotlab("train", tiny_preset, "--data", squares, "--out", tmp_path / "run", "steps=1")
    monkeypatch.setattr(SlotAutoencoder, "forward", lambda *_: refused_by_the_allocator())
    complaint = run_slotlab.refused("evaluate", tmp_path / "run", "--data", squares)
    assert re.search(r"slotlab: out of memory: use a smaller batch \(--batch-size", complaint)


def test_a_width_beyond_all_memory_says_what_to_lower(tiny_preset, run_slotlab, squares, tmp_path):
    words = ("train", tiny_preset, "--data", squares, "--out", tmp_path / "run")
    status, _, complaint = run_slotlab(*words, f"encoder.channels={10**18}")
    assert status == 2
    assert "slotlab: out of memory: use a smaller batch" in complaint


@pytest.mark.parametrize("kind", ["slots", "diffusion"])
def test_train_prints_where_the_time_of_a_step_goes(kind, request, run_slotlab, squares, tmp_path):
    preset = request.getfixturevalue("tiny_preset" if kind == "slots" else "tiny_diffusion")
    changes = [f"steps={WARM_UP + MEASURED}", "evaluate_every=5", "preview_every=1000"]
    if kind == "diffusion":
        changes.append(f"autoencoder.pretrained={request.getfixturevalue('latents_run')}")
    words = ("train", preset, "--data", squares, "--out", tmp_path / "run", "--profile", *changes)
    printed = run_slotlab.fine(*words)
    decoder = "decoder" if kind == "slots" else "denoiser"
    found = [line.strip() for line in printed.splitlines()]
    for part in ("data", "encoder", "slot attention", decoder, "loss and the rest", "backward", "optimiser", "all"):
        assert any(line.startswith(part + " ") for line in found), part


def test_parts_of_a_step_add_up_to_it_and_exclude_warm_up_and_validation(tiny_preset):
    model = create_model(tiny_preset)
    images = torch.rand(1, 3, 16, 16)
    with StepProfile(model, CPU) as profile:
        done = []
        for step in range(WARM_UP + MEASURED):
            with profile.part("outer"):
                for _ in range(50 if step < WARM_UP else 1):
                    model(images)
            with torch.inference_mode():
                for _ in range(5):
                    model(images)
            done.append(profile.step())
    assert done == [False] * (WARM_UP + MEASURED - 1) + [True]
    assert set(profile.milliseconds) == {"outer", "encoder", "slot attention", "decoder"}
    assert all(time > 0 for time in profile.milliseconds.values())


def test_too_few_steps_to_profile_are_said_so(tiny_preset):
    with StepProfile(create_model(tiny_preset), CPU) as profile:
        assert not profile.step()
    assert "nothing measured; train for at least 13 steps" in str(profile_table(profile.milliseconds, images=4))
