"""Long work as generators: they yield what is done so far and return the result."""

import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, Protocol, TypeVar, cast, get_args

P = ParamSpec("P")
T = TypeVar("T")
Yielded = TypeVar("Yielded", covariant=True)
Result = TypeVar("Result", covariant=True)
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


class InSteps(Protocol[P, Yielded, Result]):
    """A function that works to its end, and whose `steps` is the generator that does the work."""

    @property
    def steps(self) -> Callable[P, Generator[Yielded, None, Result]]:
        """Takes the same arguments, yields what is done so far, and returns the same result."""
        ...

    def __call__(self, *arguments: P.args, **options: P.kwargs) -> Result:
        """Runs all steps."""
        ...


def in_steps(work: Callable[P, Generator[Yielded, None, Result]]) -> InSteps[P, Yielded, Result]:
    """Makes a generator function one that runs to its end; the generator stays as `work.steps`.

    Example:
        >>> @in_steps
        ... def work(count):
        ...     for number in range(count):
        ...         yield number
        ...     return "done"
        >>> work(3), list(work.steps(3))
        ('done', [0, 1, 2])
    """

    @functools.wraps(work)
    def run(*arguments: P.args, **options: P.kwargs) -> Result:
        return finish(work(*arguments, **options))

    named: Any = run
    named.steps = work
    shown = inspect.signature(work)
    if parts := get_args(shown.return_annotation):  # of Generator[Yielded, None, Result]
        named.__signature__ = shown.replace(return_annotation=parts[2])  # what `help` shows
    return cast(InSteps[P, Yielded, Result], run)


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
