"""Segments folders of images into files, a batch at a time; re-running the same command resumes."""

import csv
import itertools
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slotlab.checkpoints import load
from slotlab.data.folders import find_images
from slotlab.data.images import decode_mask, read_image
from slotlab.data.loading import in_order
from slotlab.distributed import from_all, place_among_processes, wait_for_all
from slotlab.errors import ConfigError, DataError
from slotlab.figures.grid import write_png
from slotlab.files import Workspace, replacing
from slotlab.models import Model, with_slots
from slotlab.models.building import fingerprint
from slotlab.progress import in_steps
from slotlab.segmenting.formats import FORMATS, Photo, check_formats
from slotlab.segmenting.image import NO_SLOT, Fitting, Usual, checked_options, drawn, fitting_of, owners_of, take_apart

Images = str | Path | Iterable[str | Path]
Status = Literal["written", "kept", "skipped"]
LISTING_FILE = "segments.csv"
LONGEST_NAME = 220  # bytes: file systems allow 255, and outputs add a suffix and, while written, a number


class Outcome(NamedTuple):
    """What became of one image."""

    image: str
    name: str  # path of its outputs below the output folder, without suffix
    status: Status  # "kept": an earlier call wrote it
    reason: str = ""  # why it was skipped


@dataclass(frozen=True)
class SegmentedFolder:
    """What became of all images, in their order."""

    protocol: dict[str, Any]  # fit, source of the masks, seed and the model's description
    outcomes: Sequence[Outcome]

    @property
    def skipped(self) -> list[Outcome]:
        """The images that cannot be read."""
        return [outcome for outcome in self.outcomes if outcome.status == "skipped"]

    def count(self, status: Status) -> int:
        """How many images had this outcome."""
        return sum(outcome.status == status for outcome in self.outcomes)

    def unusual(self, out: Path, usual: Usual) -> list[str]:
        """The images, written to `out`, that are unlike the model's own test images."""
        names = []
        for outcome in self.outcomes:
            if outcome.status != "skipped":
                with np.load(out / f"{outcome.name}.npz", allow_pickle=False) as arrays:
                    slots = torch.from_numpy(arrays["slots"])
                    if "error" in arrays and not usual.covers(float(arrays["error"]), slots):
                        names.append(outcome.image)
        return names

    def to_json(self) -> dict[str, Any]:
        """Protocol, counts and all outcomes, as JSON values."""
        counts = {status: self.count(status) for status in get_args(Status)}
        return {"protocol": self.protocol, **counts, "images": [outcome._asdict() for outcome in self.outcomes]}


@in_steps
def segment(
    model: Model | str | Path,
    images: Images,
    *,
    out: str | Path,
    fit: str | None = None,
    mask_source: str | None = None,
    seed: int = 0,
    batch_size: int = 32,
    formats: Sequence[str] = (),
    merge: bool = False,
) -> Generator[int, None, SegmentedFolder]:
    """Segments images into files: reconstruction, masks, segmentation, overlay and slots of each.

    Any number of images fits into memory. Images that cannot be read are skipped and listed. Images
    whose outputs are there and no older are kept: re-run the same call to resume. Several processes
    share the images. `segment.steps` yields 1 for each image of this process, then for each in a
    format.

    Args:
        model: any model with slots, or the name or folder of one, as `slotlab.load` takes it; it is
            in evaluation mode while it runs.
        images: a file or folder, or several; subfolders are included and mirrored in `out`.
        out: a new or empty folder, or one written before from the same input folder, with the same
            model and options. It gets `segments.json` (input folder, model, options),
            `segments.csv` (what became of each image), and the files of `docs/segment.md`.
        fit: how an image becomes a square: "letterbox" (the default), "stretch" or "crop", see
            `slotlab.segmenting.fitting`. `photos` sees the whole image and takes none.
        mask_source: "masks", "attention" or "posterior"; by default the model's finest.
        seed: of the initial slots, and of the noise of samples; the same for each image.
        batch_size: images at a time.
        formats: also write the segmentations as cutouts, coco, yolo or labelme, see
            `slotlab.segmenting.formats`; they can be added by a later call.
        merge: make one slot of those that hold one object, and empty those that hold nothing
            (`slotlab.models.merge_slots`).

    Raises:
        CheckpointError: the model cannot be loaded, has no slots, or its slots are not finite.
        ConfigError: an unknown option, a value out of range, a library is missing, outputs that
            would mix with inputs or overwrite each other, or `out` holds something else.
        DataError: an image or folder is missing, a folder has no images, or none can be read.

    Example:
        >>> import tempfile, slotlab
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (9, 6)).save(f"{folder}/photo.png")
        ...     done = slotlab.segment("scenes-64", f"{folder}/photo.png", out=f"{folder}/out")
        >>> done.count("written"), done.protocol["mask_source"]
        (1, 'posterior')
    """
    for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name}: must be {least} or more, not {value}")
    model = load(model) if isinstance(model, str | Path) else model
    slot_model, out, formats = with_slots(model), Path(out), check_formats(formats)
    source, fit = checked_options(slot_model, mask_source, fit)
    given = [Path(one) for one in ([images] if isinstance(images, str | Path) else images)]
    found, common = find_inputs(given)
    _check_places(given, found, out, slot_model.slots)
    described = {"fingerprint": fingerprint(model), "resolution": slot_model.resolution, **model.describe()}
    protocol: dict[str, Any] = {"fit": fit, "mask_source": source, "seed": seed, "model": described}
    protocol |= {"merge": True} if merge else {}
    settings = {"format": "slotlab-segments", "version": 1, "input folder": str(common), **protocol}
    workspace = Workspace(out, "segments.json", settings, "segments")
    workspace.check()
    place = place_among_processes()
    wait_for_all()  # all have checked the folder before the first writes to it
    if place.is_first:
        workspace.begin()
    wait_for_all()
    mine = [list(found.items())[number] for number in place.share(len(found))]
    threads, outcomes = torch.get_num_threads(), []

    def taken_apart() -> Iterator[Work]:
        read = in_order(lambda one: _read(*one, out, lambda size: fitting_of(slot_model, fit, size)), mine, threads)
        while some := list(itertools.islice(read, batch_size)):
            seen = [pixels for _, fitted, pixels in some if fitted]
            parts = iter(take_apart(slot_model, seen, source, seed, merge) if seen else ())
            yield from ((outcome, fitted, next(parts) if fitted else None) for outcome, fitted, _ in some)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such images are listed
        for outcome in in_order(lambda one: _write(*one, out), taken_apart(), threads):
            outcomes.append(outcome)
            yield 1
    result = SegmentedFolder(protocol, from_all(outcomes))
    if place.is_first:
        encoding: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
        with replacing(out / LISTING_FILE) as path, path.open("w", **encoding) as file:
            csv.writer(file).writerows([Outcome._fields, *result.outcomes])
    if len(result.skipped) == len(found):
        listing, first = out / LISTING_FILE, result.outcomes[0]
        some = f"none of the {len(found)} images can be read; see {listing}. " if len(found) > 1 else ""
        raise DataError(f"{some}{first.image}: {first.reason}")
    for name in formats if place.is_first else ():
        yield from FORMATS[name](_photos(result, out), out)
    return result


def _photos(folder: SegmentedFolder, out: Path) -> Iterator[Photo]:
    """The images of a folder that have a segmentation, with it."""
    for outcome in folder.outcomes:
        if outcome.status != "skipped":
            owners = decode_mask(out / f"{outcome.name}_segmentation.png", outcome.name).astype(np.int32)
            yield Photo(Path(outcome.image), outcome.name, np.where(owners == NO_SLOT, -1, owners))


def find_inputs(given: Sequence[Path]) -> tuple[dict[Path, str], Path]:
    """The images in files and folders, with the names of their outputs; and their common folder.

    A name is the image's path below the common folder, without suffix. Folders are listed with all
    their subfolders, sorted.

    Raises:
        DataError: a file or folder is missing, a folder has no images, or has masks beside them.
    """
    found: dict[Path, Path] = {}
    for path in given:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        for file in find_images(path) if path.is_dir() else [path]:
            found.setdefault(Path(os.path.realpath(file)), file)  # no error for a link to itself
    if not found:
        raise DataError("no images: name image files, or folders that hold some")
    common = Path(os.path.commonpath([(path if path.is_dir() else path.parent).resolve() for path in given]))
    names = {file: (file.parent.resolve() / file.stem).relative_to(common).as_posix() for file in found.values()}
    return names, common


def _check_places(given: Sequence[Path], found: dict[Path, str], out: Path, slots: int) -> None:
    """Raises a ConfigError if outputs would mix with images, or two images would write one file."""
    out = out.resolve()
    around = [path for path in given if path.is_dir() and path.resolve() in (out, *out.parents)]
    inside = [file for file in found if out in Path(os.path.realpath(file)).parents]
    if around or inside:
        mixed = f"inside the input folder {around[0]}" if around else f"around the input {inside[0]}"
        raise ConfigError(f"{out}: is {mixed}, so outputs and inputs would mix; name another --out")
    images: dict[str, Path] = {}
    for file, name in found.items():
        images.setdefault(name.casefold(), file)
    endings = {"segmentation", "overlay", *map(str, range(slots))}
    for file, name in found.items():
        stem, _, ending = name.casefold().rpartition("_")
        other = images[name.casefold()]
        if other is file and ending in endings:
            other = images.get(stem, images.get(stem.removesuffix("_cutout"), file))
        if other is not file:
            raise ConfigError(f"{other} and {file}: both would write {name}.png; rename one, or use two output folders")


Work = tuple[Outcome, Fitting | None, Any]  # None: nothing left to do; the pixels that the model sees, later its parts


def _read(image: Path, name: str, out: Path, fit: Callable[[tuple[int, int]], Fitting]) -> Work:
    outcome = Outcome(str(image), name, "written")
    try:
        if len(os.fsencode((out / name).name)) > LONGEST_NAME:
            raise DataError(
                f"its name has more than {LONGEST_NAME} bytes, too long for the names of outputs; rename it"
            )
        if _is_done(out / name, image):
            return outcome._replace(status="kept"), None, None
        pixels = read_image(image)
    except (DataError, OSError) as error:
        return _skipped(outcome, error), None, None
    fitted = fit((pixels.shape[1], pixels.shape[0]))
    return outcome, fitted, fitted.shown(pixels)


def _write(outcome: Outcome, fitted: Fitting | None, parts: Any, out: Path) -> Outcome:
    """Writes the files of an image, each whole or not at all, the `.npz` after all others."""
    if fitted is None:
        return outcome
    (slots, masks, painted), stem, image = parts, out / outcome.name, Path(outcome.image)
    try:
        pixels = read_image(image)  # again: a batch at full size could fill the memory
        if pixels.shape[1::-1] != fitted.size:
            raise DataError("it changed while it was read")
    except DataError as error:
        return _skipped(outcome, error)

    def written_masks() -> Iterator[Tensor]:
        for slot, mask in enumerate(masks):
            whole = fitted.onto_image(mask)
            write_png(_grey(whole), Path(f"{stem}_{slot}.png"))
            yield whole

    owners = owners_of(written_masks())
    for kind, picture in zip(("segmentation", "overlay"), drawn(pixels, owners), strict=True):
        write_png(picture, Path(f"{stem}_{kind}.png"))
    arrays = {"slots": slots.numpy(), "size": np.array(fitted.size)}
    arrays["share"] = np.bincount(owners.ravel(), minlength=NO_SLOT + 1)[: len(slots)] / owners.size
    if painted is not None:
        seen = torch.from_numpy(fitted.shown(pixels)).permute(2, 0, 1) / 255
        arrays["error"] = (painted - seen).square().mean().numpy()
        write_png(Image.merge("RGB", [_grey(fitted.onto_image(plane)) for plane in painted]), Path(f"{stem}.png"))
    with replacing(f"{stem}.npz") as temporary, temporary.open("wb") as file:
        # The name of the image's file tells it from an image of another suffix.
        np.savez(file, image=np.array(image.name), **arrays)
    return outcome


def _skipped(outcome: Outcome, error: Exception) -> Outcome:
    return outcome._replace(status="skipped", reason=str(error).removeprefix(f"{outcome.image}: "))


def _is_done(stem: Path, image: Path) -> bool:
    """Whether all files of `image` are there, and no older than it."""
    last = Path(f"{stem}.npz")
    if not last.is_file() or last.stat().st_mtime < image.stat().st_mtime:
        return False
    try:
        with np.load(last, allow_pickle=False) as arrays:
            whole = arrays["slots"].ndim == 2 and float(arrays.get("error", 0)) >= 0
            return whole and str(arrays["image"]) == image.name
    except Exception:  # NumPy raises a different kind for each way in which a file is damaged
        return False


def _grey(plane: Tensor) -> Image.Image:
    """Values [H, W] in [0, 1] as 8-bit grey."""
    return Image.fromarray((255 * plane).round_().clamp_(0, 255).to(torch.uint8).numpy())
