import threading
import time

import pytest

from slotlab.studio.components import Done, Stopped, listen


def counting(say):
    for number in range(3):
        say(number)
    return "end"


def test_what_is_said_comes_before_the_result():
    assert list(listen(counting, threading.Event())) == [0, 1, 2, Done("end")]


def test_an_error_in_the_work_is_raised_here():
    def fail(say):
        say(1)
        raise ValueError("no")

    heard = listen(fail, threading.Event())
    assert next(heard) == 1
    with pytest.raises(ValueError, match="no"):
        next(heard)


def test_the_work_ends_when_it_is_stopped_or_nobody_listens():
    ended = threading.Event()

    def endless(say):
        try:
            while True:
                say(0)
                time.sleep(0.001)
        finally:
            ended.set()

    stop = threading.Event()
    heard = listen(endless, stop)
    next(heard)
    stop.set()
    with pytest.raises(Stopped):
        list(heard)
    assert ended.wait(5)
    ended.clear()
    heard = listen(endless, threading.Event())
    next(heard)
    heard.close()
    assert ended.wait(5)
