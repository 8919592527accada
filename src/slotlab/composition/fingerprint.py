"""Which model a library or a composition was made with."""

import hashlib
import json

import torch

from slotlab.models import Model


def fingerprint(model: Model) -> str:
    """SHA-256, in hexadecimal, that two models share only if config and weights are the same, bit by bit.

    Neither the device nor the mode (training or evaluation) makes a difference, nor do saving and loading.
    """
    digest = hashlib.sha256(json.dumps(model.config, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {values.dtype} {list(tensor.shape)}".encode())
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
