"""One way to open any data set."""

import inspect
import operator
import re
from pathlib import Path
from typing import Any

from slotlab.data.arrays import Hdf5, Hub, Npz
from slotlab.data.coco import Coco, CocoClasses, CocoPanoptic, YoutubeVis
from slotlab.data.dataset import RowsDataset
from slotlab.data.folders import ClevrTex, ImageFolder
from slotlab.data.packed import Packed
from slotlab.data.photographs import Bsds, Davis, Voc, VocClasses
from slotlab.data.sample import SlotDataset
from slotlab.data.scenes import Scenes
from slotlab.data.shards import Shards, TfRecords
from slotlab.data.video import Clips, Films
from slotlab.errors import ConfigError, DataError, nearest

# Files and folders are recognised by their content; the first reader that fits is it.
READERS: tuple[type[RowsDataset], ...] = (
    *(Packed, Clips, Hub, Hdf5, Npz, Coco, CocoClasses, CocoPanoptic, YoutubeVis, Voc, VocClasses, Davis, Bsds),
    *(ClevrTex, ImageFolder, TfRecords, Shards, Films, Scenes),
)
KINDS: dict[str, Any] = {reader.kind: reader for reader in READERS}
WITHOUT_PATH = ("scenes", "hub", "clips")  # after `kind:` there is something other than a path
ACCEPTED = (
    "accepted are a CLEVRTex tree (CLEVRTEX_<variant>_<six digits>.png and ..._flat.png), images/ with or without "
    "masks/ (also images/train, images/val), a folder of images, an HDF5 file, a folder of save_to_disk, a packed "
    "cache, COCO (annotations/instances_*.json, or its JSON file), PASCAL VOC, DAVIS, YouTube-VIS, BSDS500, TFRecords, "
    "NumPy files, shards *.tar, films (mp4, ...), or scenes:<variant> (docs/data.md)"
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
    mask_resolution: int | str | None = None,
    every_mask: bool = False,
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
        mask_resolution: side of the masks, if it differs from that of the images: pixels, or
            "original" for that of the crop in the stored image. Rendered and packed masks have one.
        every_mask: batches also have `classes` (coco, voc) or `annotators` (bsds).
        **options: the kind's options: `variant` (clevrtex), `image` and `mask` (hdf5, npz, hub,
            shards), `images` (coco: the folder of the images), `overlaps` (coco), `stuff`
            (coco-panoptic), `annotator` (bsds), `seed`, `min_objects`, `max_objects`, `supersample`
            (scenes), `frames` (of scenes:moving and clips), `stride` (clips).

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
            raise ConfigError(
                f"{option}: no option of {kind} data{nearest(option, known) if known else '; leave it out'}"
            )
    common = {"split": split, "resolution": resolution, "crop": crop, "count": count, "skip_broken": skip_broken}
    common |= {"mask_resolution": mask_resolution, "every_mask": every_mask}
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
    for reader in READERS:
        if reader.is_in(path):
            return (Clips.kind, f"{Films.kind}:{text}") if reader is Films else (reader.kind, text)
    if path.is_file():
        raise DataError(f"{path}: a file, but not HDF5, JSON, *.npz, *.tar, *.tfrecord* or a film; {ACCEPTED}")
    inside = sorted(found.name for found in path.iterdir())
    said = f"holds no data set ({', '.join(inside[:5])}{' ...' if len(inside) > 5 else ''})" if inside else "is empty"
    raise DataError(f"{path}: the folder {said}; {ACCEPTED}")
