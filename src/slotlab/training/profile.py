"""Where the time of a training step goes: data, encoder, slot attention, decoder, backward, optimiser."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from rich import box
from rich.table import Table
from torch import nn

from slotlab.models import LatentAutoencoder, Model, SlotDiffusion

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
