"""Shared by the fault injections: small inputs, and the commands that write files."""

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from trial import Runner

PRESET = """
summary: for fault injection
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
  steps: 4
  batch_size: 4
  learning_rate: 0.002
  warmup_steps: 2
  ema_decay: 0.5
  evaluate_every: 2
  preview_every: 2
  checkpoint_every: 2
  keep_checkpoints: 1
"""


def draw(folder: Path, count: int, side: int = 16) -> Path:
    """An image folder: one to three coloured squares on grey, with masks."""
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        image = np.full((side, side, 3), 128, np.uint8)
        mask = np.zeros((side, side), np.uint8)
        for square in range(1, int(random.integers(2, 5))):
            y, x = random.integers(0, side - 5, 2)
            image[y : y + 5, x : x + 5] = random.integers(0, 256, 3)
            mask[y : y + 5, x : x + 5] = square
        Image.fromarray(image).save(folder / "images" / f"{number:03d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:03d}.png")
    return folder


def feature_net(path: Path) -> None:
    """A TorchScript file with the interface of the published Inception, and a small net inside."""
    import torch

    torch.manual_seed(0)
    network: Any = torch.nn.Module()
    network.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 60, stride=60), torch.nn.AdaptiveAvgPool2d(1))
    network.forward = lambda images: network.layers(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is old
        torch.jit.trace_module(network, {"forward": torch.zeros(1, 3, 299, 299)}).save(str(path))


def prepare(runner: Runner, folder: Path) -> Path:
    """Makes the inputs of all commands: data, preset, run, library, composition, release."""
    inputs = folder / "inputs"
    draw(inputs / "squares", 24)
    draw(inputs / "drawn", 2)
    (inputs / "drawn" / "images").rename(inputs / "photos")
    shutil.rmtree(inputs / "drawn")
    (inputs / "tiny.yaml").write_text(PRESET)
    feature_net(inputs / "net.pt")
    work = folder / "making"
    work.mkdir()
    words = "--data ../inputs/squares"
    for line in (
        f"train ../inputs/tiny.yaml --out ../inputs/run {words} --threads 1",
        f"evaluate ../inputs/run {words} --count 4",
        f"concepts fit ../inputs/run {words} --out ../inputs/library",
        "compose ../inputs/run ../inputs/library --count 4 --out ../inputs/composed",
        "data pack ../inputs/squares ../inputs/packed --count 6",
        "publish ../inputs/run --to ../inputs/released",
        "segment ../inputs/photos --model ../inputs/run --out ../inputs/segments",
    ):
        ended = runner.run(line.split(), work)
        if ended.kind != "fine":
            raise SystemExit(f"slotlab {line}: {ended.kind}: {ended.said}")
    return inputs


@dataclass(frozen=True)
class Command:
    """A command that writes files. It runs in a folder beside `inputs`.

    Attributes:
        words: after `slotlab`.
        takes: folders of the inputs that are copied into its folder first, since it writes there.
        again: words to add when it is repeated.
    """

    words: str
    takes: tuple[str, ...] = ()
    again: str = ""

    def place(self, inputs: Path, folder: Path) -> Path:
        """Makes the folder that the command runs in."""
        folder.mkdir(exist_ok=True)
        for name in self.takes:
            shutil.copytree(inputs / name, folder / name)
        return folder


DATA, RUN = "--data ../inputs/squares", "../inputs/run"
COMMANDS = {
    "train": Command(f"train ../inputs/tiny.yaml --out run {DATA} --threads 1", again="--resume"),
    "data pack": Command("data pack ../inputs/squares packed"),
    "data pack, over one": Command("data pack ../inputs/squares packed --resolution 8", ("packed",)),
    "scenes write": Command("scenes write scenes --variant plain --count 3 --size 16"),
    "concepts fit": Command(f"concepts fit {RUN} {DATA} --out library"),
    "concepts fit, over one": Command(f"concepts fit {RUN} {DATA} --seed 1 --out library", ("library",)),
    "concepts show": Command(f"concepts show library --model {RUN} {DATA}", ("library",)),
    "compose": Command(
        f"compose {RUN} ../inputs/library --count 6 --batch-size 4 --out new --score {DATA} --features ../inputs/net.pt"
    ),
    "segment": Command(f"segment ../inputs/photos --model {RUN} --out segments"),
    "publish": Command(f"publish {RUN} --to release"),
    "publish, over one": Command(f"publish {RUN} --to released", ("released",)),
    "evaluate --json": Command(f"evaluate run {DATA} --json scores.json", ("run",)),
    "diagnose --json": Command(f"diagnose run {DATA} --json found.json", ("run",)),
    "report": Command("report run", ("run",)),
    "edit": Command(f"edit {RUN} ../inputs/photos/000.png --remove 1 --out edits"),
    "show": Command(f"show ../inputs/photos/000.png --model {RUN} --out figures"),
}


def chosen(only: list[str] | None) -> dict[str, Command]:
    """The commands that `--only` names, or all."""
    return {name: one for name, one in COMMANDS.items() if not only or name in only}
