"""Writes segmented photographs in the formats of other tools: cut-outs, COCO, YOLO and labelme."""

import glob
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import find_objects
from scipy.spatial import KDTree

from slotlab.data.images import Decoded, read_image, with_mask
from slotlab.errors import ConfigError, nearest, needs
from slotlab.files import remove, replacing, write_json
from slotlab.progress import finish

CATEGORY = "object"  # masks have no classes, so all get this one
TOLERANCE = 0.75  # pixels by which a polygon may leave the border of its mask


class Photo(NamedTuple):
    """A segmented photograph.

    Attributes:
        image: its file.
        name: of its outputs: a path without suffix, relative to the output folder.
        mask: integers [H, W] at the size of the upright photograph, the segment of each pixel;
            negative where there is none.
    """

    image: Path
    name: str
    mask: np.ndarray


def write_formats(formats: Sequence[str], photos: Sequence[Photo], out: str | Path) -> None:
    """Writes segmented photographs in one or more formats, see `docs/segment.md`.

    Args:
        formats: names from `FORMATS`: cutouts, coco, yolo, labelme.
        photos: the photographs and their masks.
        out: the output folder; files there are replaced.

    Raises:
        ConfigError: an unknown format, or a library of the extra `vision` is missing.
        DataError: a photograph cannot be read, or is not as large as its mask (cutouts).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = Path(folder) / "photo.png"
        ...     Image.new("RGB", (9, 6)).save(image)
        ...     mask = np.repeat([[0] * 4 + [1] * 5], 6, axis=0)
        ...     write_formats(["cutouts"], [Photo(image, "photo", mask)], folder)
        ...     Image.open(f"{folder}/photo_cutout_1.png").size
        (5, 6)
    """
    for name in check_formats(formats):
        finish(FORMATS[name](photos, Path(out)))


def check_formats(formats: Iterable[str]) -> list[str]:
    """The formats without repeats.

    Raises:
        ConfigError: one is unknown, or needs a library of the extra `vision` that is missing.
    """
    chosen = list(dict.fromkeys(formats))
    for name in chosen:
        if name not in FORMATS:
            raise ConfigError(f"format: unknown {name!r}{nearest(name, FORMATS)}")
        with needs("vision", f"format {name}: needs"):
            if name == "coco":
                import pycocotools.mask  # noqa: F401
            elif name != "cutouts":
                import skimage.measure  # noqa: F401
    return chosen


def cutouts_steps(photos: Iterable[Photo], out: Path) -> Generator[int, None, None]:
    """`NAME_cutout_K.png` of each segment K: its bounding box, transparent outside the segment."""
    for photo in photos:
        pixels, stem = read_image(photo.image), out / photo.name
        with_mask(Decoded(pixels), photo.mask, str(photo.image), f"the mask of {photo.name}")
        for old in stem.parent.glob(f"{glob.escape(stem.name)}_cutout_*.png"):
            remove(old)
        for segment, box, inside in segments_of(photo.mask):
            shown = np.dstack([pixels[box], np.full(inside.shape, 255, np.uint8)]) * inside[..., None]
            with replacing(stem.with_name(f"{stem.name}_cutout_{segment}.png")) as temporary:
                Image.fromarray(shown).save(temporary, format="PNG", compress_level=1)
        yield 1


def coco_steps(photos: Iterable[Photo], out: Path) -> Generator[int, None, None]:
    """`coco.json`: all photographs as COCO instances, with RLE, area and box of each segment.

    An annotation has the number of its segment as `segment`, besides COCO's own fields.
    """
    from pycocotools import mask as rle

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, photo in enumerate(photos, start=1):
        height, width = photo.mask.shape
        file_name = f"{photo.name}{photo.image.suffix}"
        images.append({"id": number, "file_name": file_name, "width": width, "height": height})
        for segment, box, inside in segments_of(photo.mask):
            whole = np.zeros((height, width), np.uint8, order="F")
            whole[box] = inside
            encoded: Any = rle.encode(whole)
            rows, columns = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": encoded | {"counts": encoded["counts"].decode("ascii")},
                    "area": int(inside.sum()),
                    "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                    "iscrowd": 0,
                    "segment": segment,
                }
            )
        yield 1
    categories = [{"id": 1, "name": CATEGORY, "supercategory": ""}]
    info = {"description": "segments found by slotlab, without classes"}
    content = {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    write_json(out / "coco.json", content, indent=None)


def yolo_steps(photos: Iterable[Photo], out: Path) -> Generator[int, None, None]:
    """`yolo/labels/NAME.txt`: a line per segment, `0 x y x y ...` in fractions of width and height.

    Regions and holes of a segment are joined to one polygon by bridges of no width, as the format
    has one polygon per object. `yolo/data.yaml` expects the photographs in `yolo/images`.
    """
    for photo in photos:
        size = photo.mask.shape[::-1]
        lines = []
        for _, box, inside in segments_of(photo.mask):
            joined = _joined([ring for region in _regions(box, inside) for ring in region])
            lines.append(" ".join(["0", *(f"{value:.6f}" for value in (joined / size).ravel())]))
        with replacing(out / "yolo" / "labels" / f"{photo.name}.txt") as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        yield 1
    with replacing(out / "yolo" / "data.yaml") as temporary:
        temporary.write_text(f"train: images\nval: images\nnames:\n  0: {CATEGORY}\n", encoding="utf-8")


def labelme_steps(photos: Iterable[Photo], out: Path) -> Generator[int, None, None]:
    """`labelme/NAME.json`: a polygon per region; those of one segment share label and group."""
    for photo in photos:
        shapes = [
            {
                "label": f"{CATEGORY} {segment}",
                "points": _joined(region).tolist(),
                "group_id": segment,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
            }
            for segment, box, inside in segments_of(photo.mask)
            for region in _regions(box, inside)
        ]
        path = out / "labelme" / f"{photo.name}.json"
        height, width = photo.mask.shape
        where = os.path.relpath(photo.image.resolve(), path.parent.resolve())
        image = {"imagePath": Path(where).as_posix(), "imageData": None, "imageHeight": height, "imageWidth": width}
        write_json(path, {"version": "5.5.0", "flags": {}, "shapes": shapes, **image}, indent=None)
        yield 1


FORMATS: dict[str, Callable[[Iterable[Photo], Path], Generator[int, None, None]]] = {
    "cutouts": cutouts_steps,
    "coco": coco_steps,
    "yolo": yolo_steps,
    "labelme": labelme_steps,
}


def segments_of(mask: np.ndarray) -> Iterator[tuple[int, tuple[slice, slice], np.ndarray]]:
    """Number, bounding box (rows, columns) and bool mask inside that box of each segment.

    Example:
        >>> mask = np.array([[-1, 2], [-1, 2]])
        >>> [(number, inside.tolist()) for number, box, inside in segments_of(mask)]
        [(2, [[True], [True]])]
    """
    for number, box in enumerate(find_objects(mask.astype(np.int32) + 1)):
        if box is not None:
            yield number, box, mask[box] == number


def _regions(box: tuple[slice, slice], inside: np.ndarray) -> list[list[np.ndarray]]:
    """The outlines (x, y) [N, 2] of each connected region: the outer one, then those of holes.

    A pixel covers [x, x + 1]; an outline passes between the centres of pixels and is closed.
    """
    from contourpy import FillType, contour_generator
    from skimage.measure import approximate_polygon

    padded = np.pad(inside, 1).astype(np.float64)
    filled: Any = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, 2.0)
    regions = []
    for points, offsets in zip(*filled, strict=True):
        rings = np.split(points, offsets[1:-1])
        simpler = [approximate_polygon(ring, TOLERANCE) for ring in rings]
        kept = [few if len(few) > 3 else ring for few, ring in zip(simpler, rings, strict=True)]
        regions.append([ring - 0.5 + (box[1].start, box[0].start) for ring in kept])
    return regions


def _joined(rings: list[np.ndarray]) -> np.ndarray:
    """One open polygon [N, 2] of closed rings, each joined at the nearest points by a bridge."""
    whole = rings[0]
    for ring in rings[1:]:
        nearest_points: Any = KDTree(whole).query(ring)
        distances, places = nearest_points
        at = int(np.argmin(distances))
        place = int(places[at])
        around = np.concatenate([ring[at:-1], ring[: at + 1]])
        whole = np.concatenate([whole[: place + 1], around, whole[place:]])
    return whole[:-1]
