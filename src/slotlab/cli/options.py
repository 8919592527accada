"""What the commands share: the application, options that several have, and how they speak."""

import functools
import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from slotlab.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Learn, without labels, to take pictures apart into their objects (slots); measure it; look at it.\n\n"
    "A first run: [bold]slotlab train scenes-32 --out runs/first[/bold], then "
    "[bold]slotlab evaluate runs/first --data scenes:plain --max-objects 6[/bold] and "
    "[bold]slotlab report runs/first[/bold].",
)

RUN_HELP = "A run folder, the name of a trained model (slotlab models), or owner/name of one on the hub."
Run = Annotated[str, typer.Argument(metavar="RUN|NAME", help=RUN_HELP)]
LIBRARY_HELP = "Folder of a library, or the name of a trained model, whose own it then is."
Library = Annotated[str, typer.Argument(metavar="LIBRARY|NAME", help=LIBRARY_HELP)]
DATA_HELP = "A data set folder or file of any supported kind, kind:PATH to force one, or scenes:VARIANT."
Data = Annotated[str, typer.Option("--data", metavar="PATH|scenes:VARIANT", help=DATA_HELP)]
Split = Annotated[str, typer.Option(help="train, val, test or all.")]
Crop = Annotated[
    float | None, typer.Option(help="Centred crop, fraction of the shorter side; default: 0.8 for CLEVRTex, else 1.")
]
MinObjects = Annotated[int | None, typer.Option(help="For scenes: fewest objects in a scene.")]
MaxObjects = Annotated[int | None, typer.Option(help="For scenes: most objects in a scene.")]
Supersample = Annotated[
    int | None, typer.Option(help="For scenes: rays per pixel on a side, as the model was trained with.")
]
SkipBroken = Annotated[bool, typer.Option(help="Replace broken images by the next, and count them.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, which are not None."""
    return {name: value for name, value in options.items() if value is not None}


def shared_work(command: Callable[..., None]) -> Callable[..., None]:
    """Lets a command with a `device` share its work with the processes that torchrun started, if it did."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        if _processes() == 1:
            return command(**options)
        from slotlab.distributed import joined

        with joined(options["device"]) as (device, _):
            return command(**options | {"device": device})

    return run


def speaks() -> bool:
    """Whether this process speaks and writes for the others, or is alone."""
    return _processes() == 1 or os.environ["RANK"] == "0"


def _processes() -> int:
    """How many processes torchrun started."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def progress_bar(*columns: Any) -> "Progress":
    """A progress bar on stderr, which vanishes when all is done; drawn by the process that speaks."""
    from rich.console import Console
    from rich.progress import Progress

    shown = (*Progress.get_default_columns(), *columns)
    return Progress(*shown, transient=True, console=Console(stderr=True), disable=not speaks())


def shown(description: str, total: int | None, steps: Generator[Any, None, T]) -> T:
    """Runs a generator under a progress bar on stderr, and returns its result.

    Args:
        description: of the work, such as "evaluating".
        total: number of items, if it is known.
        steps: yields the number of items done since the last yield; or, for work in stages, tuples of the stage's
            description, the number of items done in it, and its total (or None).

    Example:
        >>> def work():
        ...     for batch in (2, 2, 1):
        ...         yield batch
        ...     return "done"
        >>> shown("counting", 5, work())
        'done'
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True), disable=not speaks()) as progress:
        task = progress.add_task(description, total=total)
        while True:
            try:
                done = next(steps)
            except StopIteration as end:
                return end.value
            if isinstance(done, tuple):
                stage, finished, whole = done
                progress.update(task, description=stage, completed=finished, total=whole)
            else:
                progress.advance(task, done)


def device_named(name: str) -> str:
    """The device of an option: "auto" is CUDA where there is one, else the CPU."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = None
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device: must be auto, cpu or cuda, not {name!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: there is no CUDA device here, or this build of PyTorch cannot use it; take cpu")
    return name


def set_threads(count: int) -> None:
    """Sets the number of CPU threads; 0 means all cores. ConfigError for a negative number."""
    import torch

    if count < 0:
        raise ConfigError(f"threads: must be 0 (all cores) or more, not {count}")
    torch.set_num_threads(count or _usable_cores())


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def say(text: str) -> None:
    """Prints a line for the user."""
    if speaks():
        print(text)
