import numpy as np
import pytest
import torch
from PIL import Image

from slotlab.data.images import prepared


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"got torch.uint8; divide by 255"),
        (torch.full((3, 8, 8), 200.0), r"got 200 to 200; clamp it, or divide 0..255 by 255"),
        (torch.full((3, 8, 8), torch.nan), "got nan"),
        (torch.zeros(8, 8, 3), r"expected \[3, H, W\]"),
        (np.zeros((8, 8, 3), np.float32), "expected uint8"),
    ],
)
@pytest.mark.parametrize("resolution", [8, 4])
def test_images_of_another_range_or_type_are_refused(image, message, resolution):
    with pytest.raises(ValueError, match=message):
        prepared(image, resolution=resolution)


@pytest.mark.parametrize("mask", [np.full((8, 8), 0.7), torch.zeros(1, 8, 8), np.zeros((8, 8, 1), np.int64)])
def test_masks_that_are_no_ids_are_refused(mask):
    with pytest.raises(ValueError, match=r"mask: expected whole numbers \[H, W\]"):
        prepared(torch.zeros(3, 8, 8), mask, resolution=8)


def test_pictures_are_turned_upright_unless_there_is_a_mask(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    for picture in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        upright, _ = prepared(picture, resolution=8)
        assert upright.mean((0, 2)).tolist() == [0] * 4 + [1] * 4
        stored, mask = prepared(picture, np.zeros((8, 8), np.int64), resolution=8)
        assert stored.mean((0, 2)).tolist() == [1] * 4 + [0] * 4
        assert mask is not None
