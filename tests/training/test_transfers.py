"""How often training waits for the device: each transfer to the host stalls a GPU."""

from itertools import islice

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from slotlab.config import run_config
from slotlab.models import LatentAutoencoder, SlotDiffusion
from slotlab.models.sampling import seeded_generator
from slotlab.training import loop
from slotlab.training.objectives import with_penalties
from slotlab.training.optimisation import make_average, make_optimizer
from slotlab.training.setup import new_model

# What makes a GPU's results known to the host: values, and shapes that depend on values.
WAITING = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount"}
STEPS = 40


class Transfers(TorchDispatchMode):
    """Counts operations that wait for the device, and copies from another device to the CPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        tensors = [one for one in args if isinstance(one, torch.Tensor)]
        to_host = name in ("_to_copy", "copy_") and result.device.type == "cpu" and tensors[-1].device.type != "cpu"
        self.count += name in WAITING or to_host
        return result


def transfers(preset, data, folder):
    """How many of the steps after the first, without validation and checkpoints."""
    settings = ["evaluate_every=1000", "checkpoint_every=1000", "preview_every=1000", f"steps={STEPS + 20}"]
    config = run_config(preset, [f"source={data}", *settings])
    events = loop.train_steps(config, folder, device="cpu")
    steps = (event for event in events if event.kind == "step")
    next(steps)  # begins, and reads all images
    with Transfers() as counted:
        assert sum(1 for _ in islice(steps, STEPS)) == STEPS
    events.close()
    return counted.count


def test_training_waits_once_in_ten_steps(tiny_preset, squares, tmp_path, monkeypatch):
    assert 0 < transfers(tiny_preset, squares, tmp_path / "run") <= STEPS // loop.FINITE_EVERY
    penalties = loop.with_penalties

    def reading(loss, *rest):
        assert loss.item() > 0
        return penalties(loss, *rest)

    monkeypatch.setattr(loop, "with_penalties", reading)  # what the test is there to find
    assert transfers(tiny_preset, squares, tmp_path / "other") > STEPS


@pytest.mark.parametrize("name", ["tiny", "tiny-latents", "tiny-diffusion"])
def test_a_step_needs_nothing_from_the_device(presets, name, monkeypatch):
    """On the meta device there are no values: a step that reads one fails."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # which does not know meta
    config = run_config(str(presets / f"{name}.yaml"), ["ema_decay=0.9", "without=fused-adam"])
    settings = config.training
    if name == "tiny-diffusion":
        model = SlotDiffusion(**{key: value for key, value in config.model.items() if key != "kind"})
    else:
        model = new_model(config)
    model = model.to("meta")
    average, optimizer = make_average(model, settings), make_optimizer(model, settings)
    images = torch.rand(4, 3, 16, 16).to("meta")
    generators = [seeded_generator(0, number) for number in range(4)]
    model.train()
    for _ in range(2):
        output = model(images, generators)
        loss = model.losses(output, images).mean()
        if not isinstance(model, LatentAutoencoder):
            loss = with_penalties(loss, output, images, settings, 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
    with pytest.raises((RuntimeError, NotImplementedError)):
        loss.item()
