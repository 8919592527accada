"""Miniature data sets, with the real trees and names."""

import json
from pathlib import Path

import numpy as np
import pytest
from pictures import save_palette
from PIL import Image

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def pixels(index, width=40, height=30):
    """An image of noise, a mask with `index % 3 + 1` objects inside the centred 0.8 square."""
    image = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), dtype=np.uint8)
    for number in range(1, index % 3 + 2):
        left = width // 2 - 10 + 4 * number
        mask[height // 2 - 4 : height // 2 + 4, left : left + 4] = number
    return image, mask


@pytest.fixture
def clevrtex(tmp_path):
    """Writes scenes as published: clevrtex_{variant}/{thousand}/CLEVRTEX_{variant}_{index}..."""

    def write(count=20, variant="full", root=None, first=0):
        root = root or tmp_path / f"clevrtex_{variant}"
        for index in range(first, first + count):
            folder = root / str(index // 10)
            folder.mkdir(parents=True, exist_ok=True)
            image, mask = pixels(index)
            stem = f"CLEVRTEX_{variant}_{index:06d}"
            Image.fromarray(image).save(folder / f"{stem}.png")
            Image.fromarray(image).save(folder / f"{stem}_albedo_0001.png")
            save_palette(mask, folder / f"{stem}_flat.png")
            objects = [{"index": i, "shape": "cube"} for i in np.unique(mask).tolist() if i]
            scene = {"image_index": index, "num_objects": len(objects), "objects": objects}
            (folder / f"{stem}.json").write_text(json.dumps(scene))
        return root

    return write


@pytest.fixture
def damaged(clevrtex):
    """Twenty scenes: 4 truncated, 5 empty, 9 with a coloured mask, 19 without a mask."""
    root = clevrtex(20)
    stem = "CLEVRTEX_full_0000"
    image = root / "0" / f"{stem}04.png"
    image.write_bytes(image.read_bytes()[:500])
    (root / "0" / f"{stem}05.png").write_bytes(b"")
    mask = root / "0" / f"{stem}09_flat.png"
    Image.open(mask).convert("RGB").save(mask)
    (root / "1" / f"{stem}19_flat.png").unlink()
    return root


@pytest.fixture
def folder(tmp_path):
    """Writes an image folder; `splits` gives images/{split}, `masks` the masks beside it."""

    def write(count=10, splits=None, masks=True, name="pictures"):
        root, number = tmp_path / name, 0
        for split, size in (splits or {"": count}).items():
            (root / "images" / split).mkdir(parents=True, exist_ok=True)
            if masks:
                (root / "masks" / split).mkdir(parents=True, exist_ok=True)
            for _ in range(size):
                image, mask = pixels(number)
                Image.fromarray(image).save(root / "images" / split / f"{number:03d}.png")
                if masks:
                    save_palette(mask, root / "masks" / split / f"{number:03d}.png")
                number += 1
        return root

    return write


@pytest.fixture
def real():
    """The folder of real scenes beside the repository; its tests are skipped where it is missing."""

    def path(name):
        if not (REAL / name).is_dir():
            pytest.skip(f"needs the development data set {name}, kept beside the repository, not in it")
        return REAL / name

    return path
