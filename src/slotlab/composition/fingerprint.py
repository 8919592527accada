"""Which model a library or a composition was made with."""

import json

from slotlab.models import Model
from slotlab.models.weights_hash import weights_hash


def fingerprint(model: Model) -> str:
    """SHA-256, in hexadecimal, that two models share only if config and weights are the same, bit by bit.

    Neither the device nor the mode (training or evaluation) makes a difference, nor do saving and loading.
    """
    return weights_hash(model, config=json.dumps(model.config, sort_keys=True))
