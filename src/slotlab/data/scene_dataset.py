"""Scenes rendered on the fly: a data set with no file behind it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from slotlab.data.pixels import BrokenFile, checked_position
from slotlab.data.sample import Batch, Sample, only
from slotlab.data.splits import choose
from slotlab.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from slotlab.scenes import SceneBatch

FIRST_INDEX = {"test": 0, "val": 10_000, "train": 20_000}
MOST = {"test": 10_000, "val": 10_000, "train": 2_000_000_000}
DEFAULT_COUNT = {"test": 1_000, "val": 1_000, "train": 10_000}


class Scenes:
    """Scenes of one variant, rendered when they are asked for.

    Dataset format: none. Scene `i` of a seed and a resolution is always the same picture; the splits are ranges of `i`:
    test from 0, val from 10,000 (at most 10,000 each), train from 20,000 on. `count` is the number of scenes in the
    chosen split (by default 10,000 for train, 1,000 for val and test); split "all" is test, val and train, `count` of
    each. Scenes are rendered at `resolution` (default 64) and not cropped.

    Attributes:
        device: where scenes are rendered and batches lie.
    """

    kind = "scenes"
    has_masks = True

    def __init__(
        self,
        variant: str,
        *,
        split: str = "train",
        resolution: int | None = None,
        crop: float | None = None,
        count: int | None = None,
        skip_broken: bool = False,
        seed: int = 0,
        min_objects: int = 3,
        max_objects: int = 10,
        supersample: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        if crop not in (None, 1, 1.0):
            raise ConfigError(f"crop={crop}: scenes are rendered at their resolution; leave crop out")
        if resolution is not None and resolution < 1:
            raise ConfigError(f"resolution={resolution}: expected a whole number of pixels, at least 1")
        counts = {name: DEFAULT_COUNT[name] if count is None else count for name in FIRST_INDEX}
        wanted = {name: size for name, size in counts.items() if split in (name, "all")}
        for name, size in wanted.items():
            if not 1 <= size <= MOST[name]:
                raise ConfigError(f"count={size}: split {name!r} of scenes holds 1 to {MOST[name]:,} scenes")
        self.splits: dict[str, range] = {}
        for name, size in counts.items():
            start = sum(len(rows) for rows in self.splits.values())
            self.splits[name] = range(start, start + size)
        total = sum(counts.values())
        self.variant, self.seed, self.supersample = variant, seed, supersample
        self.min_objects, self.max_objects = min_objects, max_objects
        self.rows, self.split = choose(self.splits, split, total, f"scenes:{variant}")
        self.resolution, self.device = resolution or 64, torch.device(device)
        self.broken: list[BrokenFile] = []
        self._rendered([])  # refuses what cannot be rendered, now

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Sample:
        return only(self.batch([position]))

    def batch(self, positions: Sequence[int]) -> Batch:
        """Renders the scenes at `positions` in one go."""
        numbers = [self.number(self.rows[checked_position(position, len(self))]) for position in positions]
        rendered = self._rendered(numbers)
        index: Tensor = torch.tensor(numbers, device=self.device)
        return Batch(image=rendered.image, mask=rendered.mask, index=index)

    def objects(self, numbers: Sequence[int]) -> list[list[dict[str, Any]]]:
        """The objects of the scenes of these numbers (a batch's `index`), in the order of their ids."""
        return [scene["objects"] for scene in self._rendered(numbers).metadata]

    def number(self, row: int) -> int:
        """The scene's number, by which the renderer knows it."""
        name = next(name for name, rows in self.splits.items() if row in rows)
        return FIRST_INDEX[name] + row - self.splits[name].start

    def _rendered(self, numbers: Sequence[int]) -> "SceneBatch":
        from slotlab import scenes

        return scenes.render(
            numbers,
            variant=self.variant,
            seed=self.seed,
            resolution=self.resolution,
            min_objects=self.min_objects,
            max_objects=self.max_objects,
            supersample=self.supersample,
            device=self.device,
        )

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, with all that decides the pictures."""
        return {
            "data": f"scenes:{self.variant}",
            "kind": self.kind,
            "split": self.split,
            "crop": 1.0,
            "resolution": self.resolution,
            "count": len(self),
            "variant": self.variant,
            "seed": self.seed,
            "min_objects": self.min_objects,
            "max_objects": self.max_objects,
            "supersample": self.supersample,
        }
