"""Folders of images taken apart into files, a batch at a time; an interrupted run goes on where it stopped."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from slotlab.atomic import remove, replacing
from slotlab.composition.fingerprint import fingerprint
from slotlab.data.parallel import in_order
from slotlab.errors import ConfigError, DataError
from slotlab.models import Model, SlotModel, with_slots
from slotlab.processes import from_all, place_among_processes, wait_for_all
from slotlab.segmenting.files import made_from, slots_file, write_files
from slotlab.segmenting.fitting import Fitting, fitting
from slotlab.segmenting.image import Parts, checked_source, take_apart
from slotlab.segmenting.listing import Listing, Outcome
from slotlab.segmenting.reading import read_upright
from slotlab.segmenting.sources import Source, find_sources

SETTINGS_FILE, LISTING_FILE = "segments.json", "segments.csv"
FORMAT, VERSION = "slotlab-segments", 1
LONGEST_NAME = 220  # bytes: file systems allow 255, and outputs add a suffix, and while they are written a number


@dataclass(frozen=True, eq=False)
class _Seen:
    """A source on its way: its square, then its parts; or why there is nothing to do with it any more."""

    source: Source
    fitted: Fitting | None = None
    square: np.ndarray | None = None
    parts: Parts | None = None
    outcome: Outcome | None = None


def segment(
    model: Model,
    images: str | Path | Iterable[str | Path],
    *,
    out: str | Path,
    fit: str = "letterbox",
    mask_source: str | None = None,
    seed: int = 0,
    batch_size: int = 32,
    on_start: Callable[[int], None] | None = None,
    on_image: Callable[[Outcome], None] | None = None,
) -> Listing:
    """Takes images apart and writes for each its reconstruction, masks, segmentation, overlay and slots into `out`.

    Memory holds one batch of small squares, and per thread one image at its own size, however many images there are.
    An image that cannot be read is skipped and listed. An image whose outputs are there, and are no older than it,
    is kept as it is, so that an interrupted call is gone on with by the same call. Several processes share the images.

    Args:
        model: with slots, from `slotlab.load`; put into evaluation mode for the time.
        images: a file or folder, or several; folders with all that is below them, which is mirrored in `out`.
        out: a folder of its own, new, empty, or begun before with images of the same folder, the same model and
            options. It gets `segments.json` (the images' common folder, model and options), `segments.csv` (what
            became of each image), and the files of `docs/segment.md`.
        fit: how an image becomes the square that the model takes: "letterbox", "stretch" or "crop", see
            `slotlab.segmenting.fitting`.
        mask_source: "masks", "attention" or "posterior"; by default the model's finest, see `segment_image`.
        seed: of the initial slots, and of the noise of samples; the same for each image.
        batch_size: images at a time.
        on_start: told the number of images (of this process) before the first.
        on_image: told what became of each image.

    Raises:
        CheckpointError: a model without slots, or whose slots are not finite.
        ConfigError: an unknown option, a value out of range, outputs that would mix with inputs or with each other, or
            `out` holds something else.
        DataError: an image or folder is missing, a folder has no images, or no image at all can be read.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name}: must be {least} or more, not {value}")
    slot_model, out = with_slots(model), Path(out)
    source_of_masks = checked_source(slot_model, mask_source, fit)
    sources = find_sources(images, out, slot_model.slots)
    described = {"fingerprint": fingerprint(model), "resolution": slot_model.resolution, **model.describe()}
    protocol: dict[str, Any] = {"fit": fit, "mask_source": source_of_masks, "seed": seed, "model": described}
    beginning = {"format": FORMAT, "version": VERSION, "input folder": str(sources[0].folder)}
    settings = json.loads(json.dumps(beginning | protocol))
    _check_folder(out, settings)
    place = place_among_processes()
    wait_for_all()  # all have checked the folder before the first writes to it
    if place.is_first:
        _begin(out, settings)
    wait_for_all()
    mine = [sources[number] for number in place.share(len(sources))]
    if on_start is not None:
        on_start(len(mine))
    threads = torch.get_num_threads()
    outcomes: list[Outcome] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such images are listed
        read = in_order(lambda source: _read(source, out, fit, slot_model.resolution), mine, threads)
        taken = _taken_apart(slot_model, read, batch_size, source_of_masks, seed)
        for outcome in in_order(lambda seen: _write(seen, out), taken, threads):
            outcomes.append(outcome)
            if on_image is not None:
                on_image(outcome)
    listing = Listing(protocol, from_all(outcomes))
    if place.is_first:
        listing.write_csv(out / LISTING_FILE)
    if len(listing.skipped) == len(sources):
        first = listing.outcomes[0]
        raise DataError(
            f"none of the {len(sources)} images can be read; see {out / LISTING_FILE}. {first.image}: {first.reason}"
        )
    return listing


def _read(source: Source, out: Path, fit: str, resolution: int) -> _Seen:
    done = slots_file(out / source.name)
    if len(os.fsencode(done.stem)) > LONGEST_NAME:
        long = f"its name has more than {LONGEST_NAME} bytes, too long for outputs to add to it; rename it"
        return _Seen(source, outcome=_skipped(source, DataError(long)))
    try:
        if made_from(out / source.name, source.path):
            return _Seen(source, outcome=Outcome(str(source.path), source.name, "kept"))
        pixels = read_upright(source.path)
    except (DataError, OSError) as error:
        return _Seen(source, outcome=_skipped(source, error))
    fitted = fitting(fit, (pixels.shape[1], pixels.shape[0]), resolution)
    return _Seen(source, fitted, fitted.into_square(pixels))


def _taken_apart(
    model: SlotModel, read: Iterator[_Seen], batch_size: int, mask_source: str, seed: int
) -> Iterator[_Seen]:
    """The sources with their parts, in order; the model runs when a batch of squares has come together."""
    waiting: list[_Seen] = []

    def flushed() -> Iterator[_Seen]:
        squares = [seen.square for seen in waiting if seen.square is not None]
        parts = iter(take_apart(model, np.stack(squares), mask_source, seed) if squares else ())
        for seen in waiting:
            yield seen if seen.square is None else _Seen(seen.source, seen.fitted, parts=next(parts))
        waiting.clear()

    for seen in read:
        waiting.append(seen)
        if len(waiting) >= batch_size:
            yield from flushed()
    yield from flushed()


def _write(seen: _Seen, out: Path) -> Outcome:
    """Writes the files of an image, which is read once more: keeping whole batches at full size could fill memory."""
    if seen.parts is None or seen.fitted is None:
        assert seen.outcome is not None
        return seen.outcome
    try:
        pixels = read_upright(seen.source.path)
    except DataError as error:
        return _skipped(seen.source, error)
    if pixels.shape[1::-1] != seen.fitted.size:
        return _skipped(seen.source, DataError("it changed while it was read"))
    write_files(pixels, seen.parts, seen.fitted, out / seen.source.name, seen.source.path)
    return Outcome(str(seen.source.path), seen.source.name, "written")


def _skipped(source: Source, error: Exception) -> Outcome:
    return Outcome(str(source.path), source.name, "skipped", str(error).removeprefix(f"{source.path}: "))


def _check_folder(out: Path, settings: dict[str, Any]) -> None:
    """Raises a ConfigError if `out` holds something else than what these settings give."""
    path = out / SETTINGS_FILE
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            other = sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key))
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: not readable ({error}); segment into a new folder") from None
        if other:
            raise ConfigError(f"{out}: was written with another {' and '.join(other)}; give another --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: holds something else than segments; name a new folder")


def _begin(out: Path, settings: dict[str, Any]) -> None:
    for left in out.rglob(".*.tmp"):  # of a process that was killed while it wrote
        remove(left)
    with replacing(out / SETTINGS_FILE) as path:
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
