"""Memory of a training step: kept when it is freed, which spares page faults; and what to do when it runs out."""

import ctypes
import os
import platform
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from slotlab.errors import SlotlabError
from slotlab.models import LatentAutoencoder, Model, SlotAutoencoder

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_REFUSALS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
OVERHEAD = 1.6  # of a step over what it keeps for the gradient; measured with slot-attention-clevrtex on a CPU


def keep_freed_memory() -> bool:
    """Tells glibc to reuse freed blocks instead of returning them to the system.

    A training step on CPU frees and takes the same gigabyte again and again; with the default settings each block is
    mapped, zeroed and unmapped every time. Returns whether it could be done (glibc only); harmless elsewhere.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    largest = 2**31 - 1
    return bool(mallopt(_M_MMAP_THRESHOLD, largest)) and bool(mallopt(_M_TRIM_THRESHOLD, largest))


class OutOfMemory(SlotlabError):
    """A training step needs more memory than there is; the message says what would fit."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, in torch's CPU allocator, or in Python."""
    refused = isinstance(error, RuntimeError) and any(words in str(error) for words in _REFUSALS)
    return refused or isinstance(error, torch.OutOfMemoryError | MemoryError)


@contextmanager
def explaining_out_of_memory(advice: Callable[[], str]) -> Iterator[None]:
    """Turns a failed allocation into OutOfMemory, with what `advice` says once the memory is free again."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the failed step
        failed = str(error).splitlines()[0] if str(error) else type(error).__name__
    else:
        return
    raise OutOfMemory(f"out of memory: {advice()} (torch: {failed})")


def what_would_fit(model: Model, device: torch.device, batch_size: int, parts: int, processes: int) -> str:
    """How much memory a step needs by estimate, how much there is, and settings for which it would do.

    Args:
        model: the model that is trained.
        device: where.
        batch_size: images of a step, over all processes.
        parts: parts of a batch that are computed one after the other (`accumulate`).
        processes: number of processes.
    """
    present = memory_of(device)
    state = 5 * sum(parameter.nbytes for parameter in model.parameters())  # gradient, two moments, moving average
    try:
        each = OVERHEAD * bytes_for_gradient(model, device)
    except (RuntimeError, MemoryError):
        each = float(present)
    at_once = batch_size // (parts * processes)
    fitting = int((present - state) / each)
    if fitting >= at_once:  # then something else holds memory too
        fitting = at_once // 2
    size = f"{model.resolution}x{model.resolution}"
    slots = "" if isinstance(model, LatentAutoencoder) else f" with {model.slots} slots"
    need = (
        f"{at_once} images at a time of {size}{slots} need about {_gib(at_once * each + state)} on {device}, "
        f"where there are {_gib(present)}"
    )
    smaller = "a lower resolution" + (" or fewer slots" if slots else "")
    if isinstance(model, SlotAutoencoder) and not model.decoder.checkpointing:
        smaller = f"decoder.checkpointing=true, {smaller}"
    if fitting < 1:
        return f"{need}; not even one image fits: only {smaller} can help"
    whole = [n for n in range(1, batch_size + 1) if batch_size % (n * processes) == 0]
    accumulate = next(n for n in whole if batch_size // (n * processes) <= fitting)
    return (
        f"{need}. About {fitting} would fit: lower batch_size to {fitting * processes}, or keep it and add "
        f"accumulate={accumulate}, which gives the same gradient; {smaller} helps too"
    )


def bytes_for_gradient(model: Model, device: torch.device) -> int:
    """What a training step keeps of one image until its gradient is computed."""
    images = torch.zeros(1, 3, model.resolution, model.resolution, device=device)
    return kept_bytes(model.train(), lambda: model(images))


def kept_bytes(module: nn.Module, compute: Callable[[], object]) -> int:
    """Bytes of what `compute` keeps for the gradient, the module's parameters left out; shared memory counts once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        result = compute()
    assert result is not None  # alive until here, so that no storage is counted for two
    return sum(kept.values())


def memory_of(device: torch.device) -> int:
    """Bytes of memory of a device; of a CPU, as far as this process may use it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return present if allowed == "max" else min(present, int(allowed))


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
