"""What makes a step faster or smaller at the same result, and can be left out: `training.without`."""

from collections.abc import Collection

import torch

from slotlab.models import Model, SlotAutoencoder


def memory_format(without: Collection[str]) -> torch.memory_format:
    """The layout of images and convolutions."""
    return torch.contiguous_format if "channels-last" in without else torch.channels_last


def arrange(model: Model, device: torch.device, without: Collection[str]) -> Model:
    """The model on `device`, computing as `without` leaves it."""
    if isinstance(model, SlotAutoencoder):
        model.decoder.factored = "factored-convolution" not in without
        model.decoder.in_parts = "parts" not in without
    return model.to(device, memory_format=memory_format(without))  # type: ignore[call-overload]
