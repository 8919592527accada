"""One way to open any data set."""

import inspect
import operator
import re
from pathlib import Path
from typing import Any

from slotlab.data.arrays import Hdf5, Hub, Npz, holds_numpy, holds_saved_dataset, is_hdf5
from slotlab.data.coco import Coco, CocoClasses, CocoPanoptic, holds_coco
from slotlab.data.finding import image_files
from slotlab.data.folders import ClevrTex, ImageFolder, holds_clevrtex
from slotlab.data.packed import SETTINGS, Packed
from slotlab.data.photographs import Bsds, Davis, Voc, VocClasses, holds_photographs
from slotlab.data.sample import SlotDataset
from slotlab.data.scenes import Scenes
from slotlab.data.shards import Shards, holds_shards
from slotlab.data.tfrecords import TfRecords, tfrecord_files
from slotlab.errors import ConfigError, DataError, nearest

KINDS: dict[str, type] = {
    "clevrtex": ClevrTex,
    "images": ImageFolder,
    "coco": Coco,
    "coco-classes": CocoClasses,
    "coco-panoptic": CocoPanoptic,
    "voc": Voc,
    "voc-classes": VocClasses,
    "davis": Davis,
    "bsds": Bsds,
    "tfrecords": TfRecords,
    "shards": Shards,
    "hdf5": Hdf5,
    "npz": Npz,
    "hub": Hub,
    "packed": Packed,
    "scenes": Scenes,
}
WITHOUT_PATH = ("scenes", "hub")
ACCEPTED = (
    "accepted are a CLEVRTex tree (CLEVRTEX_<variant>_<six digits>.png and ..._flat.png), images/ with or without "
    "masks/ (also images/train, images/val), a folder of images, an HDF5 file, a folder of save_to_disk, a packed "
    "cache, COCO (annotations/instances_*.json, or its JSON file), PASCAL VOC, DAVIS, BSDS500, TFRecords, NumPy files, "
    "shards *.tar, or scenes:<variant> (docs/data.md)"
)


def open_data(
    spec: str | Path,
    *,
    split: str = "train",
    resolution: int | None = None,
    crop: float | None = None,
    count: int | None = None,
    skip_broken: bool = False,
    ignore: int | None = None,
    **options: Any,
) -> SlotDataset:
    """Opens a data set.

    Args:
        spec: a path, whose kind is recognised by its content; `kind:PATH` to force one of
            `slotlab.data.KINDS`; `scenes:VARIANT` to render; `hub:owner/name` to download.
        split: train, val, test or all.
        resolution: side of the square images in pixels; None keeps the size of the crop.
        crop: side of the centred square as a fraction of the shorter side; by default 0.8 for
            CLEVRTex and 1.0 for others.
        count: use the first `count` samples of the split.
        skip_broken: replace a broken image by the next readable one and list it in `.broken`.
        ignore: the id of pixels that scores leave out, such as 255; they become -1 in masks.
        **options: the kind's options: `variant` (clevrtex), `image` and `mask` (hdf5, npz, hub, shards),
            `images` (of coco: the folder of the images), `stuff` (coco-panoptic),
            `annotator` (bsds), `seed`, `min_objects`, `max_objects`, `supersample` (scenes).

    Raises:
        DataError: there is no data set or no such split; the message names folder and remedy.
        ConfigError: an option is unknown or out of its range.

    Example:
        >>> import slotlab
        >>> data = slotlab.open_data("scenes:plain", split="val", resolution=32, count=5)
        >>> sample = data[0]
        >>> len(data), tuple(sample["image"].shape), sample["mask"].dtype
        (5, (3, 32, 32), torch.int64)
    """
    resolution, count, ignore = _whole("resolution", resolution), _whole("count", count), _whole("ignore", ignore)
    kind, target = recognise(spec)
    chosen = KINDS[kind]
    known = [name for name in list(inspect.signature(chosen).parameters)[1:] if name != "opening"]
    for option in options:
        if option not in known:
            raise ConfigError(f"{option}: no option of {kind} data{nearest(option, known)}")
    common = {"split": split, "resolution": resolution, "crop": crop, "count": count, "skip_broken": skip_broken}
    return chosen(target, **common, ignore=ignore, **options)


def _whole(name: str, value: Any) -> int | None:
    """`value` as an int, if it is a whole number of any type."""
    try:
        return None if value is None else operator.index(value)
    except TypeError:
        raise ConfigError(f"{name}={value!r}: expected a whole number") from None


def recognise(spec: str | Path) -> tuple[str, str]:
    """The kind of data set that a spec names, and its path, variant or hub name."""
    text = str(spec)
    forced = re.fullmatch(r"([A-Za-z][\w-]+):(.+)", text)
    if forced is not None and not Path(text).exists():
        kind, target = forced.groups()
        if kind not in KINDS:
            raise DataError(f"{text}: unknown kind of data {kind!r}{nearest(kind, KINDS)}")
        if kind not in WITHOUT_PATH and not Path(target).exists():
            raise DataError(f"{target}: no such file or folder; {ACCEPTED}")
        return kind, target
    path = Path(text)
    if not path.exists():
        hint = f" (did you mean {text}:textured?)" if text == "scenes" else ""
        raise DataError(f"{path}: no such file or folder{hint}; {ACCEPTED}")
    if path.is_file():
        if is_hdf5(path):
            return "hdf5", text
        if holds_coco(path):
            return "coco", text
        if ".tfrecord" in path.name:
            return "tfrecords", text
        if holds_numpy(path):
            return "npz", text
        if holds_shards(path):
            return "shards", text
        raise DataError(f"{path}: a file, but not HDF5, JSON, *.npz, *.tar or *.tfrecord*; {ACCEPTED}")
    if (path / SETTINGS).is_file():
        return "packed", text
    if holds_saved_dataset(path):
        return "hub", text
    if holds_numpy(path):
        return "npz", text
    for kind, of_kind in (("coco", Coco), ("coco-panoptic", CocoPanoptic)):
        if holds_coco(path, of_kind.task):
            return kind, text
    known = holds_photographs(path)
    if known is not None:
        return known, text
    if (path / "images").is_dir():
        unpacked_there = not (path / "masks").is_dir() and holds_clevrtex(path / "images", with_masks=True)
        return "clevrtex" if unpacked_there else "images", text
    if holds_clevrtex(path):
        return "clevrtex", text
    if image_files(path, nested=False):
        return "images", text
    if tfrecord_files(path):
        return "tfrecords", text
    if holds_shards(path):
        return "shards", text
    inside = sorted(found.name for found in path.iterdir())
    said = f"holds no data set ({', '.join(inside[:5])}{' ...' if len(inside) > 5 else ''})" if inside else "is empty"
    raise DataError(f"{path}: the folder {said}; {ACCEPTED}")
