"""The files of one image: written slot by slot, so that a large image takes no more memory for many slots."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slotlab.atomic import replacing
from slotlab.reporting.previews import write_png
from slotlab.segmenting.fitting import Fitting
from slotlab.segmenting.image import NO_SLOT, Parts, overlay_picture, owners_of, palette_picture
from slotlab.segmenting.sources import OVERLAY, SEGMENTATION, mask_suffix


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
