"""Reader of image folders, with or without masks."""

from pathlib import Path

from slotlab.data.decoding import Picture, check_sizes, decode_image, decode_mask
from slotlab.data.pixels import PixelDataset
from slotlab.data.splits import SPLITS, by_order
from slotlab.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm")


def image_files(folder: Path, *, nested: bool) -> list[Path]:
    """The image files in `folder`, sorted by path; hidden files and folders are left out."""
    found = folder.rglob("*") if nested else folder.glob("*")
    return sorted(
        path
        for path in found
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


class ImageFolder(PixelDataset):
    """A folder of images, optionally with a mask of object ids for each.

    Dataset format: one of

    * `images/**/{stem}.png` and optionally `masks/**/{stem}.png` (same path below, a lossless suffix)
    * `images/{train,val,test}/...` and optionally `masks/{train,val,test}/...`: any of the three splits, each with or
      without masks
    * images directly in the folder, without masks

    Image suffixes: png, jpg, jpeg, webp, bmp, tif, tiff, gif (first frame), ppm, pgm. Mask suffixes: png, tif, tiff,
    bmp, gif, pgm. A mask's pixel is an object id, 0 = background: palette, grey with 8 or 16 bits, or RGB whose
    channels agree. Ids may have gaps.

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
        named = [name for name in SPLITS if images != base and (images / name).is_dir()]
        splits: dict[str, range] = {}
        self.paths: list[Path] = []
        for name in named:
            files = image_files(images / name, nested=True)
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
        self._masked = [name for name in named or [""] if images != base and (self._masks / name).is_dir()]
        super().__init__(
            data=str(root),
            root=base,
            total=len(self.paths),
            splits=splits,
            has_masks=(split in self._masked) if named and split != "all" else self._masked == (named or [""]),
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
            "masks/ away to use the images alone, or pass skip_broken=True to use the next picture instead"
        )
