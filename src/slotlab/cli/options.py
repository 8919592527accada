"""What the commands share: the application, common options, progress bars and messages."""

import functools
import os
import re
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer import Argument, Option
from typer.core import TyperCommand

from slotlab import __version__

if TYPE_CHECKING:
    from slotlab.data import SlotDataset

T = TypeVar("T")
Command = Callable[..., None]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"slotlab {__version__}")
        raise typer.Exit


@app.callback()
def slotlab(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find the objects in images without labels, measure how well, and edit and recombine them.

    A first run: [bold]slotlab train scenes-32 --out runs/first[/bold], then
    [bold]slotlab evaluate runs/first --data scenes:plain --max-objects 6[/bold] and
    [bold]slotlab report runs/first[/bold].
    """


# Models and concept libraries.
RUN_HELP = "A run folder, the name of a trained model (slotlab models), or owner/name of one on the hub."
Run = Annotated[str, Argument(metavar="RUN|NAME", help=RUN_HELP)]
SameModel = Annotated[
    str | None, Option("--model", metavar="RUN|NAME", help="The model, as an option instead of the first word.")
]
ModelOption = Annotated[str, Option("--model", metavar="RUN|NAME", help=RUN_HELP)]
Models = Annotated[list[str] | None, Option(metavar="RUN|NAME", help=f"May be repeated. {RUN_HELP}")]
LIBRARY_HELP = "The folder of a library, or the name of a trained model that comes with one."
Library = Annotated[str, Argument(metavar="LIBRARY|NAME", help=LIBRARY_HELP)]

# Data sets.
DATA_HELP = "A data set folder or file of any supported kind, kind:PATH to force one, or scenes:VARIANT."
DataPath = Annotated[str, Argument(metavar="PATH", help=DATA_HELP)]
Data = Annotated[str, Option("--data", metavar="DATA", help=DATA_HELP)]
OptionalData = Annotated[str | None, Option("--data", metavar="DATA", help=DATA_HELP)]
Split = Annotated[str, Option(help="train, val, test or all.")]
Count = Annotated[int | None, Option(min=1, help="Use at most this many images (of each split).")]
MIN_OBJECTS = Option(help="Rendered scenes: fewest objects in a scene.")
MAX_OBJECTS = Option(help="Rendered scenes: most objects in a scene.")
Ignore = Annotated[int | None, Option(min=0, help="Id in masks of pixels that scores leave out, such as 255.")]
SUPERSAMPLE = Option(help="Rendered scenes: rays per pixel side; evaluate with the value used in training.")


@dataclass(frozen=True)
class ImageOptions:
    """Options on the images of a data set, the same in every command that opens one."""

    crop: Annotated[
        float | None,
        Option(help="Side of the centred crop as a fraction of the shorter side. Default: CLEVRTex 0.8, else 1."),
    ] = None
    min_objects: Annotated[int | None, MIN_OBJECTS] = None
    max_objects: Annotated[int | None, MAX_OBJECTS] = None
    supersample: Annotated[int | None, SUPERSAMPLE] = None
    skip_broken: Annotated[bool, Option("--skip-broken", help="Skip images that cannot be read, and count them.")] = (
        False
    )
    ignore: Ignore = None
    frames: Annotated[
        int | None, Option(min=1, help="Clips: frames of a sample. Default: 12 of moving scenes, else all.")
    ] = None
    stride: Annotated[int | None, Option(min=1, help="Stored clips: use every so many frames.")] = None

    def set(self) -> dict[str, Any]:
        """The options that differ from their defaults, as `open_data` and `pack` take them."""
        return {name: value for name, value in asdict(self).items() if value is not None and value is not False}


def open_from_options(
    data: str, resolution: int, split: str, count: int | None, images: ImageOptions, **more: Any
) -> "SlotDataset":
    """Opens the data set that the options name, at a model's resolution."""
    from slotlab.data import open_data

    return open_data(data, resolution=resolution, split=split, count=count, **images.set(), **more)


# Running models, and what they write.
SquareCrop = Annotated[float, Option("--crop", help="Side of the centred crop, as a fraction of the shorter.")]
Seed = Annotated[int, Option(min=0, help="Seed of everything random: slots, noise, members of concepts.")]
BatchSize = Annotated[int, Option(min=1, help="Images at a time.")]
MaskSource = Annotated[
    str | None, Option(help="masks (the decoder's), attention or posterior. Default: the one that fits objects best.")
]
Features = Annotated[str, Option(help="inception, efficientnet-lite0, or the path of a TorchScript network.")]
Inception = Annotated[Path | None, Option(help="Path of inception-2015-12-05.pt.")]
Merge = Annotated[
    bool, Option("--merge", help="First merge slots that hold one object, and empty those that hold nothing.")
]
Json = Annotated[Path | None, Option("--json", dir_okay=False, help="Also write the result to this file.")]
Device = Annotated[str, Option(help="auto, cpu or cuda.")]
Threads = Annotated[
    int, Option(min=0, help="CPU threads per process; 0: OMP_NUM_THREADS, or a thread for each core that is not busy.")
]


class ModelCommand(TyperCommand):
    """A command on one model, whose name comes first or as `--model`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Makes `--model NAME` the first word."""
        for place, word in enumerate(args):
            option, _, name = word.partition("=")
            if option == "--model" and (name or args[place + 1 :]):
                rest = args[place + (1 if name else 2) :]
                args = [name or args[place + 1], *args[:place], *rest]
                break
        return super().parse_args(ctx, args)


def command(group: typer.Typer, name: str | None = None, *, shared: bool = False) -> Callable[[Command], Command]:
    """Adds a function as a command.

    A parameter whose type is a dataclass becomes one option per field. A command with `device` also
    gets `--threads`, and the function receives a checked device ("cpu" or "cuda"). If the first
    parameter is `run`, it may be given as `--model`.

    Args:
        group: the application, or a group of commands in it.
        name: of the command; by default that of the function.
        shared: the processes that torchrun started share the work.
    """

    def add(function: Command) -> Command:
        parameters, groups = [], {}
        for parameter in signature(function, eval_str=True).parameters.values():
            if is_dataclass(parameter.annotation):
                kind: Any = parameter.annotation
                groups[parameter.name] = kind
                parameters += signature(kind, eval_str=True).parameters.values()
            else:
                parameters.append(parameter)
            if parameter.name == "device":
                parameters.append(Parameter("threads", Parameter.KEYWORD_ONLY, default=0, annotation=Threads))
        on_model = parameters[:1] and parameters[0].name == "run"
        if on_model:
            parameters.append(Parameter("model", Parameter.KEYWORD_ONLY, default=None, annotation=SameModel))

        @functools.wraps(function)
        def run(**options: Any) -> None:
            if on_model:
                options.pop("model")  # `ModelCommand` made it `run`
            for name, kind in groups.items():
                options[name] = kind(**{field.name: options.pop(field.name) for field in fields(kind)})
            if "threads" in options:
                _set_threads(options.pop("threads"))
            if shared and _processes() > 1:
                from slotlab.distributed import joined

                with joined(options["device"]) as (device, _):
                    return function(**options | {"device": device})
            if "device" in options:
                from slotlab.distributed import chosen_device

                options["device"] = chosen_device(options["device"])
            return function(**options)

        ordered = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters]
        run.__signature__ = signature(function).replace(parameters=ordered)  # pyright: ignore[reportAttributeAccessIssue]
        text = re.sub(r"(?<!\n)\n(?!\n)", " ", cleandoc(function.__doc__ or ""))  # for terminals of any width
        group.command(name, cls=ModelCommand if on_model else None, help=text)(run)
        return function

    return add


def _set_threads(count: int) -> None:
    """Sets the threads of torch; 0: as many as cores, but for those that others keep busy.

    Two threads of which one has to share its core are slower than one thread, because each part of
    a step waits for both. At least half of the cores are taken.
    """
    began, before = time.monotonic(), _seconds_of_others()
    import torch

    if count == 0 and "OMP_NUM_THREADS" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count == 0 and (elapsed := time.monotonic() - began) > 0.5:  # loading torch takes longer
        taken = int((_seconds_of_others() - before) / elapsed + 0.25)
        count = max(1, cores // 2, cores - taken)
        if count < cores:
            say(f"{taken} of {cores} cores are busy: this runs on {count} (--threads {cores}: on all)", error=True)
    torch.set_num_threads(count or cores)


def _seconds_of_others() -> float:
    """Seconds that others have kept this process's cores busy since the start; 0 if unknown."""
    if not (statistics := Path("/proc/stat")).exists():
        return 0.0
    lines = [line.split() for line in statistics.read_text().splitlines() if re.match(r"cpu\d", line)]
    ours = [line for line in lines if int(line[0][3:]) in os.sched_getaffinity(0)]
    ticks = sum(int(line[1]) + int(line[3]) for line in ours)  # user and system, without nice work and idleness
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:2])


def _processes() -> int:
    """How many processes torchrun started."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1
    from slotlab.distributed import count_of

    return count_of("WORLD_SIZE")


def speaks() -> bool:
    """Whether this process prints and writes: the only or first of those torchrun started."""
    return _processes() == 1 or os.environ.get("RANK") == "0"


def say(content: Any, error: bool = False) -> None:
    """Prints a line or a table for the user, once however many processes run."""
    if not speaks():
        return
    if isinstance(content, str):
        print(printable(content), file=sys.stderr if error else sys.stdout)
    else:
        from rich.console import Console

        Console(markup=False).print(_Printable(content))  # the name of a file may look like markup


def printable(text: str) -> str:
    r"""`text` with control characters as escapes, for the name of a file can hold any.

    Example:
        >>> printable("a\x1b[31m.png")
        'a\\x1b[31m.png'
    """
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


class _Printable:
    """A table of rich whose texts are printable."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        for segment in console.render(self.content, options):
            yield segment._replace(text=printable(segment.text))


def shown(description: str, total: int | None, steps: Generator[Any, None, T]) -> T:
    """Runs a generator under a progress bar on stderr, and returns its result.

    Args:
        description: of the work, such as "evaluating".
        total: number of items, if it is known.
        steps: yields the number of items done since the last yield; or, for work in stages, tuples
            of the stage's description, the number of items done in it, and its total (or None).

    Example:
        >>> def work():
        ...     for batch in (2, 2, 1):
        ...         yield batch
        ...     return "done"
        >>> shown("counting", 5, work())
        'done'
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    console = Console(stderr=True)
    hidden = not (speaks() and console.is_terminal)  # where it is no terminal, a bar would leave an empty line
    with Progress(*columns, transient=True, console=console, disable=hidden) as progress:
        task = progress.add_task(escape(printable(description)), total=total)
        while True:
            try:
                done = next(steps)
            except StopIteration as end:
                return end.value
            if isinstance(done, tuple):
                stage, finished, whole = done
                progress.update(task, description=escape(printable(stage)), completed=finished, total=whole)
            else:
                progress.advance(task, done)
