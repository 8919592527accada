"""Evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode; its mode is restored, also after an error. Gradients are left as they are."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
