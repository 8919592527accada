"""One way to open any data set, and one to read it whole: what is in it, and what is broken."""

import inspect
import operator
import re
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slotlab.data.arrays import Hdf5, Hub, Npz
from slotlab.data.coco import Coco, CocoClasses, CocoPanoptic, YoutubeVis
from slotlab.data.dataset import BrokenFile, PixelDataset, RowsDataset
from slotlab.data.folders import ClevrTex, ImageFolder
from slotlab.data.images import Decoded, notes_on, square, to_pixels
from slotlab.data.loading import in_order
from slotlab.data.packed import Packed
from slotlab.data.photographs import Bsds, Davis, Voc, VocClasses
from slotlab.data.sample import SlotDataset
from slotlab.data.scenes import Scenes
from slotlab.data.shards import Shards, TfRecords
from slotlab.data.video import Clips, Films
from slotlab.errors import ConfigError, DataError, nearest
from slotlab.progress import Stage, in_steps

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


@dataclass
class DataCheck:
    """What `check_data` found.

    Attributes:
        splits: images (or clips) in each split; empty if the data set has none.
        count: images; of clips, their frames.
        clips: whether these are clips.
        masks: images that have a mask.
        sizes: images by their stored size, such as "40x30".
        modes: images by Pillow's name for how they store pixels.
        objects: images by their number of distinct ids above 0.
        objects_cropped: the same after the crop.
        gaps: masks whose ids are not 1..n, which is allowed.
        ignored: masks with pixels to be ignored.
        notes: images by what may have been read otherwise than was meant.
    """

    data: str
    kind: str
    splits: dict[str, int]
    count: int
    clips: bool = False
    masks: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    crop: float = 1.0
    objects: dict[int, int] = field(default_factory=dict)
    objects_cropped: dict[int, int] = field(default_factory=dict)
    gaps: int = 0
    ignored: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    broken: list[BrokenFile] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything could be read."""
        return not self.broken


class _Found(NamedTuple):
    """What is kept of an image: images themselves would fill the memory."""

    broken: list[BrokenFile]
    size: str = ""  # "" if it cannot be read
    mode: str = ""
    notes: list[str] = []  # noqa: RUF012
    ids: np.ndarray | None = None  # above 0, in the mask
    cropped: np.ndarray = np.empty(0)  # and in its crop
    ignored: bool = False


@in_steps
def check_data(spec: str | Path, **options: Any) -> Generator[Stage, None, DataCheck]:
    """Reads every image and mask of a data set, and reports what is there.

    Args:
        spec: as for `open_data`.
        **options: for `open_data`.

    Raises:
        DataError: there is no data set at all; broken images are listed, they do not raise.

    Example:
        >>> found = check_data("scenes:plain", count=2, resolution=32)
        >>> found.count, found.masks, found.sizes, found.ok
        (6, 6, {'32x32': 6}, True)
    """
    opening: dict[str, Any] = {"split": "all", "skip_broken": True} | options
    whole: Any = open_data(spec, **opening)
    splits = {name: len(rows) for name, rows in whole.splits.items()}
    dataset: Any = getattr(whole, "of_frames", whole)  # each frame of clips
    facts = dataset.describe()
    frames = dataset.settings.frames if isinstance(dataset, Packed) else facts.get("frames")
    result = DataCheck(str(spec), whole.kind, splits, len(dataset) * (frames or 1), crop=facts["crop"])
    result.clips = dataset is not whole or frames is not None
    result.broken += dataset.broken
    if isinstance(dataset, Packed):
        result.broken += dataset.verify()
    sizes, modes, notes = Counter[str](), Counter[str](), Counter[str]()
    objects, cropped = Counter[int](), Counter[int]()
    if isinstance(dataset, PixelDataset):
        dataset.unseen = 0  # notes are counted here, not warned of
        images = _stored(dataset)
    elif dataset.has_masks or opening["split"] != "all":
        images = _batched(dataset)
    else:  # some of its splits may have masks
        parts = (open_data(spec, **dict[str, Any](opening, split=name)) for name in splits or ["all"])
        images = chain.from_iterable(map(_batched, parts))
    for done, found in enumerate(images, 1):
        yield f"reading {spec}", done, result.count
        known = {file.file for file in result.broken}
        result.broken += [file for file in found.broken if file.file not in known]
        if not found.size:
            continue
        sizes[found.size] += 1
        modes[found.mode] += 1
        notes.update(found.notes)
        if found.ids is not None:
            result.masks += 1
            objects[len(found.ids)] += 1
            cropped[len(found.cropped)] += 1
            result.gaps += int(found.ids.max(initial=0)) != len(found.ids)
            result.ignored += found.ignored
    result.notes = dict(notes)
    result.sizes, result.modes = dict(sizes.most_common()), dict(modes.most_common())
    result.objects, result.objects_cropped = dict(sorted(objects.items())), dict(sorted(cropped.items()))
    return result


def _stored(dataset: PixelDataset) -> Iterator[_Found]:
    def read(position: int) -> _Found:
        row = dataset.rows[position]
        broken: list[BrokenFile] = []
        if isinstance(dataset, ClevrTex) and (metadata := dataset.paths[row].with_suffix(".json")).exists():
            try:
                dataset.metadata(position)
            except DataError as error:
                broken.append(BrokenFile(str(metadata), str(error)))
        try:
            return _counted(dataset.checked(row), dataset.crop, broken)
        except DataError as error:
            return _Found([*broken, BrokenFile(dataset.name(row), str(error))])

    return in_order(read, range(len(dataset)))


def _batched(dataset: Any) -> Iterator[_Found]:
    for start in range(0, len(dataset), 64):
        batch = dataset.batch(range(start, min(start + 64, len(dataset))))
        if batch["image"].ndim == 5:  # each frame of clips
            batch |= {name: batch[name].flatten(0, 1) for name in batch.keys() & {"image", "mask"}}
        images, masks = to_pixels(batch)
        for i, image in enumerate(images):
            yield _counted(Decoded(image, None if masks is None else masks[i], "uint8"), 1.0, [])


def _counted(decoded: Decoded, crop: float, broken: list[BrokenFile]) -> _Found:
    height, width = decoded.image.shape[:2]
    found = _Found(broken, f"{width}x{height}", decoded.mode, notes_on(decoded))
    if decoded.mask is None:
        return found
    masks = (decoded.mask, np.asarray(square(decoded, crop=crop, resolution=None).mask))
    ids, cropped = (np.unique(mask[mask > 0]) for mask in masks)
    return found._replace(ids=ids, cropped=cropped, ignored=bool((decoded.mask < 0).any()))
