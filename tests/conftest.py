"""Miniature data sets, models and runs that many tests share."""

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import TOKEN, hub_of
from PIL import Image
from stand_ins import write_network

# float32 on every machine: several tests compare two ways to one result, up to rounding.
TINY_PRESET = """
summary: for tests
model:
  kind: slot-autoencoder
  resolution: 16
  encoder: {kind: cnn, channels: 8, strides: [2, 1], kernel_size: 3}
  slot_attention: {slots: 4, dim: 8, projection_dim: 8, mlp_dim: 8}
  decoder: {kind: broadcast, broadcast: 4, channels: 8, kernel_size: 3}
data:
  validation_count: 4
training:
  precision: fp32
  steps: 12
  batch_size: 4
  learning_rate: 0.002
  warmup_steps: 2
  evaluate_every: 6
  preview_every: 6
  checkpoint_every: 6
"""

TINY_LATENTS = """
summary: for tests
model:
  {kind: latent-autoencoder, resolution: 16, family: kl, channels: [8, 8, 8], layers: 1, latent_channels: 3, loss: mse}
data:
  validation_count: 4
training:
  {precision: fp32, steps: 6, batch_size: 4, learning_rate: 0.002, warmup_steps: 2, evaluate_every: 3, preview_every: 6}
"""
TINY_DIFFUSION = """
summary: for tests
model:
  kind: slot-diffusion
  resolution: 16
  encoder: {kind: cnn, channels: 8, strides: [2, 1], kernel_size: 3}
  slot_attention: {slots: 4, dim: 8, projection_dim: 8, mlp_dim: 8}
  autoencoder: {family: kl, channels: [8, 8, 8], layers: 1, latent_channels: 3}
  denoiser:
    {channels: 8, multipliers: [1, 2], attention_levels: [2], blocks: 1, num_repeat: 1, head_dim: 8, time_dim: 8}
  sampling: {steps: 2}
data:
  validation_count: 4
training:
  precision: fp32
  steps: 6
  batch_size: 4
  learning_rate: 0.002
  encoder_learning_rate: 0.001
  warmup_steps: 2
  ema_decay: 0.5
  evaluate_every: 3
  preview_every: 6
  checkpoint_every: 3
"""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Exact repeats need one number of threads, which a command run by a test may change."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 40 images 16x16: one to three coloured squares on grey, with masks."""
    folder = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for number in range(40):
        image = np.full((16, 16, 3), 128, np.uint8)
        mask = np.zeros((16, 16), np.uint8)
        for square in range(1, random.integers(2, 5)):
            y, x = random.integers(0, 11, 2)
            image[y : y + 5, x : x + 5] = random.integers(0, 256, 3)
            mask[y : y + 5, x : x + 5] = square
        Image.fromarray(image).save(folder / "images" / f"{number:03d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of presets whose models train in a second: tiny, tiny-latents and tiny-diffusion."""
    folder = tmp_path_factory.mktemp("presets")
    for name, text in {"tiny": TINY_PRESET, "tiny-latents": TINY_LATENTS, "tiny-diffusion": TINY_DIFFUSION}.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def tiny_preset(presets: Path) -> str:
    """The path of the preset of a slot autoencoder."""
    return str(presets / "tiny.yaml")


@pytest.fixture(scope="session")
def tiny_diffusion(presets: Path) -> str:
    """The path of the preset of slot diffusion."""
    return str(presets / "tiny-diffusion.yaml")


@pytest.fixture(scope="session")
def distinct(tiny_preset: str) -> Callable[..., torch.nn.Module]:
    """Makes an untrained model whose slots differ: each owns a part of every image."""
    from slotlab.checkpoints import create_model

    def make(**changes: object) -> torch.nn.Module:
        torch.manual_seed(0)
        model = create_model(tiny_preset, **changes).eval()
        with torch.no_grad():
            model.decoder.to_rgb_and_mask.weight.mul_(30)
        return model

    return make


@pytest.fixture(scope="session")
def latents_run(presets: Path, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of stage 1: an autoencoder, hardly trained."""
    from slotlab.runs import train

    folder = tmp_path_factory.mktemp("runs") / "latents"
    return train(str(presets / "tiny-latents.yaml"), out=folder, data=squares, show_progress=False)


@pytest.fixture(scope="session")
def diffusion_run(
    tiny_diffusion: str, latents_run: Path, squares: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run of stage 2 on it."""
    from slotlab.runs import train

    folder = tmp_path_factory.mktemp("runs") / "diffusion"
    pretrained = {"autoencoder.pretrained": str(latents_run)}
    return train(tiny_diffusion, out=folder, data=squares, show_progress=False, **pretrained)


@pytest.fixture(scope="session")
def feature_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript file with the interface of the published Inception and a small net inside."""
    return write_network(tmp_path_factory.mktemp("networks") / "small.pt")


@pytest.fixture(scope="session")
def slots_run(tiny_preset: str, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a slot autoencoder."""
    from slotlab.runs import train

    folder = tmp_path_factory.mktemp("runs") / "slots"
    return train(tiny_preset, out=folder, data=squares, show_progress=False, ema_decay=0.5)


@pytest.fixture(scope="session")
def released(slots_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The released folder of that run; to change it, copy it."""
    from slotlab.publishing import prepare

    out = tmp_path_factory.mktemp("released") / "tiny"
    return prepare(slots_run, out, name="tiny", library_images=20)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands for the Hugging Face Hub, logged in; folders in it are repositories."""
    folder = tmp_path / "hub"
    folder.mkdir()
    with hub_of(folder) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection fails the test."""

    def connect(*address: object) -> None:
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr("socket.socket.connect", connect)


class Command:
    """Runs the command line in this process."""

    def __init__(self, captured: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._captured, self._patch = captured, patch

    def __call__(self, *words: object) -> tuple[int, str, str]:
        """Status, stdout and stderr."""
        from slotlab.cli import main

        self._patch.setattr(sys, "argv", ["slotlab", *map(str, words)])
        self._patch.setenv("COLUMNS", "200")
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        printed = self._captured.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out, printed.err

    def fine(self, *words: object) -> str:
        """What a command that must succeed prints."""
        status, out, err = self(*words)
        assert status == 0, f"slotlab {shlex.join(map(str, words))}: {err or out}"
        return out

    def refused(self, *words: object) -> str:
        """The sentence with which a command that must fail ends."""
        status, _, err = self(*words)
        assert status == 2 and "slotlab: " in err
        return err


@pytest.fixture
def run_slotlab(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line."""
    return Command(capfd, monkeypatch)
