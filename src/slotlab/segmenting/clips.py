"""Segments films and folders of frames into files, frame by frame: a slot keeps its object."""

import shlex
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from slotlab.data.folders import by_numbers, folders_below, image_files
from slotlab.data.images import decode_mask, read_image, to_batch
from slotlab.data.video import FILM_SUFFIXES, RATE, film_frames, film_rate, need_video, write_film
from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.figures.grid import write_png
from slotlab.files import Workspace, replacing
from slotlab.models import ClipModel, Model, SlotModel, SlotOutput, TrackedModel, with_slots
from slotlab.models.building import fingerprint
from slotlab.models.sampling import seeded_generator
from slotlab.progress import Stage, in_steps, stage
from slotlab.segmenting.formats import FORMATS, Photo, check_formats
from slotlab.segmenting.image import NO_SLOT, Fitting, checked_options, drawn, fitting_of, owners_of

LAST_FILE = "slots.npz"  # of a clip, written after all others


class SegmentedClip(NamedTuple):
    """A film or folder of frames, and the folder of its outputs."""

    source: Path
    folder: Path
    frames: int


@in_steps
def segment_clips(
    model: Model,
    clips: str | Path | Iterable[str | Path],
    *,
    out: str | Path,
    fit: str | None = None,
    mask_source: str | None = None,
    seed: int = 0,
    formats: Sequence[str] = (),
) -> Generator[Stage, None, list[SegmentedClip]]:
    """Segments films, and folders of frames, of any length and at their own size.

    A model of images is tracked (`slotlab.models.TrackedModel`). Each clip gets a folder in `out`:
    `masks/0000.png`, ... (palette image: the slot that owns each pixel), the frames with the slots'
    colours laid over them (`overlay.mp4`, of the film's rate and without its sound; for a folder
    of frames `overlays/0000.png`, ...), and `slots.npz` (`slots` [T, K, D], `share` [T, K] of the
    pixels). Clips that are complete are kept: re-run the same call to resume.

    Args:
        model: any model with slots.
        clips: films, and folders of frames at any depth, each of which is one clip.
        out: a new or empty folder, or one written before with the same model and options.
        fit: as for `segment`.
        mask_source: as for `segment`.
        seed: of the slots of the first frame.
        formats: also write the frames' segments as cutouts, coco, yolo or labelme, see `segment`;
            a segment has its slot's number in all frames. Not for films, whose frames are no files.

    Raises:
        CheckpointError: the model has no slots, or its slots are not finite.
        ConfigError: an unknown option, PyAV is missing, or `out` holds something else.
        DataError: a film or folder is missing or broken, or its frames differ in size.
    """
    slot_model, out = with_slots(model), Path(out)
    source, fit = checked_options(slot_model, mask_source, fit)
    video, formats = model_of_clips(slot_model), check_formats(formats)
    given = [Path(one) for one in ([clips] if isinstance(clips, str | Path) else clips)]
    found = find_clips(given)
    if films := [path for path in found if path.is_file()]:
        need_video()
        if formats:
            film = shlex.quote(str(films[0]))
            raise ConfigError(
                f"format {formats[0]}: needs the frames of {films[0]} as files; write them into a folder (mkdir "
                f"frames && ffmpeg -i {film} frames/%06d.png) and segment that with --track, or leave the format out"
            )
    described = {"fingerprint": fingerprint(model), "resolution": slot_model.resolution, **video.describe()}
    settings = {"format": "slotlab-clips", "version": 1, "fit": fit, "mask_source": source, "seed": seed}
    work = Workspace(out, "clips.json", {**settings, "model": described}, "segmented clips")
    work.check()
    work.begin()
    done: list[SegmentedClip] = []
    for path, name in found.items():
        folder, count = out / name, len(image_files(path, nested=False)) if path.is_dir() else film_rate(path)[1]
        kept = _frames_kept(folder, path)
        if kept is None:
            kept = 0
            for kept in _segment(video, path, folder, fit, source, seed):
                yield f"{name}: frames", kept, count or None
        done.append(SegmentedClip(path, folder, kept))
    for name in formats:
        yield from stage(f"writing {name}", sum(clip.frames for clip in done), FORMATS[name](_photos(done, out), out))
    return done


def _photos(clips: Sequence[SegmentedClip], out: Path) -> Iterator[Photo]:
    """The frames of folders, with their segments."""
    for clip in clips:
        for number, path in enumerate(frame_files(clip.source)):
            owners = decode_mask(clip.folder / "masks" / f"{number:04d}.png", str(path)).astype(np.int32)
            name = (clip.folder / path.stem).relative_to(out).as_posix()
            yield Photo(path, name, np.where(owners == NO_SLOT, -1, owners))


def find_clips(given: Sequence[Path]) -> dict[Path, str]:
    """The films and folders of frames in files and folders, with the names of their outputs.

    Raises:
        DataError: there are none, one is missing, or two would have one name.
    """
    found: dict[Path, str] = {}
    for path in given:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if path.is_file():
            if path.suffix.lower() not in FILM_SUFFIXES:
                raise DataError(f"{path}: not a film by its name ({', '.join(FILM_SUFFIXES)}); name its folder instead")
            found[path] = path.stem
            continue
        for folder, names in folders_below(path):
            below = (Path(path.resolve().name) / folder.relative_to(path)).as_posix()
            if image_files(folder, nested=False):
                found[folder] = below
            films = [folder / name for name in names if Path(name).suffix.lower() in FILM_SUFFIXES]
            found |= {film: f"{below}/{film.stem}" for film in films}
    names = [*found.values()]
    for path, name in found.items():
        if names.count(name) > 1:
            raise DataError(f"{path}: another clip is also called {name}; rename one, or use two output folders")
    if not found:
        raise DataError(f"{given[0] if given else 'no clips'}: no frames and no films; name films or folders of frames")
    return found


def frame_files(folder: Path) -> list[Path]:
    """The frames in a folder, in the order of the numbers in their names."""
    return sorted(image_files(folder, nested=False), key=lambda path: by_numbers(path.name))


def frames_of(clip: Path) -> Iterator[np.ndarray]:
    """The frames of a film, or of a folder in the order of the numbers in their names.

    Raises:
        DataError: one cannot be read, or has another size than the first.
    """
    if clip.is_file():
        yield from film_frames(clip)
        return
    size = None
    for path in frame_files(clip):
        pixels = read_image(path)
        if size not in (None, pixels.shape):
            sizes = f"{pixels.shape[1]}x{pixels.shape[0]}, the first frame {size[1]}x{size[0]}"
            raise DataError(f"{path}: has {sizes}; give frames of one size")
        size = pixels.shape
        yield pixels


def model_of_clips(model: SlotModel) -> ClipModel:
    """A model of clips as it is, or an image model tracked; ConfigError if it starts from boxes."""
    video = model if isinstance(model, ClipModel) else TrackedModel(model)
    if getattr(video, "starts", "learned") != "learned":
        raise ConfigError(f"this model starts from {video.starts} of objects; train one with starts=learned for films")
    return video


class SeenFrame(NamedTuple):
    """A frame, and what a model found in it."""

    pixels: np.ndarray  # uint8 [H, W, 3]
    fitted: Fitting  # how it became what the model takes
    output: SlotOutput  # of that
    owners: np.ndarray  # uint8 [H, W], the slot that owns each pixel


def seen_frames(
    video: ClipModel, frames: Iterable[np.ndarray], fit: str | None, mask_source: str, seed: int = 0
) -> Iterator[SeenFrame]:
    """Takes the frames of a clip apart one by one; CheckpointError if slots are not finite."""
    device, waiting = next(video.parameters()).device, list[tuple[np.ndarray, Fitting]]()

    def shown() -> Iterator[Tensor]:
        for pixels in frames:
            fitted = fitting_of(cast(SlotModel, video), fit, (pixels.shape[1], pixels.shape[0]))
            waiting.append((pixels, fitted))
            yield to_batch(fitted.shown(pixels)[None], None, [0])["image"].to(device)

    only = mask_source != "masks"  # only the decoder's masks of slot diffusion need its sampling
    for output in video.stream(shown(), [seeded_generator(seed)], segment_only=only):
        pixels, fitted = waiting.pop()
        if not bool(torch.isfinite(output.slots).all()):
            raise CheckpointError("the model's slots are not finite; take an earlier checkpoint")
        owners = owners_of(fitted.onto_image(mask) for mask in output.soft_masks(mask_source)[0].float().cpu())
        yield SeenFrame(pixels, fitted, output, owners)


def _segment(video: ClipModel, clip: Path, folder: Path, fit: str, source: str, seed: int) -> Iterator[int]:
    """Writes the files of one clip; yields the number of frames done."""
    slots, shares = list[np.ndarray](), list[np.ndarray]()

    def overlays() -> Iterator[np.ndarray]:
        for number, frame in enumerate(seen_frames(video, frames_of(clip), fit, source, seed)):
            segmentation, overlay = drawn(frame.pixels, frame.owners)
            write_png(segmentation, folder / "masks" / f"{number:04d}.png")
            slots.append(frame.output.slots[0].cpu().numpy())
            shares.append(np.bincount(frame.owners.ravel(), minlength=256)[: len(slots[-1])] / frame.owners.size)
            yield np.asarray(overlay)

    if clip.is_file():
        yield from write_film.steps(folder / "overlay.mp4", overlays(), film_rate(clip)[0] or RATE)
    else:
        from PIL import Image

        for number, overlay in enumerate(overlays()):
            write_png(Image.fromarray(overlay), folder / "overlays" / f"{number:04d}.png")
            yield number + 1
    with replacing(folder / LAST_FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, slots=np.stack(slots), share=np.stack(shares))


def _frames_kept(folder: Path, clip: Path) -> int | None:
    """How many frames an earlier call segmented, if it was to the end and the clip is no newer."""
    last = folder / LAST_FILE
    newest = max(path.stat().st_mtime for path in (image_files(clip, nested=False) if clip.is_dir() else [clip]))
    if not last.is_file() or last.stat().st_mtime < newest:
        return None
    try:
        with np.load(last, allow_pickle=False) as arrays:
            return len(arrays["slots"])
    except Exception:  # NumPy raises a different kind for each way in which a file is damaged
        return None
