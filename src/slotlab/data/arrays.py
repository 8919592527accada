"""Readers of HDF5 files (extra `hdf5`), NumPy files, and the `datasets` library (extra `hub`)."""

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch.utils.data import ConcatDataset

from slotlab.data.dataset import SPLIT_NAMES, Opening, PixelDataset, by_order, in_a_row
from slotlab.data.images import Decoded, check_pixels, decode_image, decode_mask, with_mask
from slotlab.data.layouts import ids_of, pixels_of, stacked
from slotlab.errors import DataError

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Whether `path` is a file that begins as HDF5 files do, or is named like one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) == SIGNATURE or path.suffix.lower() in (".h5", ".hdf5")


class Arrays(PixelDataset):
    """Arrays of images and masks in a file; each format gives `stored`."""

    def __init__(self, path: str | Path, image: str, mask: str | None, **opening: Unpack[Opening]) -> None:
        self.path, self._image, self._mask = Path(path), image, mask or "mask"
        try:
            images, masks = self.stored(image), self.stored(self._mask)
            for name, array in ((image, images), (mask, masks)):
                if name is not None and array is None:
                    found = ", ".join(self.names())
                    raise DataError(f"{path}: no array {name!r}; it has {found}: pass image= (and mask=)")
            if images is None or not len(images):
                raise DataError(f"{path}: {image!r} is empty")
            if masks is not None and len(masks) != len(images):
                raise DataError(f"{path}: {self._mask!r} has {len(masks)} rows, {image!r} {len(images)}")
            for name, array in ((image, images), (self._mask, masks)):
                if array is not None:
                    _check_size(getattr(array, "shape", ())[1:] or array[0].shape, f"{path}: {name!r}")
        except DataError:
            raise
        except Exception as error:  # in damaged files h5py raises OSError, RuntimeError, KeyError, ValueError ...
            raise DataError(f"{path}: cannot be read ({error}); copy the file again") from error
        super().__init__(
            data=str(path),
            root=self.path,
            total=len(images),
            splits=by_order(len(images)),
            has_masks=masks is not None,
            **opening,
        )
        if not self.skip_broken:
            self.read(0)

    @abstractmethod
    def stored(self, name: str) -> Any:
        """The images or masks of this name, a sequence of arrays; None if there is none."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names that `stored` knows."""

    def read(self, row: int) -> Decoded:
        """Reads one row of both arrays."""
        try:
            image = np.asarray(self.stored(self._image)[row])
            mask = np.asarray(self.stored(self._mask)[row]) if self.has_masks else None
        except DataError:
            raise
        except Exception as error:  # see above
            raise DataError(f"{self.name(row)}: cannot be read ({error}); copy the file again") from error
        pixels = pixels_of(image, f"{self.name(row)}, {self._image!r}")
        size = (pixels.shape[0], pixels.shape[1])
        ids = None if mask is None else ids_of(mask, size, f"{self.name(row)}, {self._mask!r}")
        return Decoded(pixels, ids, str(image.dtype))

    def name(self, row: int) -> str:
        """The file's path and the row."""
        return f"{self.path}[{row}]"


def _check_size(shape: Sequence[int], name: str) -> None:
    """DataError if an image of this shape, in any layout, has too many pixels."""
    *_, height, width = sorted((1, 1, *shape))
    check_pixels(width, height, name)


class Hdf5(Arrays):
    """An HDF5 file of images.

    Dataset format:

    * `image`: (N, H, W, 3), (N, 3, H, W) or (N, H, W), uint8, or floats in [0, 1]
    * `mask`, optional unless named by `mask=`: integer ids (N, H, W) or (N, H, W, 1), 0 = ground; or
      a layer per object, (N, K, H, W) or (N, H, W, K), the ground first

    Instead of an array, a name may be a group with one array per image; or each image has a group
    that holds its `image` and `mask`. Other arrays are ignored. Links to other files, external
    storage and virtual arrays are refused: they could read any file as pixels. Splits by row with
    CLEVRTex's rule; a mirror whose rows are in another order has another test set. Crop 1.0 of the
    shorter side.
    """

    kind = "hdf5"

    def __init__(
        self,
        path: str | Path,
        *,
        image: str = "image",
        mask: str | None = None,
        **opening: Unpack[Opening],
    ) -> None:
        self._file: Any = None
        self._process = -1
        self._lists: dict[str, list[str]] = {}
        super().__init__(path, image, mask, **opening)

    def stored(self, name: str) -> Any:
        """An array, or the arrays of a group, or those of this name in the groups of images."""
        file = self._opened()
        if name not in self._lists:
            found = None if file.get(name, getlink=True) is None else self._own(name)
            if hasattr(found, "shape"):
                return found
            keys = [f"{key}/{name}" for key in _in_order(file)]
            if found is not None:
                keys = [f"{name}/{key}" for key in _in_order(found)]
            self._lists[name] = [key for key in keys if file.get(key, getlink=True) is not None]
        return _Rows(self, self._lists[name]) if self._lists[name] else None

    def names(self) -> list[str]:
        """The names of arrays and groups."""
        return list(map(str, self._opened()))

    def _own(self, name: str) -> Any:  # an h5py.Dataset or h5py.Group
        """An array or group whose values are in this file."""
        file = self._opened()
        found = file[name]
        array = found if hasattr(found, "shape") else None
        if found.file.filename != file.filename or (array is not None and (array.external or array.is_virtual)):
            raise DataError(f"{self.path}: {name!r} takes its values from another file; write them into this one")
        return found

    def _opened(self) -> Any:  # an h5py.File
        """The file, opened by this process: HDF5 handles do not survive a fork."""
        if self._file is None or self._process != os.getpid():
            try:
                import h5py
            except ImportError as error:
                raise DataError(f"{self.path}: HDF5 files need h5py; pip install 'slotlab[hdf5]'") from error
            try:
                self._file, self._process = h5py.File(self.path, "r"), os.getpid()
            except OSError as error:
                raise DataError(f"{self.path}: cannot be opened as HDF5 ({error}); copy the file again") from error
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_process": -1}


class _Rows(Sequence[Any]):
    """Arrays of an HDF5 file, one per image."""

    def __init__(self, data: Hdf5, names: list[str]) -> None:
        self._data, self._names = data, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, row: Any) -> Any:
        array = self._data._own(self._names[row])
        if not hasattr(array, "shape"):
            raise DataError(f"{self._data.path}: {self._names[row]!r} is a group; expected an image or mask")
        _check_size(array.shape, f"{self._data.path}: {self._names[row]!r}")
        return array[()]


def _in_order(group: Any) -> list[str]:
    """The names in a group: numbers by value, others by the alphabet."""
    return sorted(group, key=lambda name: (int(name) if name.isdecimal() else -1, name))


class Npz(Arrays):
    """NumPy files of images.

    Dataset format: a `.npz` file with the arrays `image` and, optionally, `mask`, in the layouts of
    `Hdf5`; or a folder with `image.npy` and `mask.npy`, which are not read into memory. `images` and
    `masks` are known too, and `image=` and `mask=` give other names. Splits as for `Hdf5`. Crop 1.0.
    """

    kind = "npz"

    def __init__(
        self, path: str | Path, *, image: str = "image", mask: str | None = None, **opening: Unpack[Opening]
    ) -> None:
        self._read: dict[str, Any] = {}
        super().__init__(path, image, mask, **opening)

    def stored(self, name: str) -> Any:
        """An array of the file or folder."""
        if name not in self._read:
            known = self.names()
            found = next((one for one in (name, f"{name}s") if one in known), None)
            if found is None:
                return None
            if self.path.is_dir():
                self._read[name] = np.load(self.path / f"{found}.npy", mmap_mode="r", allow_pickle=False)
            else:
                with np.load(self.path, allow_pickle=False) as arrays:
                    self._read[name] = arrays[found]
        return self._read[name]

    def names(self) -> list[str]:
        """The names of the arrays."""
        if self.path.is_dir():
            return sorted(file.stem for file in self.path.glob("*.npy"))
        with np.load(self.path, allow_pickle=False) as arrays:
            return list(arrays.files)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_read": {}}


def holds_numpy(path: Path) -> bool:
    """Whether `path` is a `.npz` file, or a folder with images in a `.npy` file."""
    if path.is_file():
        return path.suffix.lower() == ".npz"
    return any((path / name).is_file() for name in ("image.npy", "images.npy"))


def holds_saved_dataset(root: Path) -> bool:
    """Whether `root` was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return (root / "dataset_dict.json").is_file() or (
        (root / "state.json").is_file() and (root / "dataset_info.json").is_file()
    )


class Hub(PixelDataset):
    """A data set of the `datasets` library with image columns.

    Dataset format:

    * a folder written by `save_to_disk`, or `owner/name` on the hub, which is downloaded
    * column `image`: feature `Image`
    * column `mask`, optional unless named by `mask=`: feature `Image`, a palette or grey image of
      object ids, 0 = background; or a list of those, one per object, 0 = outside: where objects
      overlap, the smaller one is on top

    Splits by their names (train; val, validation, valid or dev; test); a data set with one part is
    split by row with CLEVRTex's rule. Crop 1.0 of the shorter side.
    """

    kind = "hub"

    def __init__(
        self,
        source: str | Path,
        *,
        image: str = "image",
        mask: str | None = None,
        **opening: Unpack[Opening],
    ) -> None:
        parts = _load(source)
        columns = sorted({name for part in parts.values() for name in part.column_names})
        if mask is not None and mask not in columns:
            raise DataError(f"{source}: no column {mask!r}; it has {', '.join(columns)}: pass another mask=, or none")
        self._image, self._mask = image, mask or "mask"
        self._records: Any = ConcatDataset([_undecoded(part, image, self._mask, source) for part in parts.values()])
        masked = {name: self._mask in part.column_names for name, part in parts.items()}
        splits = in_a_row({name: len(part) for name, part in parts.items()})
        total = len(self._records)
        super().__init__(
            data=str(source),
            root=Path(source) if Path(source).exists() else None,
            total=total,
            splits=by_order(total) if len(parts) == 1 else splits,
            has_masks=masked.get(opening.get("split", "train"), all(masked.values())),
            **opening,
        )

    def read(self, row: int) -> Decoded:
        """Decodes one row's image and mask."""
        record, name = self._records[row], self.name(row)
        decoded = decode_image(_content(record[self._image], name), name)
        if self._mask not in record:
            return decoded
        value, mask = record[self._mask], f"{name}, column {self._mask!r}"
        if not isinstance(value, list):
            return with_mask(decoded, decode_mask(_content(value, mask), mask), name, mask)
        found = [with_mask(decoded, decode_mask(_content(one, mask), mask), name, mask).mask for one in value]
        height, width = decoded.image.shape[:2]
        return decoded._replace(mask=stacked([ids > 0 for ids in found if ids is not None], (height, width)))

    def name(self, row: int) -> str:
        """The data set and the row."""
        return f"{self.data}[{row}]"


def _load(source: str | Path) -> dict[str, Any]:
    """The parts by split name; a single part is named "all"."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{source}: this kind needs the datasets library; pip install 'slotlab[hub]'") from error
    loaded: Any
    try:
        loaded = datasets.load_from_disk(str(source)) if Path(source).exists() else datasets.load_dataset(str(source))
    except Exception as error:  # datasets raises its own, huggingface_hub's, httpx's, pyarrow's, OSError, ValueError
        where = "copy the folder again" if Path(source).exists() else "check the name owner/name and the connection"
        raise DataError(f"{source}: cannot be loaded ({error}); {where}") from error
    if isinstance(loaded, datasets.Dataset):
        return {"all": loaded}
    if not isinstance(loaded, datasets.DatasetDict):
        raise DataError(f"{source}: a streaming data set; save it with save_to_disk first")
    known = {name: loaded[key] for name, keys in SPLIT_NAMES.items() for key in keys if key in loaded}
    if known:
        return known
    if len(loaded) == 1:
        return {"all": loaded[next(iter(loaded))]}
    raise DataError(f"{source}: splits {', '.join(map(str, loaded))}; expected train, validation or test: rename them")


def _undecoded(part: Any, image: str, mask: str, source: str | Path) -> Any:
    """The image and mask columns as bytes or paths, for the decoder of all formats."""
    import datasets

    if image not in part.column_names:
        raise DataError(f"{source}: no column {image!r}; it has {', '.join(part.column_names)}: pass image=")
    wanted = [name for name in (image, mask) if name in part.column_names]
    for name in wanted:
        feature, one = part.features[name], datasets.Image(decode=False)
        inside = getattr(feature, "feature", None) if name == mask else None
        if not isinstance(inside or feature, datasets.Image):
            raise DataError(f"{source}: column {name!r} is {feature}; use cast_column({name!r}, datasets.Image())")
        part = part.cast_column(name, datasets.Sequence(one) if inside else one)
    return part.select_columns(wanted)


def _content(value: Any, name: str) -> Path | bytes:
    if value is None:
        raise DataError(f"{name}: the value is missing; pass skip_broken=True (--skip-broken) to use the next image")
    content = value["bytes"]
    return Path(value["path"]) if content is None else content
