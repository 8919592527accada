"""Devices, processes and precision: one Fabric, from the command line's wishes or from torchrun or SLURM."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
import torch.distributed as dist

from slotlab.errors import ConfigError, SlotlabError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BACKENDS = ("gloo", "nccl", "connection")  # what their messages name when a process is gone
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Which of how many processes this one is; 0 of 1 where there is no other."""

    rank: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """This process's contiguous part of `total` things; the parts of all processes make up the whole."""
        return range(total * self.rank // self.count, total * (self.rank + 1) // self.count)


def place_among_processes() -> Place:
    """Where this process stands in the process group, if one was joined."""
    if dist.is_available() and dist.is_initialized():
        return Place(dist.get_rank(), dist.get_world_size())
    return Place(0, 1)


def wait_for_all() -> None:
    """Returns when every process has come here; at once where there is one."""
    if place_among_processes().count > 1:
        dist.barrier()


def from_first(value: T) -> T:
    """What the first process gives, in every process; the others' values are not used."""
    if place_among_processes().count == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def from_all(values: list[T]) -> list[T]:
    """The lists of all processes, one after the other, in every process."""
    place = place_among_processes()
    if place.count == 1:
        return values
    lists: list[list[T]] = [[] for _ in range(place.count)]
    dist.all_gather_object(lists, values)
    return [value for one in lists for value in one]


class ProcessLost(SlotlabError):
    """Another process of this command has ended or can no longer be reached."""


@contextmanager
def naming_lost_processes(remedy: Callable[[], str]) -> Iterator[None]:
    """Turns what the backend says when a process is gone into one sentence, with a remedy.

    Raises:
        ProcessLost: in every process that was waiting for the one that is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(name in str(error).lower() for name in BACKENDS):
            raise
        place = place_among_processes()
        raise ProcessLost(
            f"process {place.rank} of {place.count}: another process has ended or cannot be reached; see what it says. "
            f"{remedy()}"
        ) from error


@contextmanager
def noticing_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that work can end in order; a second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def notice(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in before:
        signal.signal(number, notice)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def joined(device: str) -> Iterator[tuple[str, Place]]:
    """Joins the processes that `torchrun` started, if it did, for the time of the block.

    Args:
        device: "auto", "cpu" or "cuda".

    Yields:
        The device of this process, and its place.
    """
    fabric = make_fabric(device, 1, 1, "fp32")
    try:
        with naming_lost_processes(lambda: "Give the command again"):
            yield str(fabric.device), place_among_processes()
    finally:
        if place_among_processes().count > 1:
            dist.destroy_process_group()


def make_fabric(
    accelerator: str,
    devices: int,
    nodes: int,
    precision: Literal["auto", "fp32", "bf16"],
    parameters_without_gradient: bool = False,
) -> "Fabric":
    """Launches Fabric.

    Under `torchrun` the processes are those it started, whatever `devices` and `nodes` say; elsewhere Fabric starts
    `devices` processes on each of `nodes` machines (SLURM's tasks are recognised). `parameters_without_gradient`: some
    parameters may lack one in some steps, for which processes must not wait.

    Raises:
        ConfigError: an accelerator that is not there, or not as often; or a precision that it lacks.
    """
    from lightning_fabric import Fabric  # takes seconds to load, and is needed by those who compute only
    from lightning_fabric.strategies.ddp import DDPStrategy

    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator not in ("cpu", "cuda"):
        raise ConfigError(f"accelerator: must be auto, cpu or cuda, not {accelerator!r}")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("accelerator: no CUDA device is to be seen; use cpu, or install a CUDA build of torch")
    if accelerator == "cuda" and precision == "bf16" and not computes_bf16(accelerator):
        raise ConfigError(
            f"training.precision: {torch.cuda.get_device_name()} does not compute in bfloat16; use precision=fp32, or "
            f"auto, which takes bfloat16 only where it is fast"
        )
    if "LOCAL_WORLD_SIZE" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    for name, value in (("devices", devices), ("nodes", nodes)):
        if value < 1:
            raise ConfigError(f"{name}: must be 1 or more, not {value}")
    if accelerator == "cuda" and devices > torch.cuda.device_count():
        present = torch.cuda.device_count()
        raise ConfigError(f"devices: {devices} processes, but CUDA devices for {present} of them; start {present}")
    strategy = DDPStrategy(
        process_group_backend="nccl" if accelerator == "cuda" else "gloo",
        find_unused_parameters=parameters_without_gradient,
    )
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
    return computes_bf16(accelerator) if precision == "auto" else precision == "bf16"


def computes_bf16(accelerator: str) -> bool:
    """Whether the device has bfloat16 arithmetic of its own; emulated, it is slower than float32."""
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
