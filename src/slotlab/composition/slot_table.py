"""A table of slots: one row for each that owns a part of its image, in columns that may lie on disk."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slotlab.errors import CheckpointError

TABLE_FILE = "slots.json"
COLUMNS: dict[str, str] = {
    "slots": "<f4",
    "position": "<i8",
    "index": "<i8",
    "number": "<i8",
    "area": "<f4",
    "centre": "<f4",
    "background": "|b1",
    "poses": "<f4",
    "truth": "<i8",
    "truth_share": "<f4",
    "shape": "<i8",
    "material": "<i8",
}
ATTRIBUTES = ("shape", "material")
OPTIONAL = ("poses", "truth", "truth_share", *ATTRIBUTES)


@dataclass(eq=False)
class SlotTable:
    """N slots of the images of a data set, in the order of the images; slots that own next to nothing are left out.

    Attributes:
        slots: float32 [N, D].
        position: int64 [N], the image's place in the data set as it was opened.
        index: int64 [N], the image's number in its data set (`Sample["index"]`).
        number: int64 [N], which of its image's slots, 0..K-1.
        area: float32 [N] in (0, 1], share of the pixels that the slot owns (argmax of the masks).
        centre: float32 [N, 2] in [-1, 1], x to the right and y down: mean place of the pixels owned.
        background: bool [N], true for exactly one slot of each image.
        poses: float32 [N, 4], where slots have a relative frame.
        truth: int64 [N], the id of the true segment that most of the slot's pixels lie in; where there are true masks.
        truth_share: float32 [N] in (0, 1], the share of the slot's pixels that do.
        shape: int64 [N], place in `facts["names"]["shape"]` of the true object's shape, -1 for the background; where
            the data set knows its objects.
        material: int64 [N], the same of its material.
        facts: where the slots come from, as JSON values: `model`, `fingerprint`, `data`, `seed`, `slots_per_image`,
            `images`, `dropped`, `rules`, and `names` of shapes and materials.
    """

    slots: np.ndarray
    position: np.ndarray
    index: np.ndarray
    number: np.ndarray
    area: np.ndarray
    centre: np.ndarray
    background: np.ndarray
    poses: np.ndarray | None = None
    truth: np.ndarray | None = None
    truth_share: np.ndarray | None = None
    shape: np.ndarray | None = None
    material: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.slots)

    def columns(self) -> dict[str, np.ndarray]:
        """The columns that there are, by name."""
        return {name: getattr(self, name) for name in COLUMNS if getattr(self, name) is not None}

    @classmethod
    def open(cls, folder: str | Path) -> "SlotTable":
        """Opens what `extract` wrote; the columns are memory maps, read when they are used.

        Raises:
            CheckpointError: a file is missing or of another length; the message names it.
        """
        folder = Path(folder)
        try:
            content = json.loads((folder / TABLE_FILE).read_text(encoding="utf-8"))
            rows, widths = content["rows"], content["columns"]
            columns = {
                name: np.memmap(folder / f"{name}.raw", COLUMNS[name], "r", shape=(rows, *width))
                for name, width in widths.items()
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder}: not a whole folder of slots ({error}); extract them again into a new folder"
            ) from None
        return cls(**columns, facts=content["facts"])
