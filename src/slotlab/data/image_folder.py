"""Reader of image folders, with or without masks."""

from itertools import islice
from pathlib import Path

from slotlab.data.decoding import Picture, check_sizes, decode_image, decode_mask
from slotlab.data.pixels import PixelDataset
from slotlab.data.splits import SPLIT_NAMES, by_order
from slotlab.data.walking import folders_below
from slotlab.errors import DataError

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".webp", ".avif"),
    *(".bmp", ".tif", ".tiff", ".gif", ".tga", ".ppm", ".pgm", ".pnm"),
)
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm")


def image_files(folder: Path, *, nested: bool) -> list[Path]:
    """The image files in `folder`, sorted by path; hidden files and folders are left out."""
    folders = folders_below(folder) if nested else islice(folders_below(folder), 1)
    return sorted(
        place / name
        for place, names in folders
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
    )


class ImageFolder(PixelDataset):
    """A folder of images, optionally with a mask of object ids for each.

    Dataset format: one of

    * `images/**/{stem}.png` and optionally `masks/**/{stem}.png` (same path below, a lossless suffix)
    * `images/{train,val,test}/...` and optionally `masks/{train,val,test}/...`: any of the three splits, each with or
      without masks; training, validation, valid, dev and testing are other names for them
    * images directly in the folder, without masks

    Image suffixes: png, jpg, jpeg, jpe, jfif, jp2, webp, avif, bmp, tif, tiff, gif (first frame), tga, ppm, pgm, pnm.
    Mask suffixes: png, tif, tiff, bmp, gif, pgm. A mask's pixel is an object id, 0 = background: palette, grey with 8
    or 16 bits, or RGB whose channels agree. Ids may have gaps.

    Without split folders the rule is CLEVRTex's, on sorted paths: test [0, 10 %), val [10, 20 %), train [20, 100 %).
    Each picture is cut to the centred square (crop 1.0 of the shorter side), then resized.
    """

    kind = "images"

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
        base = Path(root)
        images = base / "images" if (base / "images").is_dir() else base
        named = _split_folders(images) if images != base else {}
        splits: dict[str, range] = {}
        self.paths: list[Path] = []
        for name, folder in named.items():
            files = image_files(images / folder, nested=True)
            splits[name] = range(len(self.paths), len(self.paths) + len(files))
            self.paths += files
        if not named:
            self.paths = image_files(images, nested=images != base)
            splits = by_order(len(self.paths))
        if not self.paths:
            raise DataError(
                f"{images}: no image file here ({', '.join(IMAGE_SUFFIXES)}); put the images there, with "
                "their masks in masks/ beside it, or name another folder"
            )
        self._images, self._masks = images, base / "masks"
        self._masked = [
            folder for folder in named.values() or [""] if images != base and (self._masks / folder).is_dir()
        ]
        if self._masked:
            _check_names(self.paths)
        super().__init__(
            data=str(root),
            root=base,
            total=len(self.paths),
            splits=splits,
            has_masks=(named.get(split) in self._masked)
            if named and split != "all"
            else len(self._masked) == len(named or [""]),
            split=split,
            resolution=resolution,
            crop=crop,
            count=count,
            skip_broken=skip_broken,
        )
        if self.has_masks and not skip_broken:
            for row in self.rows:
                self._mask_path(row)

    def read(self, row: int) -> Picture:
        """Decodes the image and its mask."""
        path = self.paths[row]
        image, mode = decode_image(path, str(path))
        if not any(self._images / name in path.parents for name in self._masked):
            return Picture(image, None, mode)
        mask_path = self._mask_path(row)
        mask = decode_mask(mask_path, str(mask_path))
        check_sizes(image, mask, str(path), str(mask_path))
        return Picture(image, mask, mode)

    def name(self, row: int) -> str:
        """The image's path."""
        return str(self.paths[row])

    def _mask_path(self, row: int) -> Path:
        image = self.paths[row]
        stem = self._masks / image.relative_to(self._images).with_suffix("")
        for suffix in (image.suffix, *MASK_SUFFIXES, *map(str.upper, MASK_SUFFIXES)):
            candidate = stem.with_name(stem.name + suffix)
            if suffix.lower() in MASK_SUFFIXES and candidate.is_file():
                return candidate
        lossy = next((p for s in (".jpg", ".jpeg", ".webp") if (p := stem.with_name(stem.name + s)).is_file()), None)
        if lossy is not None:
            raise DataError(f"{lossy}: a lossy format does not keep object ids; make the mask again as a PNG")
        raise DataError(
            f"{image}: its mask {stem.with_name(stem.name + '.png')} is missing; add it, take the folder "
            "masks/ away to use the images alone, or pass skip_broken=True (--skip-broken) to use the next picture "
            "instead"
        )


def _split_folders(images: Path) -> dict[str, str]:
    """The folder of each split that has one."""
    found: dict[str, str] = {}
    for split, names in SPLIT_NAMES.items():
        folders = [name for name in names if (images / name).is_dir()]
        if len(folders) > 1:
            raise DataError(
                f"{images}: {' and '.join(folders)} both name the split {split!r}; put them into one folder"
            )
        if folders:
            found[split] = folders[0]
    return found


def _check_names(paths: list[Path]) -> None:
    """Raises DataError where two images would share a mask, for they differ in their suffix alone."""
    known: dict[Path, Path] = {}
    for path in paths:
        other = known.setdefault(path.with_suffix(""), path)
        if other is not path:
            raise DataError(f"{path}: has the mask of {other.name} too; keep one of the two, or rename one")
