"""The packed cache: decoded, cropped and resized pixels in memory-mapped arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slotlab.data.dataset import BrokenFile, checked_position, choose, first_rows
from slotlab.data.images import to_batch
from slotlab.data.sample import Batch, SlotDataset
from slotlab.errors import DataError
from slotlab.files import read_json, sha256_of

SETTINGS = "packed.json"
FORMAT, VERSION = "slotlab-packed", 1

REMEDY = "pack the source again with `slotlab data pack`"


class Packed(SlotDataset):
    """A folder that `slotlab data pack` wrote.

    Dataset format:

    * `packed.json`: source, resolution, crop, splits as ranges of rows; shape, dtype, size and
      SHA-256 of each array
    * `images.npy`: uint8 [N, S, S, 3]
    * `masks.npy`, if a split has masks: uint8 ids [N, S, S], int16 if an id exceeds 255
    * `indices.npy`: int64 [N], each sample's number in the source
    * `latents.npy`, if packed with an autoencoder: float32 [N, C, h, w]

    A batch is one indexed copy from the memory maps and one conversion to float.

    Resolution and crop, if given, must be those of the cache; broken images were left out when it
    was written, so `skip_broken` has no effect.

    Raises:
        DataError: the folder is damaged, or packed with another resolution or crop.
    """

    kind = "packed"

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        resolution: int | None = None,
        crop: float | None = None,
        count: int | None = None,
        skip_broken: bool = False,
    ) -> None:
        self.root = Path(root)
        self.settings = _settings(self.root)
        for key, wanted in (("resolution", resolution), ("crop", crop)):
            if wanted is not None and wanted != self.settings[key]:
                said = f"packed with {key} {self.settings[key]}, not {wanted}"
                raise DataError(f"{root}: {said}; pack the source again with {key}={wanted}")
        self.splits = {name: range(*bounds) for name, bounds in self.settings["splits"].items()}
        rows, self.split = choose(self.splits, split, self.settings["count"], str(root))
        self.rows = first_rows(rows, count)
        masked = self.settings["masked_splits"]
        self.has_masks = self.split in masked if self.split != "all" else set(masked) == {*(self.splits or ["all"])}
        self.broken: list[BrokenFile] = []
        self._open()

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: Sequence[int]) -> Batch:
        """The samples at `positions`, stacked."""
        for name, array in self.settings["arrays"].items():
            _check_size(self.root / name, array)  # reading a map beyond the end of its file would kill the process
        first = self.rows.start
        rows = np.array([first + checked_position(position, len(self)) for position in positions], dtype=np.int64)
        batch = to_batch(self._images[rows], self._masks[rows] if self.has_masks else None, self._indices[rows])
        if self._latents is not None:
            batch["latents"] = torch.from_numpy(self._latents[rows])
        return batch

    def verify(self) -> list[BrokenFile]:
        """The arrays whose content has changed since they were packed, by checksum."""
        return [
            BrokenFile(str(self.root / name), "its content has changed since it was packed; pack the source again")
            for name, array in self.settings["arrays"].items()
            if sha256_of(self.root / name) != array["sha256"]
        ]

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs; `source` describes the source, `latents` its autoencoder."""
        latents = {} if self._latents is None else {"latents": self.settings["latents"]}
        facts = {"data": str(self.root), "kind": self.kind, "split": self.split, "count": len(self)}
        return latents | facts | {key: self.settings[key] for key in ("crop", "resolution", "source")}

    def _open(self) -> None:
        arrays = {name: _mapped(self.root / name, array) for name, array in self.settings["arrays"].items()}
        self._images, self._indices = arrays["images.npy"], arrays["indices.npy"]
        self._masks = arrays.get("masks.npy", np.empty(0))
        self._latents = arrays.get("latents.npy")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not isinstance(value, np.ndarray)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _settings(root: Path) -> dict[str, Any]:
    path = root / SETTINGS
    settings = read_json(path, REMEDY, DataError)
    if settings.get("format") != FORMAT:
        raise DataError(f"{path}: not the settings of a packed cache; {REMEDY}")
    if settings.get("version") != VERSION:
        raise DataError(f"{path}: format version {settings.get('version')}, this slotlab reads {VERSION}; {REMEDY}")
    missing = {"source", "resolution", "crop", "count", "splits", "masked_splits", "arrays"} - set(settings)
    if not missing:
        needed = {"images.npy", "indices.npy", *(["masks.npy"] if settings["masked_splits"] else [])}
        missing = needed - set(settings["arrays"])
    if missing:
        raise DataError(f"{path}: lacks {', '.join(sorted(missing))}; {REMEDY}")
    return settings


def _check_size(path: Path, array: dict[str, Any]) -> None:
    try:
        size = path.stat().st_size
    except OSError:
        raise DataError(f"{path}: missing; {REMEDY}") from None
    if size != array["bytes"]:
        raise DataError(f"{path}: {size} bytes instead of {array['bytes']}: truncated or changed; {REMEDY}")


def _mapped(path: Path, array: dict[str, Any]) -> np.ndarray:
    _check_size(path, array)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as an array ({error}); {REMEDY}") from error
    if list(values.shape) != array["shape"] or values.dtype.str != array["dtype"]:
        raise DataError(f"{path}: {values.dtype} {values.shape} instead of what {SETTINGS} says; {REMEDY}")
    return np.asarray(values)
