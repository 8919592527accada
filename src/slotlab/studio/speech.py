"""How the studio speaks when something cannot be done: one sentence, never a traceback."""

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from slotlab.errors import SlotlabError

_log = logging.getLogger(__name__)


def politely(act: Callable[..., Any]) -> Callable[..., Any]:
    """An event's function (or generator) whose errors reach the page as a sentence.

    What the library says of bad input is shown as it is; anything else is logged, and the page is told so.
    """
    if inspect.isgeneratorfunction(act):

        @functools.wraps(act)
        def walk(*arguments: Any) -> Iterator[Any]:
            with _spoken(act):
                yield from act(*arguments)

        return walk

    @functools.wraps(act)
    def run(*arguments: Any) -> Any:
        with _spoken(act):
            return act(*arguments)

    return run


@contextmanager
def _spoken(act: Callable[..., Any]) -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except SlotlabError as error:
        raise _sentence(sentence(error)) from None
    except Exception:
        _log.exception("%s failed", getattr(act, "__qualname__", act))
        raise _sentence("This did not work, for a reason the studio did not expect. Its log has the details.") from None


def sentence(error: SlotlabError) -> str:
    """An error's message as a sentence."""
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def _sentence(text: str) -> gr.Error:
    return gr.Error(text, duration=None, title="That did not work", print_exception=False)
