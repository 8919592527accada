"""Remove an object from an image, and add an object of another image.

    python examples/edit.py --out runs/edited                 # two rendered scenes
    python examples/edit.py --image photo.png --other other.png

Writes before.png, removed.png and added.png.
"""

import argparse
from pathlib import Path

from PIL import Image
from torch import Tensor

import slotlab
from slotlab.composition.edits import add, background_slot, paint_edit, read_scene, remove


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-64", help="a bundled name or a run folder")
    parser.add_argument("--image", type=Path, help="the image to edit; a rendered scene without it")
    parser.add_argument("--other", type=Path, help="the image that gives an object; a rendered scene without it")
    parser.add_argument("--out", type=Path, default=Path("runs/edited"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    model = slotlab.load(options.model)
    rendered = slotlab.render([0, 1], variant="plain", resolution=model.resolution, max_objects=6).image
    scene = read_scene(model, options.image or rendered[0])
    other = read_scene(model, options.other or rendered[1])

    sizes = scene.segmentation().flatten().bincount(minlength=model.slots)  # pixels that each slot owns
    sizes[background_slot(scene)] = 0
    removed = remove(scene, [int(sizes.argmax())])
    edited = paint_edit(model, scene, removed)
    print(f"error outside the removed object: {edited.outside_error:.4f}")
    write(edited.before, options.out / "before.png")
    write(edited.image, options.out / "removed.png")

    sizes = other.segmentation().flatten().bincount(minlength=model.slots)
    sizes[background_slot(other)] = 0
    edited = paint_edit(model, scene, add(removed, other, slot=int(sizes.argmax())))
    write(edited.image, options.out / "added.png")
    print(f"written: {options.out}/before.png, removed.png, added.png")


def write(image: Tensor, path: Path) -> None:
    pixels = (image.clamp(0, 1) * 255).round().byte()
    Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save(path)


if __name__ == "__main__":
    main()
