"""Ctrl-C and SIGTERM end a training after the step that it is in."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def noticing_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that the current step ends well; a second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def notice(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in before:
        signal.signal(number, notice)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
