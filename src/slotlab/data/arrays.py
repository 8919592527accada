"""Readers of HDF5 files (extra `hdf5`) and of the `datasets` library (extra `hub`)."""

import os
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch.utils.data import ConcatDataset

from slotlab.data.dataset import SPLIT_NAMES, Opening, PixelDataset, by_order, in_a_row
from slotlab.data.images import Decoded, check_pixels, decode_image, decode_mask, with_mask
from slotlab.errors import DataError

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Whether `path` is a file that begins as HDF5 files do, or is named like one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) == SIGNATURE or path.suffix.lower() in (".h5", ".hdf5")


class Hdf5(PixelDataset):
    """An HDF5 file of images.

    Dataset format:

    * `image`: uint8 (N, H, W, 3)
    * `mask`, optional unless named by `mask=`: integer ids (N, H, W) or (N, H, W, 1), 0 = ground

    Other arrays are ignored. Links to other files, external storage and virtual arrays are refused:
    they could read any file as pixels. Splits by row with CLEVRTex's rule; a mirror whose rows are
    in another order has another test set. Crop 1.0 of the shorter side.
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
        self.path, self._image, self._mask = Path(path), image, mask or "mask"
        self._file: Any = None
        self._process = -1
        try:
            images, masks = self._array(image), self._array(self._mask)
            for name, array in ((image, images), (mask, masks)):
                if name is not None and array is None:
                    found = ", ".join(map(str, self._opened()))
                    raise DataError(f"{path}: no array {name!r}; it has {found}: pass image= (and mask=)")
            shape = images.shape or ()
            if len(shape) != 4 or shape[-1] != 3 or 0 in shape or images.dtype != np.uint8:
                raise DataError(f"{path}: {image!r} is {images.dtype} {shape}; expected uint8 (N, H, W, 3)")
            check_pixels(shape[2], shape[1], f"{path}: {image!r}")
            if masks is not None and (
                masks.shape not in (shape[:3], (*shape[:3], 1)) or not np.issubdtype(masks.dtype, np.integer)
            ):
                raise DataError(
                    f"{path}: {self._mask!r} is {masks.dtype} {masks.shape}; expected integer ids {shape[:3]}"
                )
        except DataError:
            raise
        except Exception as error:  # in damaged files h5py raises OSError, RuntimeError, KeyError, ValueError ...
            raise DataError(f"{path}: cannot be read ({error}); copy the file again") from error
        super().__init__(
            data=str(path),
            root=self.path,
            total=shape[0],
            splits=by_order(shape[0]),
            has_masks=masks is not None,
            **opening,
        )

    def read(self, row: int) -> Decoded:
        """Reads one row of both arrays."""
        file = self._opened()
        try:
            image = file[self._image][row]
            mask = file[self._mask][row] if self.has_masks else None
        except Exception as error:  # see above
            raise DataError(f"{self.name(row)}: cannot be read ({error}); copy the file again") from error
        return Decoded(image, mask[..., 0] if mask is not None and mask.ndim == 3 else mask, str(image.dtype))

    def name(self, row: int) -> str:
        """The file's path and the row."""
        return f"{self.path}[{row}]"

    def _array(self, name: str) -> Any:  # an h5py.Dataset
        """An array of the file; None if there is none of that name."""
        file = self._opened()
        if file.get(name, getlink=True) is None:
            return None
        array = file[name]
        is_group = not hasattr(array, "shape")
        if array.file.filename != file.filename or (not is_group and (array.external or array.is_virtual)):
            raise DataError(f"{self.path}: {name!r} takes its values from another file; write them into this one")
        if is_group:
            raise DataError(f"{self.path}: {name!r} is a group; write all images as one array")
        return array

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
      object ids, 0 = background

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
        mask = f"{name}, column {self._mask!r}"
        return with_mask(decoded, decode_mask(_content(record[self._mask], mask), mask), name, mask)

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
        if not isinstance(part.features[name], datasets.Image):
            raise DataError(
                f"{source}: column {name!r} is {part.features[name]}; use cast_column({name!r}, datasets.Image())"
            )
        part = part.cast_column(name, datasets.Image(decode=False))
    return part.select_columns(wanted)


def _content(value: Any, name: str) -> Path | bytes:
    if value is None:
        raise DataError(f"{name}: the value is missing; pass skip_broken=True (--skip-broken) to use the next image")
    content = value["bytes"]
    return Path(value["path"]) if content is None else content
