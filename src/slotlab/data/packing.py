"""Writing the packed cache that `packed.py` reads."""

import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slotlab.data.dataset import BrokenFile, PixelDataset
from slotlab.data.images import to_batch, to_pixels
from slotlab.data.loading import in_order
from slotlab.data.open import open_data
from slotlab.data.packed import FORMAT, SETTINGS, VERSION
from slotlab.data.sample import IGNORED, FeatureEncoder, LatentEncoder, SlotDataset
from slotlab.data.scenes import DEFAULT_COUNT, MOST
from slotlab.data.video import Clips
from slotlab.errors import ConfigError, DataError, nearest
from slotlab.files import is_free, replacing, sha256_of, write_json
from slotlab.progress import Stage, in_steps, stage

AT_ONCE = 64  # scenes rendered, or images encoded


@in_steps
def pack(
    source: str | Path | SlotDataset,
    out: str | Path,
    *,
    resolution: int | None = None,
    crop: float | None = None,
    count: int | Mapping[str, int] | None = None,
    skip_broken: bool = False,
    latents: LatentEncoder | None = None,
    features: FeatureEncoder | None = None,
    **options: Any,
) -> Generator[Stage, None, Path]:
    """Writes a packed cache of a data set, with all its splits; replaces an older cache there.

    The folder is written whole or not at all.

    Args:
        source: a spec as for `open_data`, or an open data set, of which only its split is packed.
        out: the folder to make.
        resolution: side of the packed images; needed if the data set has images of several sizes.
        crop: fraction of the shorter side; by default CLEVRTex 0.8, others 1.0.
        count: at most this many images of each split (of rendered scenes at most 1,000 for
            validation and test). A mapping names the splits to pack.
        skip_broken: leave broken images out and list them in `packed.json`, instead of raising.
        latents: an autoencoder for images of this size; its latents are packed too
            (`batch["latents"]`).
        features: a frozen network for images of this size; its features are packed too, in float16
            (`batch["features"]`).
        **options: for `open_data`, such as `seed` for scenes.

    Raises:
        ConfigError: `count` names a split that the data set does not have.
        DataError: an image is broken, `out` is not a packed cache, or the disk is full.
        ValueError: `latents` takes images of another size.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     packed = pack("scenes:plain", Path(folder) / "packed", resolution=16, count=2)
        ...     len(open_data(packed, split="train"))
        2
    """
    out = Path(out)
    if not is_free(out) and not (out / SETTINGS).is_file():
        raise DataError(f"{out}: exists and is not a packed cache; name a new folder")
    options |= {"resolution": resolution, "crop": crop}
    if isinstance(source, str | Path):
        parts, facts = _open_splits(source, count, {"skip_broken": skip_broken} | options)
    elif count is None and all(value is None for value in options.values()):
        facts = source.describe()
        parts = {facts["split"]: source}
    else:
        raise ConfigError("resolution, crop, count and options belong to a spec; open the data set with them")
    try:
        with replacing(out) as folder:
            folder.mkdir()
            total = sum(len(part) for part in parts.values())
            settings = yield from stage("packing", total, _write_images(folder, parts, facts, skip_broken))
            if latents is not None:
                settings["latents"] = latents.fingerprint()
                steps = _write_encoded(folder / "latents.npy", latents.encode, np.float32)
                yield from stage("encoding", settings["count"], steps)
            if features is not None:
                settings["features"] = features.fingerprint()
                steps = _write_encoded(folder / "features.npy", features.raw, np.float16)
                yield from stage("features", settings["count"], steps)
            settings["arrays"] = {}
            for path in sorted(folder.glob("*.npy")):
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                settings["arrays"][path.name] = {
                    "shape": list(array.shape),
                    "dtype": array.dtype.str,
                    "bytes": path.stat().st_size,
                    "sha256": sha256_of(path),
                }
            write_json(folder / SETTINGS, settings)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error}); free space or name another folder") from error
    return out


def _open_splits(
    source: str | Path, count: int | Mapping[str, int] | None, options: dict[str, Any]
) -> tuple[dict[str, SlotDataset], dict[str, Any]]:
    """The splits to pack, and how the whole data set describes itself."""
    whole: Any = open_data(source, split="all", **options)
    if whole.kind == "packed":
        raise DataError(f"{source}: is packed already; name the data set it was made from")
    splits = [name for name, rows in whole.splits.items() if rows] or ["all"]
    if count is not None and not isinstance(count, Mapping) and whole.kind == "scenes":
        most = DEFAULT_COUNT | {"train": MOST["train"]}
        count = {name: min(count, most[name]) for name in splits}
    counts = count if isinstance(count, Mapping) else dict.fromkeys(splits, count)
    for name in counts:
        if name not in splits:
            raise ConfigError(f"count: {source} has no split {name!r}{nearest(name, splits)}")
    chosen = [name for name in splits if name in counts]
    return {name: open_data(source, split=name, count=counts[name], **options) for name in chosen}, whole.describe()


def _write_images(
    folder: Path, parts: Mapping[str, SlotDataset], facts: dict[str, Any], skip_broken: bool
) -> Generator[int, None, dict[str, Any]]:
    """Writes images.npy, masks.npy and indices.npy; returns the settings, except `arrays`."""
    total, most_objects = sum(len(part) for part in parts.values()), 0
    masked = [name for name, part in parts.items() if part.has_masks]
    images, masks, ids_type = folder / "images.npy", folder / "masks.npy", np.uint8
    indices: list[int] = []
    splits: dict[str, list[int]] = {}
    broken: list[BrokenFile] = []
    shape: Any = ()
    for split, part in parts.items():
        start = len(indices)
        for name, found in _decoded(part):
            yield 1
            if isinstance(found, DataError):
                if not skip_broken:
                    raise found
                broken.append(BrokenFile(name, str(found)))
                continue
            number, image, mask = found
            if not indices:
                shape = image.shape
                _check_space(folder, total * image[..., 0].size * (4 if masked else 3))
            if image.shape != shape:
                sizes = f"{image.shape[-2]}x{image.shape[-3]} after {shape[-2]}x{shape[-3]}"
                raise DataError(f"{name}: images of mixed sizes: {sizes}; pass resolution= to bring all to one size")
            if masked:
                ids = np.zeros(shape[:-1], np.uint8) if mask is None else mask
                low, high = int(ids.min()), int(ids.max())
                if low < IGNORED or high > 32767:
                    raise DataError(f"{name}: mask ids {low}..{high}; a packed cache holds 0..32767: renumber them")
                if (low < 0 or high > 255) and ids_type == np.uint8:
                    ids_type = np.int16
                    if indices:
                        _set_rows(masks, len(indices))
                        np.save(masks, np.load(masks).astype(ids_type))
                _append(masks, ids[None].astype(ids_type))
                most_objects = max(most_objects, len(np.unique(ids[ids > 0])))
            _append(images, image[None])
            indices.append(number)
        splits[split] = [start, len(indices)]
    if not indices:
        raise DataError(f"{facts['data']}: not one readable image; run `slotlab data check` on it")
    for path in (images, masks) if masked else (images,):
        _set_rows(path, len(indices))
    np.save(folder / "indices.npy", np.array(indices, dtype=np.int64))
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": {key: value for key, value in facts.items() if key not in ("split", "count", "broken")},
        "resolution": shape[-2],
        **({"frames": shape[0]} if len(shape) == 4 else {}),
        "crop": facts["crop"],
        "count": len(indices),
        "splits": {} if set(splits) == {"all"} else splits,
        "masked_splits": masked,
        "max_objects": most_objects,
        "broken": [list(file) for file in broken],
    }


@torch.inference_mode()
def _write_encoded(path: Path, encode: Callable[[Tensor], Tensor], dtype: Any) -> Generator[int, None, None]:
    folder = path.parent
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    for start in range(0, len(images), AT_ONCE):
        pixels = np.asarray(images[start : start + AT_ONCE])
        encoded = encode(to_batch(pixels, None, range(len(pixels)))["image"]).float().cpu().numpy().astype(dtype)
        if not start:
            _check_space(folder, encoded[0].nbytes * len(images))
        _append(path, encoded)
        yield len(pixels)
    _set_rows(path, len(images))


def _decoded(part: SlotDataset) -> Iterator[tuple[str, DataError | tuple[int, Any, Any]]]:
    """Of each image its name and number, pixels and ids (None without masks); or the error."""
    if isinstance(part, PixelDataset):

        def decode(row: int) -> tuple[str, DataError | tuple[int, Any, Any]]:
            try:
                decoded = part.pixels(row)
            except DataError as error:
                return part.name(row), error
            return part.name(row), (part.number(row), decoded.image, decoded.mask)

        yield from in_order(decode, part.rows)
        return
    at_once = 1 if isinstance(part, Clips) else AT_ONCE  # frames before the crop may be large
    for start in range(0, len(part), at_once):
        batch = part.batch(range(start, min(start + at_once, len(part))))
        images, masks = to_pixels(batch)
        for i, number in enumerate(batch["index"].tolist()):
            yield f"scene {number}", (number, images[i], None if masks is None else masks[i])


def _check_space(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if need > free:
        raise DataError(
            f"{folder.parent}: packing needs {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free space or "
            "name another folder"
        )


def _append(path: Path, rows: np.ndarray) -> None:
    """Adds rows to a .npy file, whose header says how many only after `_set_rows`."""
    if not path.exists():
        return np.save(path, rows)
    with path.open("ab") as file:
        file.write(np.ascontiguousarray(rows).data)


def _set_rows(path: Path, count: int) -> None:
    with path.open("r+b") as file:  # NumPy pads the header, so its length stays
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        file.seek(0)
        header = {"descr": dtype.str, "fortran_order": False, "shape": (count, *shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
