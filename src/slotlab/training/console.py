"""The live view of a training run in the terminal."""

import ctypes
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

from slotlab.errors import SlotlabError
from slotlab.models import LatentAutoencoder, Model, SlotAutoencoder, SlotDiffusion
from slotlab.training.checkpoint import Row

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


WARM_UP, MEASURED = 3, 20
Clock = tuple[float, float]  # wall time, and time on processors, in seconds


@dataclass
class StepProfile:
    """Times the parts of the first steps of a run: after a warm-up, `MEASURED` of them.

    A part that runs within another counts for itself alone, so that the parts add up to the step. Processor time is
    that of all threads of the process: more than wall time where several work, less where the process has to wait.

    Args:
        model: its parts are timed.
        tell: is given the table, once, or a sentence where there is none.
        device: whose queued work is waited for at the border of each part, where it has a queue.
    """

    model: Model
    tell: Callable[[Table | str], None]
    device: torch.device
    spent: dict[str, list[float]] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _handles: list[torch.utils.hooks.RemovableHandle] = field(default_factory=list)
    _steps: int = 0

    def __post_init__(self) -> None:
        for name, modules in _parts(self.model).items():
            for module in modules:
                self._handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._enter_within(name)))
                self._handles.append(module.register_forward_hook(lambda *_: self._leave_within()))
        self._mark = self._clock()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time of the block for `name`, less what parts within it take."""
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def step(self, images: int) -> bool:
        """A step of so many images is done; tells the table after the last one to be measured, and returns True."""
        self._steps += 1
        if self._steps == WARM_UP:
            self.spent.clear()
        if self._steps < WARM_UP + MEASURED:
            return False
        self.end(images)
        return True

    def end(self, images: int) -> None:
        """Tells the table of the steps that were measured, or that there were too few."""
        for handle in self._handles:
            handle.remove()
        few = f"profile: nothing measured, for the first {WARM_UP} steps warm up; train for more steps"
        self.tell(self.table(images) if self._steps > WARM_UP else few)

    def table(self, images: int) -> Table:
        """Milliseconds of wall and processor time a step, and the share of each part."""
        steps = max(1, self._steps - WARM_UP)
        wall, processor = (sum(times[which] for times in self.spent.values()) / steps for which in (0, 1))
        title = f"a step of {images} images: mean of {steps}, {images / wall:.1f} images/s"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for heading in ("part", "ms", "share", "processor ms"):
            table.add_column(heading, justify="left" if heading == "part" else "right")
        for name, times in self.spent.items():
            mine = [one / steps for one in times]
            table.add_row(name, f"{1000 * mine[0]:.1f}", f"{mine[0] / wall:.0%}", f"{1000 * mine[1]:.1f}")
        table.add_section()
        table.add_row("all", f"{1000 * wall:.1f}", "100%", f"{1000 * processor:.1f}")
        return table

    def _enter(self, name: str) -> None:
        self._count()
        self._open.append(name)
        self.spent.setdefault(name, [0.0, 0.0])

    def _enter_within(self, name: str) -> None:
        """Enters a module; one that runs outside of every part belongs to no step, but to a validation."""
        if self._open:
            self._enter(name)

    def _leave_within(self) -> None:
        if self._open:
            self._leave()

    def _leave(self) -> None:
        self._count()
        self._open.pop()

    def _count(self) -> None:
        """Gives the time since the last border to the innermost open part."""
        now = self._clock()
        if self._open:
            times = self.spent.setdefault(self._open[-1], [0.0, 0.0])
            for which in (0, 1):
                times[which] += now[which] - self._mark[which]
        self._mark = now

    def _clock(self) -> Clock:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()


def _parts(model: Model) -> dict[str, list[nn.Module]]:
    """The modules that are timed, by what tables call them."""
    if isinstance(model, LatentAutoencoder):
        return {"encoder": [model.network.encoder], "decoder": [model.network.decoder]}
    parts: dict[str, list[nn.Module]] = {"encoder": [model.encoder], "slot attention": [model.encoder.slot_attention]}
    if isinstance(model, SlotDiffusion):
        return {**parts, "frozen autoencoder": [model.autoencoder.network.encoder], "denoiser": [model.denoiser]}
    return {**parts, "decoder": [model.decoder]}


class TrainingProgress:
    """A bar with step, loss, images/s and ETA, and a line for each validation; plain lines where there is no terminal.

    Args:
        steps: steps of the whole run.
        enabled: draw anything at all.
    """

    def __init__(self, steps: int, enabled: bool) -> None:
        self.enabled = enabled
        self.console = Console(quiet=not enabled)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} images/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not enabled or not self.console.is_terminal,
        )
        self._told: set[str] = set()
        self._before: Set[str] = set()
        self._task = self._bar.add_task("training", total=steps, loss="-", speed="-")

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, step: int) -> None:
        """Begins at `step`, so that a resumed run's ETA is right."""
        self._bar.reset(self._task, completed=step)

    def update(self, step: int, batch_size: int, losses: Sequence[Tensor]) -> None:
        """Moves the bar to `step`; now and then shows loss and speed (reading a loss waits for the device)."""
        self._bar.update(self._task, completed=step)
        if step % 10 == 0 and losses:
            speed = self._bar.tasks[0].speed
            self._bar.update(
                self._task, loss=f"{float(losses[-1]):.4f}", speed=f"{speed * batch_size:.0f}" if speed else "-"
            )

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(text, highlight=False)

    def tell(self, row: Row, warnings: Sequence[str]) -> None:
        """Prints one line for a validation, and each kind of warning once, when it was there the time before too."""
        scores = "  ".join(
            f"{name.upper().replace('_', '-')} {row[name]:.3f}" for name in ("ari", "fg_ari") if name in row
        )
        self.console.print(
            f"step {row['step']:.0f}  train loss {row['train_loss']:.4f}  "
            f"validation loss {row['validation_loss']:.4f}  {scores}  {row['images_per_second']:.1f} images/s",
            highlight=False,
        )
        kinds = {warning.partition(":")[0]: warning for warning in warnings}
        for kind in (kinds.keys() & self._before) - self._told:
            self._told.add(kind)
            self.console.print(f"[yellow]warning:[/yellow] {kinds[kind]}", highlight=False)
        self._before = kinds.keys()
