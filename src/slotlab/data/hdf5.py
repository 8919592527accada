"""Reader of HDF5 files with image and mask arrays; needs the `hdf5` extra."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from slotlab.data.decoding import Picture
from slotlab.data.pixels import PixelDataset
from slotlab.data.splits import by_order
from slotlab.errors import DataError

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Whether `path` is a file that begins as HDF5 files do, or is named like one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) == SIGNATURE or path.suffix.lower() in (".h5", ".hdf5")


class Hdf5(PixelDataset):
    """An HDF5 file of pictures.

    Dataset format:

    * `image`: uint8 (N, H, W, 3)
    * `mask`, optional unless it is named by `mask=`: integer ids (N, H, W) or (N, H, W, 1), 0 = background

    Other arrays (`visibility`, `num_actual_objects` ... in the CLEVRTex mirrors) are left alone. Splits by row as
    CLEVRTex does by sorted index: test [0, 10 %), val [10, 20 %), train [20, 100 %); a mirror whose rows are in another
    order has another test set. Crop 1.0 of the shorter side. Every process opens the file for itself.
    """

    kind = "hdf5"

    def __init__(
        self,
        path: str | Path,
        *,
        image: str = "image",
        mask: str | None = None,
        split: str = "train",
        resolution: int | None = None,
        crop: float | None = None,
        count: int | None = None,
        skip_broken: bool = False,
    ) -> None:
        self.path, self._image, self._mask = Path(path), image, mask or "mask"
        self._file: Any = None
        self._process = -1
        file = self._opened()
        for name in (image, *([] if mask is None else [mask])):
            if name not in file:
                raise DataError(f"{path}: no array {name!r}; it has {', '.join(file)}: pass image= (and mask=)")
        images, masks = file[image], file.get(self._mask)
        for array in (images, masks):
            if array is not None and not hasattr(array, "shape"):
                raise DataError(
                    f"{path}: {array.name} is a group; expected one array of all pictures: write it again so"
                )
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise DataError(
                f"{path}: array {image!r} is {images.dtype} {images.shape}; expected uint8 (N, H, W, 3): "
                "write it again so"
            )
        if masks is not None and (
            masks.shape not in (images.shape[:3], (*images.shape[:3], 1)) or not np.issubdtype(masks.dtype, np.integer)
        ):
            raise DataError(
                f"{path}: array {self._mask!r} is {masks.dtype} {masks.shape}; expected integer ids "
                f"{images.shape[:3]}, as many and as large as the images of {image!r}: write it again so"
            )
        super().__init__(
            data=str(path),
            root=self.path,
            total=len(images),
            splits=by_order(len(images)),
            has_masks=masks is not None,
            split=split,
            resolution=resolution,
            crop=crop,
            count=count,
            skip_broken=skip_broken,
        )

    def read(self, row: int) -> Picture:
        """Reads one row of both arrays."""
        file = self._opened()
        try:
            image = file[self._image][row]
            mask = file[self._mask][row] if self.has_masks else None
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{self.name(row)}: cannot be read ({error}); copy the file again") from error
        return Picture(image, mask[..., 0] if mask is not None and mask.ndim == 3 else mask, str(image.dtype))

    def name(self, row: int) -> str:
        """The file's path and the row."""
        return f"{self.path}[{row}]"

    def _opened(self) -> Any:  # an h5py.File
        """The file, opened by this very process: HDF5 handles do not survive a fork."""
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
