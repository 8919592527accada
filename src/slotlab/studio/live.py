"""Long work that tells how it goes, and can be stopped: what it says, one by one, while it runs."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Said = TypeVar("Said")
Result = TypeVar("Result")


class Stopped(Exception):
    """Raised inside the work when it is to end early."""


@dataclass(frozen=True)
class Done(Generic[Result]):
    """What the work returned."""

    result: Result


def listen(work: Callable[[Callable[[Said], None]], Result], stop: threading.Event) -> Iterator[Said | Done[Result]]:
    """Runs `work(say)` in a thread, yields what it says, and last its result; an error in it is raised here.

    Once `stop` is set, or nobody listens any more, the next `say` in the work raises `Stopped`.
    """
    told: queue.SimpleQueue[Said | Done[Result] | BaseException] = queue.SimpleQueue()

    def say(something: Said) -> None:
        if stop.is_set():
            raise Stopped
        told.put(something)

    def run() -> None:
        try:
            told.put(Done(work(say)))
        except BaseException as error:
            told.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            something = told.get()
            if isinstance(something, BaseException):
                raise something
            yield something
            if isinstance(something, Done):
                return
    finally:
        stop.set()
