"""Errors that bad input causes: each message names the file or key at fault, and the remedy."""

import difflib
from collections.abc import Iterable


class SlotlabError(Exception):
    """Base of all errors on bad input; the command line prints its message without a traceback."""


class DataError(SlotlabError):
    """A data set, image or mask that is missing, broken or not of the stated format."""


class ConfigError(SlotlabError):
    """A preset, option or constructor argument that is unknown or out of its range."""


class CheckpointError(SlotlabError):
    """A model folder that is missing or damaged, or whose weights do not fit its config."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the nearest known word, or the list of all if none is near.

    Example:
        >>> nearest("resnt", ["cnn", "resnet"])
        "; did you mean 'resnet'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(names)}"
