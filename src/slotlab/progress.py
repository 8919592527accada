"""Long work as generators: they yield what is done so far and return the result."""

from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")
Stage = tuple[str, int, int | None]  # what is done, items done so far, items in all if known


def finish(steps: Generator[Any, None, T]) -> T:
    """Runs a generator to its end and returns what it returns.

    Example:
        >>> def work():
        ...     yield 1
        ...     return "done"
        >>> finish(work())
        'done'
    """
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def stage(description: str, total: int | None, steps: Generator[int, None, T]) -> Generator[Stage, None, T]:
    """Describes one stage of longer work: adds up the numbers that `steps` yields.

    Example:
        >>> def work():
        ...     yield 2
        ...     yield 1
        >>> list(stage("counting", 3, work()))
        [('counting', 2, 3), ('counting', 3, 3)]
    """
    done = 0
    while True:
        try:
            done += next(steps)
        except StopIteration as end:
            return end.value
        yield description, done, total
