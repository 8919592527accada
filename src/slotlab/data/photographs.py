"""Readers of PASCAL VOC, DAVIS and BSDS500: photographs with masks in separate files."""

from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np

from slotlab.data.dataset import SPLITS, Opening, PixelDataset
from slotlab.data.images import Decoded, decode_image, decode_mask, with_mask
from slotlab.data.sample import IGNORED
from slotlab.errors import ConfigError, DataError

VOID = 255  # in masks of VOC and DAVIS: borders, and what annotators left open


class Photographs(PixelDataset):
    """Photographs whose data set is recognised by the folder `lists` in it."""

    lists: ClassVar[str]
    unpacked: ClassVar[str]  # where its archive puts it, as a pattern

    @classmethod
    def base(cls, root: Path) -> Path:
        """The folder that has `lists`: `root` or, as unpacked, one below it; `root` if none has.

        Raises:
            DataError: several have.
        """
        parts = cls.unpacked.split("/")
        patterns = ["/".join(parts[start:]) for start in range(len(parts))]
        found = [path for pattern in patterns for path in sorted(root.glob(pattern)) if (path / cls.lists).is_dir()]
        if (root / cls.lists).is_dir() or not found:
            return root
        if len(found) > 1:
            raise DataError(f"{root}: has {' and '.join(path.name for path in found)}; name one of these folders")
        return found[0]

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether a folder holds this data set."""
        return (cls.base(path) / cls.lists).is_dir()


class Listed(Photographs):
    """Photographs that the text files in `lists` assign to splits, each with a palette mask."""

    images: ClassVar[str]  # folders
    masks: ClassVar[str]
    largest = VOID - 1  # id in a mask

    def __init__(self, root: str | Path, **opening: Unpack[Opening]) -> None:
        self._base = self.base(Path(root))
        found = {split: self._lines(split) for split in SPLITS}
        lists = {split: self.expanded(lines) for split, lines in found.items() if lines}
        if not lists:
            raise DataError(f"{self._base / self.lists}: train.txt, val.txt and test.txt are missing or empty")
        self._names = [name for names in lists.values() for name in names]
        super().__init__(root, {split: len(names) for split, names in lists.items()}, **opening)

    def _lines(self, split: str) -> list[str]:
        path = self._base / self.lists / f"{split}.txt"
        return path.read_text(encoding="utf-8").split() if path.is_file() else []

    def expanded(self, lines: list[str]) -> list[str]:
        """The names of the images, without suffix, that the lines of a list stand for."""
        return lines

    def read(self, row: int) -> Decoded:
        """Decodes the photograph and its mask."""
        image = decode_image(Path(self.name(row)), self.name(row))
        return with_mask(image, *self._ids(row, self.masks, self.largest))

    def _ids(self, row: int, folder: str, largest: int) -> tuple[np.ndarray, str, str]:
        """The mask of a row in a folder, and the names of its image and of its file."""
        mask = self._base / folder / f"{self._names[row]}.png"
        ids = decode_mask(mask, str(mask), palette_only=True).astype(np.int16)
        ids[ids == VOID] = IGNORED
        if ids.max() > largest:
            raise DataError(f"{mask}: id {ids.max()}, at most {largest} are known; take the published file")
        return ids, self.name(row), str(mask)

    def name(self, row: int) -> str:
        """The photograph's path."""
        return str(self._base / self.images / f"{self._names[row]}.jpg")


class Voc(Listed):
    """PASCAL VOC: the objects of each photograph.

    Dataset format: `VOCdevkit/VOC2012` or a folder above it, with

    * lists: `ImageSets/Segmentation/{train,val}.txt`
    * images: `JPEGImages/{name}.jpg`
    * masks: `SegmentationObject/{name}.png`, palette PNG: 0 = background, 255 = border or
      difficult, which is ignored (-1)

    Splits by the lists; VOC has no public test masks. Crop 1.0. With `every_mask`, batches have the
    class of each pixel, from `SegmentationClass` if it is there, as `classes`.
    """

    kind = "voc"
    unpacked = "VOCdevkit/VOC*"
    lists, images, masks = "ImageSets/Segmentation", "JPEGImages", "SegmentationObject"

    def read(self, row: int) -> Decoded:
        """Decodes the photograph and its masks."""
        decoded = super().read(row)
        if not self.every_mask or self.kind != Voc.kind or not (self._base / VocClasses.masks).is_dir():
            return decoded
        classes = with_mask(decoded, *self._ids(row, VocClasses.masks, VocClasses.largest)).mask
        return decoded._replace(more={"classes": np.asarray(classes)})


class VocClasses(Voc):
    """PASCAL VOC with the class of each pixel, 1 to 20, in place of its object.

    Dataset format: as `Voc`, with masks in `SegmentationClass`.
    """

    kind = "voc-classes"
    masks = "SegmentationClass"
    largest = 20


class Davis(Listed):
    """DAVIS 2017: each frame of its videos as an image.

    Dataset format: `DAVIS` or a folder above it, with

    * lists of videos: `ImageSets/2017/{train,val}.txt`
    * frames: `JPEGImages/480p/{video}/{frame:05d}.jpg`
    * masks: `Annotations/480p/{video}/{frame:05d}.png`, palette PNG: 0 = background, an object has
      the same id in all frames; 255 is ignored (-1)

    Splits by the lists, frames in order. Crop 1.0.
    """

    kind = "davis"
    unpacked = "DAVIS*"
    lists, images, masks = "ImageSets/2017", "JPEGImages/480p", "Annotations/480p"

    def expanded(self, lines: list[str]) -> list[str]:
        """The frames of videos."""
        names: list[str] = []
        for video in lines:
            folder = self._base / self.images / video
            frames = sorted(folder.glob("*.jpg"))
            if not frames:
                raise DataError(f"{folder}: no frames (*.jpg); unpack the videos at 480p there")
            names += [f"{video}/{frame.stem}" for frame in frames]
        return names


class Bsds(Photographs):
    """BSDS500: the regions that one of several annotators saw in each photograph.

    Dataset format: `BSR/BSDS500/data` or a folder above it, with

    * images: `images/{train,val,test}/{name}.jpg`
    * regions: `groundTruth/{train,val,test}/{name}.mat`, MATLAB cells `groundTruth`, one per
      annotator, each with `Segmentation`: uint16 [H, W] from 1

    Every pixel has a region, so no mask has background (0). Splits by folder. Crop 1.0. With
    `every_mask`, batches have the regions of all annotators as `annotators`.

    Args:
        root: the folder.
        annotator: which of the annotators of each photograph, from 0. There are 4 to 9.
    """

    kind = "bsds"
    lists, unpacked = "groundTruth", "BSR/BSDS500/data"

    def __init__(self, root: str | Path, *, annotator: int = 0, **opening: Unpack[Opening]) -> None:
        if annotator < 0:
            raise ConfigError(f"annotator={annotator}: expected 0 or more")
        self.annotator, self._base = annotator, self.base(Path(root))
        lists = {split: sorted((self._base / "images" / split).glob("*.jpg")) for split in SPLITS}
        lists = {split: images for split, images in lists.items() if images}
        self._paths = [path for images in lists.values() for path in images]
        if not self._paths:
            raise DataError(f"{self._base / 'images'}: no train/*.jpg, val/*.jpg or test/*.jpg in this folder")
        super().__init__(root, {split: len(images) for split, images in lists.items()}, **opening)

    def read(self, row: int) -> Decoded:
        """Decodes the photograph and the regions of its annotator."""
        image = self._paths[row]
        path = self._base / "groundTruth" / image.parent.name / f"{image.stem}.mat"
        masks = regions(path)
        if self.annotator >= len(masks):
            raise DataError(f"{path}: has {len(masks)} annotators; pass annotator= below that")
        decoded, names = decode_image(image, str(image)), (str(image), str(path))
        if self.every_mask:
            each = [np.asarray(with_mask(decoded, mask, *names).mask) for mask in masks]
            decoded = decoded._replace(more={"annotators": np.stack(each)})
        return with_mask(decoded, masks[self.annotator], *names)

    def name(self, row: int) -> str:
        """The photograph's path."""
        return str(self._paths[row])

    def number(self, row: int) -> int:
        """The number in the file's name."""
        stem = self._paths[row].stem
        return int(stem) if stem.isdecimal() else row

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, with the annotator."""
        return super().describe() | {"annotator": "all" if self.every_mask else self.annotator}


def regions(path: Path) -> list[np.ndarray]:
    """The regions int32 [H, W] that each annotator of a BSDS500 file saw.

    Raises:
        DataError: the file is missing, broken, or not one of BSDS500.
    """
    from scipy.io import loadmat

    try:
        cells = loadmat(path)["groundTruth"].ravel()
        return [cell["Segmentation"][0, 0].astype(np.int32) for cell in cells]
    except Exception as error:  # SciPy raises a different kind for each way in which a file is damaged
        reason = "the file is missing" if not path.is_file() else f"not a ground truth of BSDS500 ({error})"
        raise DataError(f"{path}: {reason}; take the published file") from error
