"""The `slotlab` command: a thin layer over the public API."""

import json
import os
import sys
import time
import warnings
from io import TextIOWrapper
from pathlib import Path

# isort: off
# Each module adds its commands; `--help` lists them in this order, but for the last ones.
from slotlab.cli import training, evaluation, inference, composition, data  # noqa: F401

# isort: on
from slotlab.cli.options import app, printable
from slotlab.errors import SlotlabError

LAST = ("models", "publish", "export")
app.registered_commands.sort(key=lambda one: getattr(one.callback, "__name__", "") in LAST)


def main() -> None:
    """Runs the command line. A fault ends with one clear sentence and status 2, Ctrl-C with 130.

    With SLOTLAB_TRACEBACK=1 in the environment every fault shows its traceback instead.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows ASCII only
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("SLOTLAB_TRACEBACK") == "1":
            raise
        said = printable(f"slotlab: {_sentence(error)}")
        print(said, file=sys.stderr)
        if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # torchrun ends its traceback with it
            Path(report).write_text(json.dumps({"message": said, "timestamp": int(time.time())}))
        sys.exit(130 if type(error).__name__ == "TrainingStopped" else 2)


def _sentence(error: Exception) -> str:
    """What went wrong and what to do about it."""
    if isinstance(error, SlotlabError):
        return str(error)
    if isinstance(error, RuntimeError | MemoryError):
        from slotlab.training.resources import is_out_of_memory

        if is_out_of_memory(error):
            remedy = (
                "use a smaller batch (--batch-size; when training batch_size=...), resolution, width or number of slots"
            )
            return f"out of memory: {remedy}"
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        place = error.filename2 or error.filename  # of a rename: the new name
        prefix = f"{place}: " if place else ""
        return f"{prefix}{error.strerror}; check the path, its permissions and the free space"
    first = next(iter(str(error).strip().splitlines()), "no message")
    return f"{type(error).__name__}: {first} (SLOTLAB_TRACEBACK=1 shows where it happened)"
