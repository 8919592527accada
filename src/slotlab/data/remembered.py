"""Keeping what was rendered, so that each scene is rendered once."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from slotlab.data.decoding import to_batch
from slotlab.data.pixels import checked_position
from slotlab.data.sample import Batch, Sample, only
from slotlab.data.scene_dataset import Scenes

RENDERED_TOGETHER = 128


class Remembered:
    """Scenes whose pixels stay in memory as uint8 once rendered: 4 bytes a pixel, so 41 MB for 10,000 of 32x32.

    On a CPU rendering takes as long as a small model's training step; the second epoch then costs nothing.
    """

    has_masks = True

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes
        count, side = len(scenes), scenes.resolution
        self._known = np.zeros(count, dtype=bool)
        self._images = np.empty((count, side, side, 3), dtype=np.uint8)
        self._masks = np.empty((count, side, side), dtype=np.uint8)
        self._indices = np.empty(count, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, position: int) -> Sample:
        return only(self.batch([position]))

    def batch(self, positions: Sequence[int]) -> Batch:
        """The scenes at `positions`, stacked; others not yet rendered come along, for a large batch renders faster."""
        rows = np.array([checked_position(position, len(self)) for position in positions])
        missing = np.unique(rows[~self._known[rows]])
        if len(missing):
            company = np.setdiff1d(np.flatnonzero(~self._known)[:RENDERED_TOGETHER], missing)
            missing = np.concatenate([missing, company[: max(0, RENDERED_TOGETHER - len(missing))]])
            rendered = self.scenes.batch(missing.tolist())
            pixels = (rendered["image"] * 255).round().byte().permute(0, 2, 3, 1)
            self._images[missing] = pixels.cpu().numpy()
            self._masks[missing] = rendered["mask"].byte().cpu().numpy()  # pyright: ignore
            self._indices[missing] = rendered["index"].cpu().numpy()
            self._known[missing] = True
        return to_batch(self._images[rows], self._masks[rows], self._indices[rows])

    def describe(self) -> dict[str, Any]:
        """What the scenes say of themselves."""
        return self.scenes.describe()
