"""Reader of COCO and of data sets in its JSON formats (instances: extra `vision`)."""

import itertools
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np

from slotlab.data.arrays import stacked
from slotlab.data.dataset import Opening, PixelDataset, split_of
from slotlab.data.images import Decoded, decode_image, with_mask
from slotlab.data.sample import IGNORED
from slotlab.errors import ConfigError, DataError, needs
from slotlab.files import read_json

REMEDY = "take the published file, or write it again"
KEPT = ("id", "image_id", "segmentation", "iscrowd", "category_id", "unseen")  # of an annotation


class Coco(PixelDataset):
    """COCO instances: a mask of the annotated objects of each photograph.

    Dataset format:

    * annotations: `annotations/instances_{name}.json`, or one JSON file, named in place of it
    * images: `{name}/` or `images/{name}/` beside `annotations/`; also `images/` or the folder of
      the JSON file itself

    Ids are those of the image's annotations in their order in the file, from 1. Where instances
    overlap, the smaller one is on top; with `overlaps="ignored"` such pixels are ignored (-1). So
    are crowds, where no instance covers them. Pixels without an instance are 0, as are images
    without annotations. Both polygons and RLE are read, by pycocotools. Splits by the name (train,
    val, test); a single file whose name says none is split in its order with CLEVRTex's rule.
    `index` is COCO's image id. Crop 1.0. With `every_mask`, batches have the category id of each
    pixel as `classes` (one more if the file counts them from 0), unless an annotation has none.
    """

    kind = "coco"
    task: ClassVar[str] = "instances"
    annotated = True  # whether the files that were read have annotations

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether `path` is a JSON file, or a folder with `annotations/TASK_*.json`."""
        return path.suffix.lower() == ".json" if path.is_file() else bool(cls.files(path))

    def __init__(
        self,
        root: str | Path,
        *,
        images: str | Path | None = None,
        overlaps: str = "smaller",
        **opening: Unpack[Opening],
    ) -> None:
        if overlaps not in ("smaller", "ignored"):
            raise ConfigError(f"overlaps={overlaps!r}: expected smaller or ignored")
        self._overlaps = overlaps
        if self.task == "instances":
            with needs("vision", f"{root}: COCO needs", DataError):
                import pycocotools  # noqa: F401
        path = Path(root)
        files = {split_of(path.stem): path} if path.is_file() else self.files(path)
        if not files:
            raise DataError(f"{root}: no annotations/{self.task}_*.json in this folder; name the folder that has it")
        split = opening.get("split", "train")
        if split in files:  # the others may be large
            files = {split: files[split]}
        self._rows: list[tuple[dict[str, Any], Path, Path]] = []  # an image, its path, its JSON file
        self._found: dict[int, list[dict[str, Any]]] = {}
        self._categories: set[Any] = set()
        sizes: dict[str, int] = {}
        for name, file in files.items():
            content = self.content(file)
            folder = Path(images) if images is not None else self.image_folder(file, content["images"])
            sizes[name] = len(content["images"])
            self._rows += [(image, folder / image["file_name"], file) for image in content["images"]]
            self._add(file, content)
        super().__init__(root, sizes, self.annotated, **opening)

    @classmethod
    def files(cls, root: Path) -> dict[str, Path]:
        """The JSON file of each split in a folder."""
        return _annotation_files(root, cls.task)

    def content(self, file: Path) -> dict[str, Any]:
        """The `images` and `annotations` of a JSON file."""
        return _content(file, self.task)

    def image_folder(self, file: Path, images: list[dict[str, Any]]) -> Path:
        """Where the images of a JSON file are."""
        name, bases = file.stem.partition("_")[2], (file.parent.parent, file.parent)
        return _image_folder(
            file, images, [base / place for base in bases for place in (name, f"images/{name}", "images", ".")]
        )

    def _add(self, file: Path, content: dict[str, Any]) -> None:
        """Keeps what `mask` needs of the annotations, by image."""
        for annotation in content["annotations"]:
            kept = {key: annotation.get(key) for key in KEPT}
            self._found.setdefault(annotation["image_id"], []).append(kept)
            self._categories.add(kept["category_id"])

    @property
    def _has_classes(self) -> bool:
        return all(isinstance(category, int) for category in self._categories)

    def read(self, row: int) -> Decoded:
        """Decodes the image and draws its annotations."""
        known, path, file = self._rows[row]
        image, mask_name = decode_image(path, str(path)), f"{file}, image {known['id']}"
        size = (known["height"], known["width"])
        with_mask(image, np.broadcast_to(0, size), str(path), mask_name)  # before a mask of that size is drawn
        mask = self.mask(row)
        wanted = self.every_mask and self.kind != CocoClasses.kind and self._has_classes
        more = {"classes": self.classes_of(mask, row)} if wanted else {}
        return with_mask(image, mask, str(path), mask_name)._replace(more=more)

    def classes_of(self, mask: np.ndarray, row: int) -> np.ndarray:
        """Category ids int32 [H, W] in a row's `mask`, one more if the file counts them from 0."""
        first = int(0 in self._categories)
        classes = [0, *(found["category_id"] + first for found in self._objects(row))]
        return np.where(mask == IGNORED, IGNORED, np.array(classes, np.int32)[mask])

    def _objects(self, row: int) -> list[dict[str, Any]]:
        """What the file says of each object of a row's `mask`, in the order of their ids."""
        return [annotation for annotation in self._found.get(self.number(row), []) if not annotation["iscrowd"]]

    def mask(self, row: int) -> np.ndarray:
        """The ids int32 [H, W] of a row's annotations; DataError if one is broken."""
        from pycocotools import mask as rle

        image, _, file = self._rows[row]
        size: tuple[int, int] = (image["height"], image["width"])
        found = self._found.get(image["id"], [])
        empty = np.zeros(size, bool)  # an object that is out of sight, in a video
        layers = [empty if one.get("unseen") else rle.decode(_encoded(one, *size, file)) > 0 for one in found]
        crowd = [bool(annotation["iscrowd"]) for annotation in found]
        objects = [layer for layer, of_crowd in zip(layers, crowd, strict=True) if not of_crowd]
        mask = stacked(objects, size)
        for layer in itertools.compress(layers, crowd):
            mask[layer & (mask == 0)] = IGNORED
        if self._overlaps == "ignored":
            mask[np.sum(objects, axis=0) > 1] = IGNORED
        return mask

    def name(self, row: int) -> str:
        """The image's path."""
        return str(self._rows[row][1])

    def number(self, row: int) -> int:
        """COCO's image id."""
        return self._rows[row][0]["id"]

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        return super().describe() | ({} if self._overlaps == "smaller" else {"overlaps": self._overlaps})


class CocoClasses(Coco):
    """COCO instances with the class of each pixel, COCO's category id, in place of its object.

    Dataset format: as `Coco`.
    """

    kind = "coco-classes"

    def _add(self, file: Path, content: dict[str, Any]) -> None:
        super()._add(file, content)
        if not self._has_classes:
            raise DataError(f"{file}: not every annotation has a 'category_id'; open it as coco:{file}")

    def mask(self, row: int) -> np.ndarray:
        """The classes int32 [H, W] of a row's annotations."""
        return self.classes_of(super().mask(row), row)


class CocoPanoptic(Coco):
    """COCO panoptic: a mask of all things and stuff of each photograph.

    Dataset format: as `Coco`, with `annotations/panoptic_{name}.json` and PNGs of segment ids
    (red + 256 green + 65536 blue) in the folder `annotations/panoptic_{name}/`. Ids are those of
    the segments in their order in the file, from 1; with `stuff=False` only things have one, and
    stuff is 0. Crowds and pixels without a segment are ignored (-1). `classes` as for `Coco`.
    """

    kind = "coco-panoptic"
    task = "panoptic"

    def __init__(
        self, root: str | Path, *, images: str | Path | None = None, stuff: bool = True, **opening: Unpack[Opening]
    ) -> None:
        self._stuff = stuff
        self._things: set[int] = set()
        super().__init__(root, images=images, **opening)

    def _add(self, file: Path, content: dict[str, Any]) -> None:
        self._things |= {kind["id"] for kind in content.get("categories", []) if kind.get("isthing", 1)}
        for annotation in content["annotations"]:
            self._found.setdefault(annotation["image_id"], []).append(annotation)
            self._categories |= {segment["category_id"] for segment in annotation["segments_info"]}

    def _objects(self, row: int) -> list[dict[str, Any]]:
        segments = [one for one in self._found[self.number(row)][0]["segments_info"] if not one.get("iscrowd")]
        return [one for one in segments if self._stuff or one["category_id"] in self._things]

    def mask(self, row: int) -> np.ndarray:
        """The ids int32 [H, W] of a row's segments; DataError if its PNG is missing or broken."""
        file = self._rows[row][2]
        if self.number(row) not in self._found:
            raise DataError(f"{file}: no annotation of image {self.number(row)}; {REMEDY}")
        annotation, objects = self._found[self.number(row)][0], self._objects(row)
        path = file.with_suffix("") / annotation["file_name"]
        colours = decode_image(path, str(path)).image.astype(np.int32)
        segments = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
        mask = np.full(segments.shape, IGNORED, np.int32)
        for segment in annotation["segments_info"]:
            if not segment.get("iscrowd"):
                mask[segments == segment["id"]] = objects.index(segment) + 1 if segment in objects else 0
        stray = np.setdiff1d(segments, [0, *(segment["id"] for segment in annotation["segments_info"])])
        if stray.size:
            raise DataError(f"{path}: has the segment {stray[0]}, which {file.name} does not list; {REMEDY}")
        return mask


class YoutubeVis(Coco):
    """YouTube-VIS: each frame of its videos as an image; an object has the same id in all frames.

    Dataset format:

    * annotations: `{train,valid,test}.json` or `{train,valid,test}/instances.json`, or one JSON
      file, named instead of the folder: `videos` with their `file_names`, and `annotations` with
      `segmentations`: an RLE, polygons or null for each frame
    * frames: `{train,valid,test}/JPEGImages/{video}/{frame:05d}.jpg`

    Ids are those of the video's annotations in their order in the file, from 1. The rest is as in
    `Coco`. A file without annotations, as those of valid and test, gives frames without masks.
    Splits by the name of the file or folder. OVIS has this format too.
    """

    kind = "youtube-vis"

    @classmethod
    def is_in(cls, path: Path) -> bool:
        """Whether a folder has frames and annotations in this layout."""
        return path.is_dir() and any(path.glob("*/JPEGImages")) and bool(cls.files(path))

    @classmethod
    def files(cls, root: Path) -> dict[str, Path]:
        """The JSON file of each split in a folder."""
        known = ("train", "valid", "val", "test")
        tried = [(name, root / place) for name in known for place in (f"{name}.json", f"{name}/instances.json")]
        return {split_of(name): file for name, file in tried if file.is_file()}

    def content(self, file: Path) -> dict[str, Any]:
        """Its frames as images, and of each frame the annotations of its video."""
        content = read_json(file, REMEDY, DataError)
        keys = {"videos": ("id", "file_names", "width", "height"), "annotations": ("video_id", "segmentations")}
        videos, objects = (_entries(file, content.get(part) or [], part, keys[part]) for part in keys)
        if not videos:
            raise DataError(f"{file}: has no videos; take a JSON file of YouTube-VIS, or open it as coco:{file}")
        self.annotated &= bool(objects)
        of_video: dict[Any, list[dict[str, Any]]] = {}
        for one in objects:
            of_video.setdefault(one["video_id"], []).append(one)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for video in videos:
            for time, name in enumerate(video["file_names"]):
                size = {"width": video["width"], "height": video["height"]}
                images.append({"id": len(self._rows) + len(images), "file_name": name, "video": video["id"], **size})
                for one in of_video.get(video["id"], ()):
                    if len(one["segmentations"]) != len(video["file_names"]):
                        count = f"{len(one['segmentations'])} segmentations for {len(video['file_names'])} frames"
                        raise DataError(
                            f"{file}: annotation {one.get('id')} of video {video['id']} has {count}; {REMEDY}"
                        )
                    shape = one["segmentations"][time]
                    annotations.append(
                        {**one, "image_id": images[-1]["id"], "segmentation": shape, "unseen": shape is None}
                    )
        return {"images": images, "annotations": annotations}

    def image_folder(self, file: Path, images: list[dict[str, Any]]) -> Path:
        """Where the frames of a JSON file are."""
        places = (file.with_suffix("") / "JPEGImages", file.parent / "JPEGImages", file.parent)
        return _image_folder(file, images, [*places])

    def read(self, row: int) -> Decoded:
        """Decodes the frame and draws its annotations, if it has some."""
        path = self._rows[row][1]
        return super().read(row) if self.has_masks else decode_image(path, str(path))

    def clip(self, row: int) -> str:
        """The video."""
        image, _, file = self._rows[row]
        return f"{file}, video {image['video']}"


def _encoded(annotation: dict[str, Any], height: int, width: int, file: Path) -> Any:
    """An annotation as one RLE of COCO."""
    from pycocotools import mask

    rle: Any = mask
    shape = annotation["segmentation"]
    try:
        if not shape or not isinstance(shape, list | dict):
            raise ValueError("polygons or an RLE are expected")
        # pycocotools crashes on damaged lengths, and takes memory by the coordinates of polygons.
        if isinstance(shape, list):
            least, most = -max(height, width), 2 * max(height, width)
            if any(len(polygon) < 6 or not all(least <= at <= most for at in polygon) for polygon in shape):
                raise ValueError("a polygon of fewer than 3 points, or far outside the image")
            return rle.merge(rle.frPyObjects(shape, height, width))
        if list(shape["size"]) != [height, width]:
            raise ValueError(f"its RLE is of size {shape['size']}, the image {[height, width]}")
        counts = shape["counts"] if isinstance(shape["counts"], list) else _run_lengths(shape["counts"])
        if sum(counts) != height * width or min(counts) < 0:
            raise ValueError(f"its RLE has not {height * width} pixels")
        return rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    except Exception as error:  # pycocotools raises its own, TypeError, IndexError, KeyError ...
        name = f"{file}: annotation {annotation['id']} of image {annotation['image_id']}"
        raise DataError(f"{name}: its segmentation cannot be read ({error}); {REMEDY}") from error


def _run_lengths(text: str) -> list[int]:
    """The run lengths of a compressed RLE of COCO: numbers of 5 bits a character, the lowest first.

    From the fourth on they are differences to the length before last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its RLE has the character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << shift - 4
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def _annotation_files(root: Path, task: str) -> dict[str, Path]:
    """The JSON file of each split."""
    found: dict[str, Path] = {}
    for file in sorted((root / "annotations").glob(f"{task}_*.json")):
        split = split_of(file.stem)
        if split in found:
            raise DataError(f"{file}: {found[split].name} is of the same split; name the JSON file that you want")
        found[split] = file
    return found


def _content(file: Path, task: str) -> dict[str, Any]:
    """A JSON file that has images and annotations of them of this task."""
    content = read_json(file, REMEDY, DataError)
    for part, keys in (("images", ("id", "file_name", "width", "height")), ("annotations", ("image_id",))):
        entries = content.get(part)
        if not isinstance(entries, list) or not entries:
            other = f"open it as youtube-vis:{file}" if "videos" in content else f"take a file {task}_*.json of COCO"
            raise DataError(f"{file}: has no {part}; {other}")
        _entries(file, entries, part, keys)
    needed = "segments_info" if task == "panoptic" else "segmentation"
    if needed not in content["annotations"][0]:
        raise DataError(f"{file}: its annotations have no {needed!r}; take a file {task}_*.json of COCO")
    return content


def _entries(file: Path, entries: list[Any], part: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The entries of a part of a JSON file; DataError if one lacks a key."""
    for place, entry in enumerate(entries):
        missing = [key for key in keys if key not in entry] if isinstance(entry, dict) else keys
        if missing:
            raise DataError(f"{file}: {part}[{place}] has no {missing[0]!r}; {REMEDY}")
    return entries


def _image_folder(file: Path, images: list[dict[str, Any]], tried: list[Path]) -> Path:
    """The first folder that has the first image of a JSON file."""
    for folder in tried:
        if (folder / images[0]["file_name"]).is_file():
            return folder
    raise DataError(
        f"{file}: its first image {images[0]['file_name']} is not in {tried[0]}, {tried[1]} or {tried[2]}; "
        "unpack the images there, or pass images="
    )
