"""Memory and time of a training step: what would fit, and where the time goes."""

import ctypes
import os
import platform
import re
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from slotlab.config import TrainingSettings
from slotlab.errors import SlotlabError
from slotlab.models import LatentAutoencoder, SlotAutoencoder, SlotDiffusion, TrainableModel

OVERHEAD = 1.6  # memory of a step over what it keeps for the gradient: of a CLEVRTex model on a CPU
WARM_UP, MEASURED = 3, 10  # steps of a profile
PREFIX = "slotlab: "  # of the names of parts in a trace


class OutOfMemory(SlotlabError):
    """A training step needs more memory than there is; the message says what would fit."""


def keep_freed_memory() -> None:
    """Makes glibc reuse the gigabyte that each step on a CPU frees; harmless elsewhere.

    By default each block is mapped, zeroed and unmapped every time.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, map_threshold, largest = -1, -3, 2**31 - 1
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(map_threshold, largest)
        mallopt(trim_threshold, largest)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, in torch's CPU allocator, or in Python."""
    refused = re.search(
        "DefaultCPUAllocator: (can't allocate|not enough) memory|size calculation overflowed", str(error)
    )
    return refused is not None or isinstance(error, torch.OutOfMemoryError | MemoryError)


@contextmanager
def explaining_out_of_memory(advice: Callable[[], str]) -> Iterator[None]:
    """Turns a failed allocation into OutOfMemory; asks for `advice` when memory is free again."""
    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the failed step
        failed = str(error).partition("\n")[0] or type(error).__name__
    raise OutOfMemory(f"out of memory: {advice()} (torch: {failed})")


def what_would_fit(model: TrainableModel, device: torch.device, settings: TrainingSettings, processes: int) -> str:
    """How much memory a step needs by estimate, how much there is, and settings that would fit."""
    present, batch_size = memory_of(device), settings.batch_size
    state = 5 * sum(parameter.nbytes for parameter in model.parameters())  # optimiser, average
    try:
        each = OVERHEAD * bytes_for_gradient(model, device)
    except (RuntimeError, MemoryError):
        each = float(present)
    at_once = batch_size // (settings.accumulate * processes)
    fitting = int((present - state) / each)
    if fitting >= at_once:  # something else holds memory too
        fitting = at_once // 2
    slots = "" if isinstance(model, LatentAutoencoder) else f" with {model.slots} slots"
    need = (
        f"{at_once} images at a time of {model.resolution}x{model.resolution}{slots} need about "
        f"{(at_once * each + state) / 2**30:.1f} GiB on {device}, which has {present / 2**30:.1f} GiB"
    )
    smaller = "a lower resolution" + (" or fewer slots" if slots else "")
    if isinstance(getattr(model, "image_model", model), SlotAutoencoder) and not getattr(
        model.decoder, "checkpointing", True
    ):
        smaller = f"decoder.checkpointing=true, {smaller}"
    if fitting < 1:
        return f"{need}; not even one image fits: only {smaller} can help"
    whole = [n for n in range(1, batch_size + 1) if batch_size % (n * processes) == 0]
    accumulate = next(n for n in whole if batch_size // (n * processes) <= fitting)
    return (
        f"{need}. About {fitting} would fit: lower batch_size to {fitting * processes}, or keep it and add "
        f"accumulate={accumulate}, which gives the same gradient; {smaller} helps too"
    )


def bytes_for_gradient(model: TrainableModel, device: torch.device) -> int:
    """Bytes that a training step keeps of one image until its gradient is computed."""
    images = torch.zeros(1, 3, model.resolution, model.resolution, device=device)
    return kept_bytes(model.train(), lambda: model(images))


def kept_bytes(module: nn.Module, compute: Callable[[], object]) -> int:
    """Bytes that `compute` keeps for the gradient, without the module's parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        result = compute()
    assert result is not None  # alive until here: no address is used twice
    return sum(size for address, size in kept.items() if address not in parameters)


def memory_of(device: torch.device) -> int:
    """Bytes of memory of a device; of a CPU, as much as this process may use."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return present if allowed == "max" else min(present, int(allowed))


class StepProfile:
    """Times the parts of the first training steps with `torch.profiler`, after a warm-up.

    A part within another counts for itself alone: parts add up to the step. A context manager.
    `milliseconds`, the wall time per step by part, is empty until `MEASURED` steps were measured.
    """

    def __init__(self, model: TrainableModel, device: torch.device) -> None:
        self.milliseconds: dict[str, float] = {}
        self._model, self._device, self._stack = model, device, ExitStack()
        self._profiler = profile(
            activities=[ProfilerActivity.CPU],
            schedule=schedule(wait=0, warmup=WARM_UP, active=MEASURED, repeat=1),
            on_trace_ready=self._measured,
        )

    def __enter__(self) -> "StepProfile":
        for name, module in _parts(self._model).items():
            self._time_calls(name, module)
        self._stack.enter_context(self._profiler)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time of the block for `name`."""
        with record_function(PREFIX + name):
            yield
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)

    def step(self) -> bool:
        """Ends a step; True once, when `milliseconds` are known."""
        if self.milliseconds:
            return False
        self._profiler.step()
        return bool(self.milliseconds)

    def _time_calls(self, name: str, module: nn.Module) -> None:
        """Makes each call of `module` in training a part."""
        plain = module.forward

        def forward(*arguments: Any, **options: Any) -> Any:
            validating = torch.is_inference_mode_enabled()  # which is part of no step
            with nullcontext() if validating else self.part(name):
                return plain(*arguments, **options)

        module.forward = forward
        self._stack.callback(delattr, module, "forward")

    def _measured(self, profiler: profile) -> None:
        spent: dict[str, float] = defaultdict(float)
        for event in profiler.events() or []:
            if event.name.startswith(PREFIX):
                spent[event.name] += event.cpu_time_total
                outer = event.cpu_parent
                while outer is not None and not outer.name.startswith(PREFIX):
                    outer = outer.cpu_parent
                if outer is not None:
                    spent[outer.name] -= event.cpu_time_total
        self.milliseconds = {name.removeprefix(PREFIX): time / 1000 / MEASURED for name, time in spent.items()}


def _parts(model: TrainableModel) -> dict[str, nn.Module]:
    """The modules that are timed, by their names in the table."""
    if isinstance(model, LatentAutoencoder):
        return {"encoder": model.network.encoder, "decoder": model.network.decoder}
    of_images: Any = getattr(model, "image_model", model)
    parts: dict[str, nn.Module] = {"encoder": of_images.encoder, "slot attention": of_images.encoder.slot_attention}
    if isinstance(of_images, SlotDiffusion):
        return parts | {"frozen autoencoder": of_images.autoencoder.network.encoder, "denoiser": of_images.denoiser}
    return parts | {"decoder": of_images.decoder}
