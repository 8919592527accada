"""Long work as generators: they yield what is done so far and return the result."""

from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")


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
