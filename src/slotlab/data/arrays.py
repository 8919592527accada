"""Arrays in others' layouts; readers of HDF5 (extra `hdf5`), NumPy and `datasets` (extra `hub`)."""

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch.utils.data import ConcatDataset

from slotlab.data.dataset import SPLIT_NAMES, Opening, PixelDataset
from slotlab.data.images import ROUNDING, Decoded, check_pixels, decode_image, decode_mask, with_mask
from slotlab.errors import DataError, needs

SIGNATURE = b"\x89HDF\r\n\x1a\n"
CHANNELS = (1, 3, 4)


def pixels_of(image: np.ndarray, name: str) -> np.ndarray:
    """The pixels uint8 [H, W, 3] of an image as it is stored.

    Args:
        image: [H, W], [H, W, C] or [C, H, W] of 1, 3 or 4 channels, of which the fourth is dropped;
            uint8, or floats in [0, 1].
        name: what error messages call it.

    Raises:
        DataError: another shape, type or range.

    Example:
        >>> pixels_of(np.full((3, 4, 6), 0.5), "image")[0, 0].tolist()
        [128, 128, 128]
    """
    shape = image.shape
    if image.ndim == 2:
        image = image[..., None]
    elif image.ndim == 3 and shape[-1] not in CHANNELS and shape[0] in CHANNELS:
        image = np.moveaxis(image, 0, -1)
    if image.ndim != 3 or image.shape[-1] not in CHANNELS or 0 in shape:
        raise DataError(f"{name}: an image of shape {list(shape)}; expected [H, W, 3], [3, H, W] or [H, W]")
    image = image[..., :3]
    if np.issubdtype(image.dtype, np.floating):
        low, high = float(image.min()), float(image.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN is in no range
            raise DataError(f"{name}: floats from {low:g} to {high:g}; expected [0, 1]: divide 0..255 by 255")
        image = np.round(image.clip(0, 1) * 255).astype(np.uint8)
    if image.dtype != np.uint8:
        raise DataError(f"{name}: values of type {image.dtype}; expected uint8, or floats in [0, 1]")
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def ids_of(mask: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """The object ids [H, W] of a mask as it is stored.

    Args:
        mask: ids [H, W], or a layer per object [K, H, W] or [H, W, K], the background first; an
            axis of length 1 may be added. Layers hold one value inside and 0 outside, or shares.
        size: (H, W) of the image.
        name: what error messages call it.

    Raises:
        DataError: another shape, values that are no ids, or pixels that are in no layer.

    Example:
        >>> ids_of(np.eye(3)[:, None] * 255, (1, 3), "mask").tolist()
        [[0, 1, 2]]
    """
    shape = mask.shape
    if mask.ndim > 2 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    if mask.ndim > 2 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim == 3 and size in (mask.shape[1:], mask.shape[:2]):
        layers = mask if mask.shape[1:] == size else np.moveaxis(mask, -1, 0)
        if not layers.any(axis=0).all():
            raise DataError(f"{name}: pixels in none of {len(layers)} layers; the first has to be the background")
        return layers.argmax(axis=0)
    if mask.shape != size:
        raise DataError(f"{name}: a mask of shape {list(shape)}, its image has {size[0]}x{size[1]} pixels")
    if mask.dtype == bool:
        return mask.astype(np.uint8)
    if not np.issubdtype(mask.dtype, np.integer):
        if not np.issubdtype(mask.dtype, np.floating) or (mask != np.round(mask)).any():
            raise DataError(f"{name}: a mask of type {mask.dtype}; expected whole numbers, or a layer per object")
        return mask.astype(np.int64)
    return mask


def stacked(objects: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The ids int32 [H, W] of objects given as bool masks [H, W]: 1, 2, ... in their order.

    Pixels in none are 0; where objects overlap, the smaller one is on top.

    Example:
        >>> stacked([np.array([[True, False, False]]), np.array([[True, True, False]])], (1, 3)).tolist()
        [[1, 2, 0]]
    """
    ids = np.zeros(size, np.int32)
    for number in sorted(range(len(objects)), key=lambda number: -objects[number].sum()):
        ids[objects[number]] = number + 1
    return ids


class Arrays(PixelDataset):
    """Arrays of images and masks in a file; each format gives `stored`."""

    def __init__(
        self, path: str | Path, *, image: str = "image", mask: str | None = None, **opening: Unpack[Opening]
    ) -> None:
        self.path, self._image, self._mask = Path(path), image, mask or "mask"
        self._reset()
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
        super().__init__(path, {"all": len(images)}, masks is not None, **opening)
        if not self.skip_broken:
            self.read(0)

    def _reset(self) -> None:
        """Forgets what was opened; a copy in another process opens it itself."""
        self._file: Any = None
        self._process = os.getpid()
        self._kept: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_kept": {}}

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
    * `mask`, optional unless named by `mask=`: integer ids (N, H, W) or (N, H, W, 1), 0 = ground;
      or a layer per object, (N, K, H, W) or (N, H, W, K), the ground first

    Instead of an array, a name may be a group with one array per image; or each image has a group
    that holds its `image` and `mask`. Other arrays are ignored. Links to other files, external
    storage and virtual arrays are refused: they could read any file as pixels. Splits by row with
    CLEVRTex's rule; a mirror whose rows are in another order has another test set. Crop 1.0 of the
    shorter side.
    """

    kind = "hdf5"

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether `path` is a file that begins as HDF5 files do, or is named like one."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(8) == SIGNATURE or path.suffix.lower() in (".h5", ".hdf5")

    def stored(self, name: str) -> Any:
        """An array, or the arrays of a group, or those of this name in the groups of images."""
        file = self._opened()
        if name not in self._kept:
            found = None if file.get(name, getlink=True) is None else self._own(name)
            if hasattr(found, "shape"):
                return found
            keys = [f"{key}/{name}" for key in _in_order(file)]
            if found is not None:
                keys = [f"{name}/{key}" for key in _in_order(found)]
            self._kept[name] = [key for key in keys if file.get(key, getlink=True) is not None]
        return _Rows(self, self._kept[name]) if self._kept[name] else None

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
        if self._process != os.getpid():
            self._reset()
        if self._file is None:
            with needs("hdf5", f"{self.path}: HDF5 files need", DataError):
                import h5py
            try:
                self._file = h5py.File(self.path, "r")
            except OSError as error:
                raise DataError(f"{self.path}: cannot be opened as HDF5 ({error}); copy the file again") from error
        return self._file


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
    `Hdf5`; or a folder with `image.npy` and `mask.npy`, which are not read into memory. `images`
    and `masks` are known too, and `image=` and `mask=` give other names. Splits and crop as
    for `Hdf5`.
    """

    kind = "npz"

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether `path` is a `.npz` file, or a folder with images in a `.npy` file."""
        if path.is_file():
            return path.suffix.lower() == ".npz"
        return any((path / name).is_file() for name in ("image.npy", "images.npy"))

    def stored(self, name: str) -> Any:
        """An array of the file or folder."""
        if name not in self._kept:
            known = self.names()
            found = next((one for one in (name, f"{name}s") if one in known), None)
            if found is None:
                return None
            if self.path.is_dir():
                self._kept[name] = np.load(self.path / f"{found}.npy", mmap_mode="r", allow_pickle=False)
            else:
                with np.load(self.path, allow_pickle=False) as arrays:
                    self._kept[name] = arrays[found]
        return self._kept[name]

    def names(self) -> list[str]:
        """The names of the arrays."""
        if self.path.is_dir():
            return sorted(file.stem for file in self.path.glob("*.npy"))
        with np.load(self.path, allow_pickle=False) as arrays:
            return list(arrays.files)


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

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether `path` was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
        one = all((path / name).is_file() for name in ("state.json", "dataset_info.json"))
        return one or (path / "dataset_dict.json").is_file()

    def __init__(
        self, source: str | Path, *, image: str = "image", mask: str | None = None, **opening: Unpack[Opening]
    ) -> None:
        parts = _load(source)
        columns = sorted({name for part in parts.values() for name in part.column_names})
        if mask is not None and mask not in columns:
            raise DataError(f"{source}: no column {mask!r}; it has {', '.join(columns)}: pass another mask=, or none")
        self._image, self._mask = image, mask or "mask"
        self._records: Any = ConcatDataset([_undecoded(part, image, self._mask, source) for part in parts.values()])
        masked = {name: self._mask in part.column_names for name, part in parts.items()}
        sizes = {name: len(part) for name, part in parts.items()} if len(parts) > 1 else {"all": len(self._records)}
        super().__init__(source, sizes, masked.get(opening.get("split", "train"), all(masked.values())), **opening)

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
    with needs("hub", f"{source}: this kind needs the library", DataError):
        import datasets
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
