"""Which model a library or a composition was made with."""

import hashlib
import json
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from slotlab.models import Model


def weights_hash(model: nn.Module, config: str = "", forms: bool = True) -> str:
    """SHA-256, in hexadecimal, over `config`, then names and values of all weights, by name.

    Device and mode (training or evaluation) make no difference, nor do saving and loading. With
    `forms`, the dtype and shape of each tensor are hashed with its name.
    """
    digest = hashlib.sha256(config.encode())
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update((f"{name} {values.dtype} {list(tensor.shape)}" if forms else name).encode())
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprint(model: "Model") -> str:
    """SHA-256, in hexadecimal, that only models of one config and weights, bit by bit, share."""
    return weights_hash(model, config=json.dumps(model.config, sort_keys=True))
