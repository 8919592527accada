"""Whether an image is like those that a model was trained on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from slotlab.composition.library import SLOTS_FILE
from slotlab.errors import DataError
from slotlab.files import read_json
from slotlab.released import LIBRARY_FOLDER, WEIGHTS
from slotlab.segmenting.folder import SegmentedFolder

TABLE_FILE = "usual.json"  # beside the bundled models; benchmarks/usual.py makes it


@dataclass(frozen=True)
class Usual:
    """What 99 % of a model's own test images stay below."""

    error: float  # mean squared error of the reconstruction, in [0, 1] colours
    distance: float = float("inf")  # of slots from the nearest of `slots`, mean over an image
    slots: Tensor | None = None  # [N, D] of the model's concept library

    def covers(self, error: float, slots: Tensor) -> bool:
        """Whether an image with this error and these slots [K, D] is a usual one."""
        near = self.slots is None or float(slot_distance(slots[None], self.slots)) <= self.distance
        return error <= self.error and near


def slot_distance(slots: Tensor, known: Tensor) -> Tensor:
    """Distance of slots [B, K, D] from the nearest of `known` [N, D], mean over slots: [B].

    Example:
        >>> slot_distance(torch.tensor([[[0.0, 0.0], [0.0, 3.0]]]), torch.tensor([[0.0, 1.0]]))
        tensor([1.5000])
    """
    return torch.cdist(slots.float(), known.float()).amin(2).mean(1)


def usual_of(folder: Path) -> Usual | None:
    """What is usual for the model in a folder; None if that is not known.

    Bundled models have a table. Another model has what `slotlab evaluate` wrote to `metrics.json`.
    """
    if folder.parent == WEIGHTS:
        known = json.loads((WEIGHTS / TABLE_FILE).read_text(encoding="utf-8")).get(folder.name)
        if known is None:
            return None
        return Usual(known["error"], known["distance"], library_slots(folder))
    try:
        error = read_json(folder / "metrics.json", "evaluate the model", DataError).get("usual_error")
    except DataError:
        return None
    return Usual(error) if isinstance(error, int | float) else None


def library_slots(folder: Path) -> Tensor:
    """The slots [N, D] in the library of a bundled model."""
    return load_file(folder / LIBRARY_FOLDER / SLOTS_FILE)["slots"].float()


def unusual(found: SegmentedFolder, out: Path, usual: Usual) -> Sequence[str]:
    """The images of a segmented folder in `out` that are unlike the model's own test images."""
    names = []
    for outcome in found.outcomes:
        if outcome.status != "skipped":
            with np.load(out / f"{outcome.name}.npz", allow_pickle=False) as arrays:
                if "error" in arrays and not usual.covers(float(arrays["error"]), torch.from_numpy(arrays["slots"])):
                    names.append(outcome.image)
    return names
