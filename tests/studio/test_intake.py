import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from slotlab.data import images
from slotlab.errors import DataError


def encoded(picture, kind="png", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def bomb(width, height):
    """A PNG of a few hundred bytes whose header promises a huge picture."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def frames(count):
    one, *others = (Image.new("RGB", (32, 32), (40 * number, 0, 0)) for number in range(count))
    return encoded(one, "gif", save_all=True, append_images=others)


REFUSED = {
    "text": (b"hello", "not a picture that can be read"),
    "empty": (b"", "not a picture that can be read"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture that can be read"),
    "cut off": (encoded(Image.effect_noise((64, 64), 50).convert("RGB"))[:900], "is broken"),
    "animation": (frames(3), "an animation of 3 frames"),
    "panorama": (bomb(20_000, 400), "20,000 × 400 pixels"),
    "bomb": (bomb(60_000, 60_000), "far more than the 24 million pixels"),
    "area": (bomb(7_900, 7_900), "7,900 × 7,900 pixels"),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), "too small"),
    "too many bytes": (b"\0" * (images.MOST_BYTES + 1), "at most 20 can be read"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_looked_at_is_refused_in_a_sentence(content, message):
    with pytest.raises(DataError, match=message) as caught:
        images.read_picture(content)
    assert str(caught.value).endswith(".")
    assert "skip_broken" not in str(caught.value)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "gif"])
def test_usual_pictures_are_read(kind):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    pixels = images.read_picture(encoded(picture, kind))
    assert pixels.shape == (40, 30, 3)
    assert pixels.dtype == np.uint8
    if kind in ("png", "bmp"):
        assert (pixels == np.asarray(picture)).all()


@pytest.mark.parametrize("content", [REFUSED["text"][0], encoded(Image.new("RGB", (32, 32)))])
def test_an_uploaded_file_is_removed_whether_it_is_read_or_not(content, tmp_path):
    path = tmp_path / "upload.png"
    path.write_bytes(content)
    if content == REFUSED["text"][0]:
        with pytest.raises(DataError):
            images.take_upload(path)
    else:
        assert images.take_upload(path).shape == (32, 32, 3)
    assert not path.exists()
