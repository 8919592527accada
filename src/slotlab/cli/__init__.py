"""The `slotlab` command: a thin layer over the public API."""

import sys

# isort: off
# Each adds its commands to the application, in the order in which `--help` lists them.
from slotlab.cli import training, inference, studio, composition, fidelity, data, models  # noqa: F401

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
        smaller = "the batch size (--batch-size; of a training batch_size=...), the resolution or the number of slots"
        print(f"slotlab: out of memory: lower {smaller}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):
            raise
        named = error.filename2 or error.filename  # of a rename, what it was to become
        place = f"{named}: " if named else ""
        print(
            f"slotlab: {place}{error.strerror}; see what is there, who may write, and how much room is left",
            file=sys.stderr,
        )
        sys.exit(2)
