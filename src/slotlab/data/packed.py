"""The packed cache: decoded, cropped and resized pixels in memory-mapped arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError

from slotlab.data.dataset import BrokenFile, Opening, RowsDataset
from slotlab.data.images import to_batch
from slotlab.data.sample import IGNORED, Batch
from slotlab.errors import DataError
from slotlab.files import read_json, sha256_of

SETTINGS = "packed.json"
FORMAT, VERSION = "slotlab-packed", 1

REMEDY = "pack the source again with `slotlab data pack`"


class _Array(BaseModel):
    shape: list[int]
    bytes: int
    sha256: str


class _Settings(BaseModel):
    """The part of `packed.json` that is read; `pack` writes it."""

    source: dict[str, Any]
    resolution: int
    crop: float = Field(gt=0, le=1)
    count: int
    splits: dict[str, tuple[int, int]]
    masked_splits: list[str]
    arrays: dict[str, _Array]
    latents: str | None = None
    features: str | None = None
    frames: int | None = None  # of a clip


class Packed(RowsDataset):
    """A folder that `slotlab data pack` wrote.

    Dataset format:

    * `packed.json`: source, resolution, crop, splits as ranges of rows; shape, dtype, size and
      SHA-256 of each array
    * `images.npy`: uint8 [N, S, S, 3], of clips [N, T, S, S, 3], as are their masks
    * `masks.npy`, if a split has masks: uint8 ids [N, S, S], int16 if an id exceeds 255 or is -1
      (ignored)
    * `indices.npy`: int64 [N], each sample's number in the source
    * `latents.npy`, if packed with an autoencoder: float32 [N, C, h, w]
    * `features.npy`, if packed with a frozen network: float16 [N, h * w, C]

    A batch is one indexed copy from the memory maps and one conversion to float.

    Resolution and crop, if given, must be those of the cache; broken images were left out when it
    was written, so `skip_broken` has no effect.

    Raises:
        DataError: the folder is damaged, or packed with another resolution or crop.
    """

    kind = "packed"

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether a folder has the settings of a cache."""
        return (path / SETTINGS).is_file()

    def __init__(self, root: str | Path, **opening: Unpack[Opening]) -> None:
        self.root = Path(root)
        self.settings = _settings(self.root)
        splits = {name: range(*bounds) for name, bounds in self.settings.splits.items()}
        super().__init__(str(root), splits, self.settings.count, **opening)
        for key in ("resolution", "crop"):
            packed, wanted = getattr(self.settings, key), opening.get(key)
            if wanted not in (None, packed):
                said = f"packed with {key} {packed}, not {wanted}"
                raise DataError(f"{root}: {said}; pack the source again with {key}={wanted}")
            setattr(self, key, packed)
        self.check_mask_resolution()
        if self.ignore is None:
            self.ignore = self.settings.source.get("ignore")
        masked = self.settings.masked_splits
        self.has_masks = self.split in masked if self.split != "all" else set(masked) == {*(self.splits or ["all"])}
        self._open()

    def batch(self, positions: Sequence[int]) -> Batch:
        """The samples at `positions`, stacked."""
        for name in self.settings.arrays:
            self._check_size(name)  # reading a map beyond the end of its file would kill the process
        rows = np.array(self.at(positions), dtype=np.int64)
        batch = to_batch(self._images[rows], self._masks[rows] if self.has_masks else None, self._indices[rows])
        if self.ignore is not None and "mask" in batch:
            batch["mask"][batch["mask"] == self.ignore] = IGNORED
        if self._latents is not None:
            batch["latents"] = torch.from_numpy(self._latents[rows])
        if self._features is not None:
            batch["features"] = torch.from_numpy(self._features[rows]).float()
        return batch

    def verify(self) -> list[BrokenFile]:
        """The arrays whose content has changed since they were packed, by checksum."""
        return [
            BrokenFile(str(self.root / name), "its content has changed since it was packed; pack the source again")
            for name, array in self.settings.arrays.items()
            if sha256_of(self.root / name) != array.sha256
        ]

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs; also `source`, and `latents` and `features` by encoder."""
        facts = super().describe() | {"source": self.settings.source}
        encoders = {"latents": self.settings.latents, "features": self.settings.features}
        return facts | {name: encoder for name, encoder in encoders.items() if encoder is not None}

    def _open(self) -> None:
        count, side, arrays = self.settings.count, self.settings.resolution, self.settings.arrays
        frames = () if self.settings.frames is None else (self.settings.frames,)
        self._images = self._mapped("images.npy", (count, *frames, side, side, 3), "uint8")
        self._indices = self._mapped("indices.npy", (count,), "int64")
        self._masks = np.empty(0)
        if self.settings.masked_splits:
            self._masks = self._mapped("masks.npy", (count, *frames, side, side), "uint8", "int16")
        self._latents, self._features = (
            self._mapped(name, (count, *arrays[name].shape[1:]), dtype) if name in arrays else None
            for name, dtype in (("latents.npy", "float32"), ("features.npy", "float16"))
        )

    def _check_size(self, name: str) -> None:
        path, wanted = self.root / name, self.settings.arrays[name].bytes
        try:
            size = path.stat().st_size
        except OSError:
            raise DataError(f"{path}: missing; {REMEDY}") from None
        if size != wanted:
            raise DataError(f"{path}: {size} bytes instead of {wanted}: truncated or changed; {REMEDY}")

    def _mapped(self, name: str, shape: tuple[int, ...], *dtypes: str) -> np.ndarray:
        path = self.root / name
        if name not in self.settings.arrays:
            raise DataError(f"{self.root / SETTINGS}: lacks {name}; {REMEDY}")
        self._check_size(name)
        try:
            values = np.lib.format.open_memmap(path, mode="r")
        except Exception as error:  # a damaged header: ValueError, TypeError, OverflowError, TokenError ...
            raise DataError(f"{path}: cannot be read as an array ({error}); {REMEDY}") from error
        if values.shape != shape or str(values.dtype) not in dtypes:
            raise DataError(f"{path}: {values.dtype} {values.shape} instead of {' or '.join(dtypes)} {shape}; {REMEDY}")
        return np.asarray(values)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not isinstance(value, np.ndarray)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _settings(root: Path) -> _Settings:
    path = root / SETTINGS
    content = read_json(path, REMEDY, DataError)
    if content.get("format") != FORMAT:
        raise DataError(f"{path}: not the settings of a packed cache; {REMEDY}")
    if content.get("version") != VERSION:
        raise DataError(f"{path}: format version {content.get('version')}, this slotlab reads {VERSION}; {REMEDY}")
    try:
        settings = _Settings(**content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise DataError(f"{path}: damaged ({wrong}); {REMEDY}") from error
    for split, (start, stop) in settings.splits.items():
        if not 0 <= start <= stop <= settings.count:
            raise DataError(f"{path}: damaged (split {split} has rows {start} to {stop}); {REMEDY}")
    return settings
