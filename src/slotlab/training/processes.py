"""Devices, processes and precision: one Fabric, from the command line's wishes or from torchrun or SLURM."""

import os
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from slotlab.errors import ConfigError


def make_fabric(accelerator: str, devices: int, nodes: int, precision: Literal["auto", "fp32", "bf16"]) -> Fabric:
    """Launches Fabric.

    Under `torchrun` the processes are those it started, whatever `devices` and `nodes` say; elsewhere Fabric starts
    `devices` processes on each of `nodes` machines (SLURM's tasks are recognised).

    Raises:
        ConfigError: an accelerator that is not there, or a precision that it lacks.
    """
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator not in ("cpu", "cuda"):
        raise ConfigError(f"accelerator: must be auto, cpu or cuda, not {accelerator!r}")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("accelerator: no CUDA device is to be seen; use cpu, or install a CUDA build of torch")
    if "LOCAL_WORLD_SIZE" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    strategy = DDPStrategy(process_group_backend="nccl" if accelerator == "cuda" else "gloo")
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=strategy if devices * nodes > 1 else "auto",
        precision="bf16-mixed" if _use_bf16(accelerator, precision) else "32-true",
    )
    fabric.launch()
    return fabric


def _use_bf16(accelerator: str, precision: str) -> bool:
    if precision != "auto":
        return precision == "bf16"
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
