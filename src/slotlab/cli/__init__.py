"""The `slotlab` command: a thin layer over the public API."""

import sys

# isort: off
# Each adds its commands to the application, in the order in which `--help` lists them.
from slotlab.cli import training, inference, studio, composition, fidelity, data, weights  # noqa: F401

# isort: on
from slotlab.cli.shared import app
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
        from slotlab.training.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        print("slotlab: out of memory: lower --batch-size, the resolution or the number of slots", file=sys.stderr)
        sys.exit(2)
