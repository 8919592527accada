"""The `slotlab` command: a thin layer over the public API."""

import sys

# isort: off
# Each module adds its commands; `--help` lists them in this order.
from slotlab.cli import training, evaluation, inference, composition, data, models  # noqa: F401

# isort: on
from slotlab.cli.options import app
from slotlab.errors import SlotlabError


def main() -> None:
    """Runs the command line; bad input ends with one clear sentence and status 2, Ctrl-C with 130."""
    try:
        app()
    except SlotlabError as error:
        print(f"slotlab: {error}", file=sys.stderr)
        sys.exit(130 if type(error).__name__ == "TrainingStopped" else 2)
    except KeyboardInterrupt:
        sys.exit(130)
    except (RuntimeError, MemoryError) as error:
        from slotlab.training.resources import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        remedy = "use a smaller batch (--batch-size; when training batch_size=...), resolution or number of slots"
        print(f"slotlab: out of memory: {remedy}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):
            raise
        place = error.filename2 or error.filename  # of a rename: the new name
        prefix = f"{place}: " if place else ""
        print(f"slotlab: {prefix}{error.strerror}; check the path, its permissions and the free space", file=sys.stderr)
        sys.exit(2)
