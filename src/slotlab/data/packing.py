"""Writing the packed cache that `packed.py` reads."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slotlab.data.dataset import SPLITS, BrokenFile, PixelDataset
from slotlab.data.images import to_batch, to_pixels
from slotlab.data.loading import in_order
from slotlab.data.open import open_data
from slotlab.data.packed import FORMAT, SETTINGS, VERSION
from slotlab.data.sample import LatentEncoder, SlotDataset
from slotlab.data.scenes import MOST
from slotlab.errors import ConfigError, DataError, nearest
from slotlab.files import replacing, sha256_of

RENDERED_AT_ONCE = 64


def pack(
    source: str | Path | SlotDataset,
    out: str | Path,
    *,
    resolution: int | None = None,
    crop: float | None = None,
    count: int | Mapping[str, int] | None = None,
    skip_broken: bool = False,
    progress: bool = False,
    threads: int | None = None,
    latents: LatentEncoder | None = None,
    **options: Any,
) -> Path:
    """Writes a packed cache of `source` to the folder `out`, with all its splits; an older cache there is replaced.

    The folder appears whole or not at all.

    Args:
        source: a spec as `open_data` takes it, or an open data set (then its own split alone is packed).
        out: the folder to make.
        resolution: side of the packed pictures in pixels; needed where pictures come in several sizes.
        crop: fraction of the shorter side; by default the source's own (CLEVRTex 0.8, others 1.0).
        count: at most so many pictures of each split, all of a split that has fewer; a mapping says it split by split
            and leaves others out.
        skip_broken: leave broken pictures out and list them in `packed.json`, instead of stopping at the first.
        progress: show a progress bar.
        threads: how many pictures to decode at once; by default the number of cores, at most 8.
        latents: an autoencoder for pictures of this size, whose latents are packed as well (`batch["latents"]`).
        **options: passed on to `open_data` (such as `seed` for scenes).

    Raises:
        DataError: if a picture is broken, `out` holds something else than a packed cache, or the disk is full.
        ValueError: if `latents` takes pictures of another size.
    """
    out = Path(out)
    if out.exists() and not (out / SETTINGS).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out}: exists and is not a packed cache; name a new folder")
    if isinstance(source, str | Path):
        common = {"resolution": resolution, "crop": crop, "skip_broken": skip_broken} | options
        whole: Any = open_data(source, split="all", **common)
        if whole.kind == "packed":
            raise DataError(f"{source}: is packed already; name the data set it was made from")
        splits = [name for name in whole.splits if whole.splits[name]] or ["all"]
        if isinstance(count, Mapping):
            for name in count:
                if name not in splits:
                    raise ConfigError(f"count: {source} has no split {name!r}{nearest(name, splits)}")
            chosen: Mapping[str, int | None] = count
        elif whole.kind == "scenes" and count is not None:
            chosen = {name: min(count, MOST[name]) for name in SPLITS}
        else:
            chosen = dict.fromkeys(splits, count)
        parts = {name: open_data(source, split=name, count=chosen[name], **common) for name in splits if name in chosen}
        describes = whole.describe()
    else:
        if (resolution, crop, count, options) != (None, None, None, {}):
            raise ConfigError("resolution, crop, count and options belong to a spec; open the data set with them")
        describes = source.describe()
        parts = {describes["split"]: source}
    try:
        with replacing(out) as folder:
            folder.mkdir()
            with _Array(folder / "images.npy") as images, _Array(folder / "masks.npy") as masks:
                settings = _write(images, masks, parts, describes, skip_broken, progress, threads)
            if latents is not None:
                settings[0]["latents"] = latents.fingerprint()
                _write_latents(folder, latents, progress)
            _finish(folder, settings)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error}); free space or name another folder") from error
    return out


def _write(
    images: "_Array",
    masks: "_Array",
    parts: Mapping[str, SlotDataset],
    source: dict[str, Any],
    skip_broken: bool,
    progress: bool,
    threads: int | None,
) -> tuple[dict[str, Any], list[int]]:
    """Fills the arrays; returns the settings, without what is known of the finished files, and the indices."""
    indices: list[int] = []
    splits: dict[str, list[int]] = {}
    broken: list[BrokenFile] = []
    masked = [name for name, part in parts.items() if part.has_masks]
    total, most_objects = sum(len(part) for part in parts.values()), 0
    with _bar(progress) as bar:
        task = bar.add_task(f"packing {source['data']}", total=total)
        for split, part in parts.items():
            start = len(indices)
            for name, found in _pictures(part, threads):
                bar.advance(task)
                if isinstance(found, DataError):
                    if not skip_broken:
                        raise found
                    broken.append(BrokenFile(name, str(found)))
                    continue
                number, image, mask = found
                _check_room(images, image, name, total)
                images.append(image)
                indices.append(number)
                if masked:
                    mask = np.zeros(image.shape[:2], np.uint8) if mask is None else mask
                    masks.append(_small_ids(mask, name))
                    most_objects = max(most_objects, len(np.unique(mask[mask != 0])))
            splits[split] = [start, len(indices)]
    if not indices:
        raise DataError(f"{source['data']}: not one readable picture; run `slotlab data check` on it")
    images.finish()
    if masked:
        masks.finish()
    settings = {
        "format": FORMAT,
        "version": VERSION,
        "source": {key: source[key] for key in source if key not in ("split", "count", "broken")},
        "resolution": images.shape[0],
        "crop": source["crop"],
        "count": len(indices),
        "splits": {} if set(splits) == {"all"} else splits,
        "masked_splits": masked,
        "max_objects": most_objects,
        "broken": [list(file) for file in broken],
    }
    return settings, indices


@torch.inference_mode()
def _write_latents(folder: Path, encoder: LatentEncoder, progress: bool) -> None:
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    with _Array(folder / "latents.npy") as latents, _bar(progress) as bar:
        task = bar.add_task("encoding", total=len(images))
        for start in range(0, len(images), RENDERED_AT_ONCE):
            pixels = np.asarray(images[start : start + RENDERED_AT_ONCE])
            for one in encoder.encode(to_batch(pixels, None, range(len(pixels)))["image"]).float().cpu().numpy():
                latents.append(one)
            bar.advance(task, len(pixels))
        latents.finish()


def _bar(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, disable=not shown)


def _finish(folder: Path, written: tuple[dict[str, Any], list[int]]) -> None:
    settings, indices = written
    np.save(folder / "indices.npy", np.array(indices, dtype=np.int64))
    settings["arrays"] = {}
    for path in sorted(folder.glob("*.npy")):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        settings["arrays"][path.name] = {
            "shape": list(array.shape),
            "dtype": array.dtype.str,
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")


def _check_room(images: "_Array", image: np.ndarray, name: str, total: int) -> None:
    """Raises unless the picture has the size of those before it, and before the first, unless all will fit the disk."""
    if images.shape and images.shape != image.shape:
        raise DataError(
            f"{name}: images of mixed sizes: {image.shape[1]}x{image.shape[0]} after "
            f"{images.shape[1]}x{images.shape[0]}; pass resolution= to bring all to one size"
        )
    if not images.shape:
        need, free = total * image.size, shutil.disk_usage(images.path.parent).free
        if need > free:
            raise DataError(
                f"{images.path.parent.parent}: packing needs {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free "
                "space or name another folder"
            )


def _pictures(part: SlotDataset, threads: int | None) -> Iterator[tuple[str, DataError | tuple[int, Any, Any]]]:
    """The name of each picture with its number, pixels and ids (None without masks), or with what is wrong with it."""
    if isinstance(part, PixelDataset):

        def decode(position: int) -> tuple[str, DataError | tuple[int, Any, Any]]:
            row = part.rows[position]
            try:
                picture = part.pixels(position)
            except DataError as error:
                return part.name(row), error
            return part.name(row), (part.number(row), picture.image, picture.mask)

        yield from in_order(decode, range(len(part)), threads)
        return
    for start in range(0, len(part), RENDERED_AT_ONCE):
        batch = part.batch(range(start, min(start + RENDERED_AT_ONCE, len(part))))
        images, masks = to_pixels(batch)
        for i, number in enumerate(batch["index"].tolist()):
            yield f"scene {number}", (number, images[i], None if masks is None else masks[i])


def _small_ids(mask: np.ndarray, name: str) -> np.ndarray:
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high > 32767:
        raise DataError(f"{name}: mask ids {low}..{high}; a packed cache holds 0..32767: renumber them")
    return mask.astype(np.uint8 if high <= 255 else np.int16)


class _Array:
    """A .npy file that grows by one picture at a time, and widens from uint8 to int16 when it must."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape: tuple[int, ...] = ()
        self._file: BinaryIO | None = None
        self._count = 0
        self._dtype = np.dtype(np.uint8)

    def append(self, picture: np.ndarray) -> None:
        if self._file is None:
            self.shape, self._dtype = picture.shape, picture.dtype
            self._file = self._begin()
        if picture.dtype.itemsize > self._dtype.itemsize:
            self.finish()
            narrow = np.load(self.path)
            self._dtype, self._count = picture.dtype, len(narrow)
            self._file = self._begin()
            self._file.write(narrow.astype(self._dtype).tobytes())
        self._file.write(picture.astype(self._dtype).tobytes())
        self._count += 1

    def finish(self) -> None:
        if self._file is not None:
            self._file.seek(0)
            self._header(self._file)
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _begin(self) -> BinaryIO:
        file = self.path.open("wb")
        self._header(file)
        return file

    def _header(self, file: BinaryIO) -> None:
        # NumPy pads the header so that the first axis can grow in place: its length does not depend on the count.
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._count, *self.shape)}
        np.lib.format.write_array_header_1_0(file, header)
