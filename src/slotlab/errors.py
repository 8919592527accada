"""Errors that bad input causes: each message names the file or key at fault, and the remedy."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class SlotlabError(Exception):
    """Base of all errors on bad input; the command line prints its message without a traceback."""


class DataError(SlotlabError):
    """A data set, image or mask that is missing, broken or not of the stated format."""


class MissingSplit(DataError):
    """A split that a data set does not have, or that is empty."""


class ConfigError(SlotlabError):
    """A preset, option or constructor argument that is unknown or out of its range."""


class CheckpointError(SlotlabError):
    """A model folder that is missing or damaged, or whose weights do not fit its config."""


@contextmanager
def needs(extra: str, what: str, kind: type[SlotlabError] = ConfigError) -> Iterator[None]:
    """Encloses the import of libraries of an extra; if one is missing, the error names the extra.

    Example:
        >>> with needs("video", "films need"):
        ...     import no_such_library
        Traceback (most recent call last):
        slotlab.errors.ConfigError: films need no_such_library: pip install 'slotlab[video]'
    """
    try:
        yield
    except ImportError as error:
        raise kind(f"{what} {error.name or error}: pip install 'slotlab[{extra}]'") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the nearest known word, or the list of all if none is near.

    Example:
        >>> nearest("resnt", ["cnn", "resnet"])
        "; did you mean 'resnet'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(names)}"
