"""Devices, processes and precision; works under torchrun and SLURM."""

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

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Rank of this process, and the number of all."""

    rank: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """This process's contiguous part of `total` items; all parts make up the whole.

        Example:
            >>> [list(Place(rank, 2).share(5)) for rank in (0, 1)]
            [[0, 1], [2, 3, 4]]
        """
        return range(total * self.rank // self.count, total * (self.rank + 1) // self.count)


def place_among_processes() -> Place:
    """The place of this process; 0 of 1 outside of a process group."""
    if dist.is_available() and dist.is_initialized():
        return Place(dist.get_rank(), dist.get_world_size())
    return Place(0, 1)


def count_of(variable: str) -> int:
    """A number of processes that `torchrun` set; ConfigError if it is not one."""
    text = os.environ.get(variable, "")
    if not (text.isdecimal() and 0 < len(text.lstrip("0")) < 10):
        remedy = "start with torchrun, which sets it, or unset it"
        raise ConfigError(f"{variable}={text}: must be the number of processes; {remedy}")
    return int(text)


def wait_for_all() -> None:
    """Returns when every process has called it."""
    if place_among_processes().count > 1:
        dist.barrier()


def from_first(value: T) -> T:
    """The value of the first process, in every process."""
    if place_among_processes().count == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def from_all(values: list[T]) -> list[T]:
    """The concatenated lists of all processes, in every process."""
    place = place_among_processes()
    if place.count == 1:
        return values
    lists: list[list[T]] = [[] for _ in range(place.count)]
    dist.all_gather_object(lists, values)
    return [value for one in lists for value in one]


class ProcessLost(SlotlabError):
    """Another process of this command ended or cannot be reached."""


@contextmanager
def naming_lost_processes(remedy: Callable[[], str]) -> Iterator[None]:
    """Turns a backend's error about a lost process into `ProcessLost` with a remedy."""
    try:
        yield
    except RuntimeError as error:
        backends = ("gloo", "nccl", "connection")
        if not isinstance(error, dist.DistError) and not any(name in str(error).lower() for name in backends):
            raise
        place, lost = place_among_processes(), "another process has ended or cannot be reached; see its message"
        raise ProcessLost(f"process {place.rank} of {place.count}: {lost}. {remedy()}") from error


@contextmanager
def noticing_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, to end in order; a second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def notice(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    may_listen = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if may_listen else ()
    before = {number: signal.signal(number, notice) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def joined(device: str) -> Iterator[tuple[str, Place]]:
    """Joins the processes of `torchrun`, if it runs; yields device and place of this process."""
    fabric = make_fabric(device, 1, 1, "fp32")
    try:
        with naming_lost_processes(lambda: "Run the command again"):
            yield str(fabric.device), place_among_processes()
    finally:
        if place_among_processes().count > 1:
            dist.destroy_process_group()


def chosen_device(name: str) -> str:
    """The device of that name; "auto" is "cuda" if there is one, else "cpu".

    Raises:
        ConfigError: another name, or there is no CUDA device.

    Example:
        >>> chosen_device("cpu")
        'cpu'
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"device: must be auto, cpu or cuda, not {name!r}")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device: no CUDA device is available; use cpu, or install a CUDA build of torch")
    return name


def make_fabric(
    device: str,
    devices: int,
    nodes: int,
    precision: Literal["auto", "fp32", "bf16"],
    parameters_without_gradient: bool = False,
) -> "Fabric":
    """Launches Fabric: `devices` processes on `nodes` machines, or those of `torchrun` or SLURM.

    Args:
        device: "auto", "cpu" or "cuda".
        devices: processes on this machine.
        nodes: machines.
        precision: "auto" is bfloat16 on devices where it is fast.
        parameters_without_gradient: some steps give no gradient to some parameters.
    """
    from lightning_fabric import Fabric  # takes seconds to load
    from lightning_fabric.strategies.ddp import DDPStrategy

    device = chosen_device(device)
    if ":" in device:
        raise ConfigError(f"device: takes auto, cpu or cuda here, not {device}; set CUDA_VISIBLE_DEVICES to choose one")
    if device == "cuda" and precision == "bf16" and not computes_bf16(device):
        remedy = "use precision=fp32, or auto, which takes bfloat16 only where it is fast"
        raise ConfigError(f"training.precision: {torch.cuda.get_device_name()} does not compute in bfloat16; {remedy}")
    if "LOCAL_WORLD_SIZE" in os.environ:
        devices = count_of("LOCAL_WORLD_SIZE")
        nodes = count_of("WORLD_SIZE") // devices
    for name, value in (("devices", devices), ("nodes", nodes)):
        if value < 1:
            raise ConfigError(f"{name}: must be 1 or more, not {value}")
    if device == "cuda" and devices > torch.cuda.device_count():
        present = torch.cuda.device_count()
        raise ConfigError(f"devices: {devices} processes, but {present} CUDA devices; start {present}")
    use_bf16 = precision == "bf16" or (precision == "auto" and computes_bf16(device))
    backend = "nccl" if device == "cuda" else "gloo"
    strategy = DDPStrategy(process_group_backend=backend, find_unused_parameters=parameters_without_gradient)
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        strategy=strategy if devices * nodes > 1 else "auto",
        precision="bf16-mixed" if use_bf16 else "32-true",
    )
    fabric.launch()
    return fabric


def computes_bf16(device: str) -> bool:
    """Whether the device has native bfloat16; emulated bfloat16 is slower than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
