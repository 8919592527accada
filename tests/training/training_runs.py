"""Runs a training without progress and previews, and reads what it left."""

from slotlab.checkpoints import load
from slotlab.progress import finish
from slotlab.training.checkpoint import read_history
from slotlab.training.loop import train_steps

TIMES = ("seconds", "images_per_second")


def fit(config, folder, **options):
    return finish(train_steps(config, folder, device="cpu", **options))


def rows(folder):
    """The history without what differs from run to run."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in read_history(folder)]


def losses(folder):
    return [(row["train_loss"], row["validation_loss"]) for row in read_history(folder)]


def weights(folder):
    return load(folder).state_dict()
