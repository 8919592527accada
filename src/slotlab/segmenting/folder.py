"""Folders of images taken apart into files, a batch at a time; an interrupted run goes on where it stopped."""

import csv
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slotlab.data.folders import IMAGE_SUFFIXES, image_files
from slotlab.data.images import read_upright
from slotlab.data.loading import in_order
from slotlab.distributed import from_all, place_among_processes, wait_for_all
from slotlab.errors import ConfigError, DataError
from slotlab.figures.grid import write_png
from slotlab.files import remove, replacing
from slotlab.models import Model, SlotModel, with_slots
from slotlab.models.fingerprint import fingerprint
from slotlab.segmenting.image import (
    NO_SLOT,
    Fitting,
    Parts,
    checked_source,
    fitting,
    overlay_picture,
    owners_of,
    palette_picture,
    take_apart,
)

SEGMENTATION, OVERLAY = "_segmentation", "_overlay"


@dataclass(frozen=True)
class Source:
    """An image file, and the name of its outputs: its path below `folder`, common to all images, without suffix."""

    path: Path
    name: str
    folder: Path


def find_sources(images: str | Path | Iterable[str | Path], out: Path, slots: int) -> list[Source]:
    """The images that files and folders name, each once, in that order; folders with all that is below them, sorted.

    Args:
        images: files (of any kind: what is no image is found out later) and folders.
        out: where the outputs go.
        slots: of the model, which decides the names of the outputs.

    Raises:
        DataError: a file or folder is missing, a folder has no images, or has masks beside them.
        ConfigError: images and outputs would mix, or two images would write the same file.
    """
    given = [Path(one) for one in ([images] if isinstance(images, str | Path) else images)]
    found: dict[Path, Path] = {}
    for path in given:
        for file in _files(path):
            found.setdefault(file.resolve(), file)
    if not found:
        raise DataError("no images: name image files, or folders that hold some")
    folders = [(path if path.is_dir() else path.parent).resolve() for path in given]
    _check_apart(out.resolve(), [path.resolve() for path in given if path.is_dir()], list(found))
    common = Path(os.path.commonpath(folders))
    names = [(file.parent.resolve() / file.stem).relative_to(common).as_posix() for file in found.values()]
    sources = [Source(path, name, common) for path, name in zip(found.values(), names, strict=True)]
    _check_names(sources, slots)
    return sources


def mask_suffix(slot: int) -> str:
    """What follows an image's name in the file of a slot's mask."""
    return f"_{slot}"


def _files(path: Path) -> Sequence[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    files = image_files(path, nested=True)
    if not files:
        raise DataError(f"{path}: no image file in this folder or below it ({', '.join(IMAGE_SUFFIXES)})")
    masks = [file for file in files if file.stem.endswith("_flat") or _in_masks(file.relative_to(path), path)]
    if masks:
        raise DataError(
            f"{masks[0]}: a mask, not an image; name a folder without masks, such as images/ beside masks/, or the "
            f"image files themselves"
        )
    return files


def _in_masks(relative: Path, folder: Path) -> bool:
    """Whether a file lies in masks/ beside images/, the layout of image folders."""
    return relative.parts[0] == "masks" and (folder / "images").is_dir()


def _check_apart(out: Path, folders: Sequence[Path], files: Sequence[Path]) -> None:
    """Raises a ConfigError if the outputs would lie among the images, or images among the outputs."""
    around = [folder for folder in folders if out == folder or folder in out.parents]
    inside = [file for file in files if out in file.parents]
    if around or inside:
        mixed = f"inside the input folder {around[0]}" if around else f"around the input {inside[0]}"
        raise ConfigError(f"{out}: lies {mixed}, so that outputs and inputs would mix; name another --out")


def _check_names(sources: Sequence[Source], slots: int) -> None:
    """Raises a ConfigError if two images would write the same file (in whatever case of letters)."""
    known: dict[str, Source] = {}
    for source in sources:
        other = known.setdefault(source.name.casefold(), source)
        if other is not source:
            _refuse(other, source, f"{source.name}.png")
    for suffix in (*(mask_suffix(slot) for slot in range(slots)), SEGMENTATION, OVERLAY):
        for name, source in known.items():
            other = known.get(name.removesuffix(suffix)) if name.endswith(suffix) else None
            if other is not None:
                _refuse(other, source, f"{source.name}.png")


def _refuse(one: Source, other: Source, file: str) -> None:
    raise ConfigError(f"{one.path} and {other.path}: both would write {file}; rename one, or give each its own --out")


def write_files(pixels: np.ndarray, parts: Parts, fitted: Fitting, stem: Path, image: Path) -> None:
    """Writes what a model saw in an image, at the image's size; the files of `docs/segment.md`.

    Each is written whole or not at all, `slots_file(stem)` last: where it is, all others are.

    Args:
        pixels: of the upright image, uint8 [H, W, 3].
        parts: of its square.
        fitted: where the image lies in the square.
        stem: path of the outputs, without suffix.
        image: the image's file, whose name is kept, so that an image of another suffix is known as another.
    """

    def written_masks() -> Iterator[Tensor]:
        for slot, mask in enumerate(parts.masks):
            whole = fitted.onto_image(mask)
            write_png(_grey(whole), _beside(stem, f"{mask_suffix(slot)}.png"))
            yield whole

    owners = owners_of(written_masks())
    write_png(palette_picture(owners), _beside(stem, f"{SEGMENTATION}.png"))
    write_png(overlay_picture(pixels, owners), _beside(stem, f"{OVERLAY}.png"))
    painted = Image.merge("RGB", [_grey(fitted.onto_image(plane)) for plane in parts.reconstruction])
    write_png(painted, _beside(stem, ".png"))
    arrays = {
        "slots": parts.slots.numpy(),
        "share": np.bincount(owners.ravel(), minlength=NO_SLOT + 1)[: len(parts.slots)] / owners.size,
        "size": np.array(pixels.shape[1::-1]),
        "image": np.array(image.name),
    }
    if parts.poses is not None:
        arrays["poses"] = parts.poses.numpy()
    with replacing(slots_file(stem)) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def made_from(stem: Path, image: Path) -> bool:
    """Whether all files of `image` are there, and no older than it."""
    last = slots_file(stem)
    if not last.is_file() or last.stat().st_mtime < image.stat().st_mtime:
        return False
    try:
        with np.load(last, allow_pickle=False) as arrays:
            return str(arrays["image"]) == image.name
    except Exception:  # NumPy raises a different kind for each way in which a file is damaged
        return False


def slots_file(stem: Path) -> Path:
    """The last file that is written of an image."""
    return _beside(stem, ".npz")


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _grey(plane: Tensor) -> Image.Image:
    """Values [H, W] in [0, 1] as 8-bit grey."""
    return Image.fromarray((255 * plane).round_().clamp_(0, 255).to(torch.uint8).numpy())


Status = Literal["written", "kept", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    Attributes:
        image: its path.
        name: path of its outputs below the output folder, without suffix.
        status: "written"; "kept", because an earlier call had written it; "skipped", because it cannot be read.
        reason: why it was skipped; else empty.
    """

    image: str
    name: str
    status: Status
    reason: str = ""


@dataclass(frozen=True)
class Listing:
    """What became of all images, in their order.

    Attributes:
        protocol: fit, source of the masks, seed, and what the model says of itself, as JSON values.
        outcomes: one for each image.
    """

    protocol: dict[str, Any]
    outcomes: Sequence[Outcome]

    @property
    def skipped(self) -> list[Outcome]:
        """The images that could not be read."""
        return [outcome for outcome in self.outcomes if outcome.status == "skipped"]

    def count(self, status: Status) -> int:
        """How many images had this outcome."""
        return sum(outcome.status == status for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        """Protocol, counts and all outcomes, as JSON values."""
        counts = {status: self.count(status) for status in ("written", "kept", "skipped")}
        return {"protocol": self.protocol, **counts, "images": [asdict(outcome) for outcome in self.outcomes]}

    def write_csv(self, path: Path) -> None:
        """Writes a row for each image, whole or not at all."""
        columns = [field.name for field in fields(Outcome)]
        with (
            replacing(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(asdict(outcome) for outcome in self.outcomes)


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
            `slotlab.segmenting.image`.
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
