import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, png_by_hand
from PIL import Image, features

from slotlab.data import check_data, open_data
from slotlab.data.folders import find_images
from slotlab.data.images import (
    DARK,
    FIRST_PAGE,
    SPECKLED,
    UPLOAD_LIMITS,
    Decoded,
    decode_image,
    decode_mask,
    prepared,
    read_image,
    square,
    to_batch,
    to_pixels,
)
from slotlab.errors import DataError

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]


def decoded(tmp_path, picture, suffix=".png", **options):
    path = tmp_path / f"picture{suffix}"
    picture.save(path, **options)
    decoded = decode_image(path, str(path))
    return decoded.image, decoded.mode


ALPHA = Image.new("L", (24, 20), 10)
PALETTE = Image.fromarray(COLOURS).quantize(16)
STORED = {
    "RGB": (Image.fromarray(COLOURS), COLOURS),
    "RGBA": (Image.merge("RGBA", [*Image.fromarray(COLOURS).split(), ALPHA]), COLOURS),  # alpha is dropped, not blended
    "L": (Image.fromarray(GREY), np.stack([GREY] * 3, -1)),
    "LA": (Image.merge("LA", [Image.fromarray(GREY), ALPHA]), np.stack([GREY] * 3, -1)),
    "1": (Image.fromarray(GREY > 127), np.stack([GREY > 127] * 3, -1) * 255),
    "P": (PALETTE, np.asarray(PALETTE.convert("RGB"))),
}


@pytest.mark.parametrize("mode", STORED)
def test_every_way_to_store_pixels_becomes_rgb(tmp_path, mode):
    picture, expected = STORED[mode]
    image, found = decoded(tmp_path, picture)
    assert found == mode
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_is_scaled_not_clipped(tmp_path, suffix):
    deep = GREY.astype(np.uint16) * 257
    deep[0, :6] = 1000, 65535, 128, 129, 65406, 65407
    image, mode = decoded(tmp_path, Image.fromarray(deep), suffix)
    assert mode == "I;16"
    np.testing.assert_array_equal(image[0, :6, 0], np.round(deep[0, :6] * (255 / 65535)))
    np.testing.assert_array_equal(image[1:, :, 0], GREY[1:])


def test_cmyk_jpeg_comes_out_in_its_colours(tmp_path):
    flat = Image.new("RGB", (24, 20), (200, 40, 90))
    image, mode = decoded(tmp_path, flat.convert("CMYK"), ".jpg", quality=95)
    assert mode == "CMYK"
    assert np.abs(image.astype(int) - (200, 40, 90)).max() <= 4


@pytest.mark.parametrize("values", [np.float32, np.int32])
def test_unknown_range_is_refused(tmp_path, values):
    with pytest.raises(DataError, match=r"picture\.tif: .*8 or 16 bits"):
        decoded(tmp_path, Image.fromarray((GREY.astype(values) - 200) * 1000), ".tif")


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("kept", [0, 5, 60, -40])
def test_truncated_and_empty_files_are_named(tmp_path, suffix, kept):
    path = tmp_path / f"broken{suffix}"
    Image.fromarray(COLOURS).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=rf"broken\{suffix}: .*skip_broken=True") as error:
        decode_image(path, str(path))
    assert ("0 bytes" in str(error.value)) == (kept == 0)


def test_damaged_inside(tmp_path):
    path = tmp_path / "broken.png"
    Image.fromarray(COLOURS).save(path)
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png: it cannot be decoded"):
        decode_image(path, str(path))


@pytest.mark.parametrize(("objects", "options"), [(5, {}), (2, {"bits": 1})])  # few colours are stored in few bits
def test_palette_masks_are_read_as_ids(tmp_path, objects, options):
    ids = (GREY % objects).astype(np.uint8)
    picture = Image.fromarray(ids, "L").convert("P")
    picture.putpalette([255, 255, 255, 0, 0, 0, 9, 9, 9, 1, 2, 3, 7, 7, 7][: 3 * objects])
    picture.frombytes(ids.tobytes())
    picture.save(tmp_path / "m.png", **options)
    np.testing.assert_array_equal(decode_mask(tmp_path / "m.png", "m", palette_only=True), ids)


@pytest.mark.parametrize("mode", ["L", "I;16", "1", "RGB"])
def test_grey_masks_hold_ids_with_their_gaps(tmp_path, mode):
    ids = np.where(GREY > 128, 1 if mode == "1" else 7, 0)
    stored = {"L": np.uint8, "I;16": np.uint16, "1": bool, "RGB": np.uint8}[mode]
    array = ids.astype(stored) if mode != "RGB" else np.stack([ids.astype(stored)] * 3, -1)
    Image.fromarray(array).save(tmp_path / "m.png")
    np.testing.assert_array_equal(decode_mask(tmp_path / "m.png", "m"), ids)


def test_ids_beyond_255(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 100).save(tmp_path / "m.png")
    mask = decode_mask(tmp_path / "m.png", "m")
    np.testing.assert_array_equal(mask, GREY.astype(int) * 100)
    small = square(Decoded(COLOURS, mask), resolution=10).mask
    assert small is not None
    assert set(np.unique(small)) <= set(np.unique(mask))


def stored_mask(ids, kind, **options):
    return encoded(Image.fromarray(np.stack([ids] * 3, -1) if kind in ("webp", "avif") else ids), kind, **options)


STEPS = np.kron([[0, 7], [200, 40]], np.ones((20, 24))).astype(np.uint8)
TWO = [Image.fromarray(np.stack([STEPS] * 3, -1) + add) for add in (0, 1)]
LOSSLESS = {
    "webp": stored_mask(STEPS, "webp", lossless=True),
    "webp with a profile": stored_mask(STEPS, "webp", lossless=True, icc_profile=b"x" * 7),
    "webp of two frames": encoded(TWO[0], "webp", lossless=True, save_all=True, append_images=TWO[1:]),
    "tiff": stored_mask(STEPS, "tiff", compression="tiff_lzw"),
    "gif": stored_mask(STEPS, "gif", optimize=False),
    "bmp": stored_mask(STEPS, "bmp"),
}
WITH_LOSS = {
    "webp": stored_mask(STEPS, "webp"),
    "webp with a profile": stored_mask(STEPS, "webp", icc_profile=b"x" * 7),
    "webp of two frames": encoded(TWO[0], "webp", save_all=True, append_images=TWO[1:]),
    "tiff with jpeg inside": stored_mask(STEPS, "tiff", compression="jpeg"),
    "jpeg": stored_mask(STEPS, "jpeg"),
    "jpeg 2000": stored_mask(STEPS, "jpeg2000"),
} | ({"avif": stored_mask(STEPS, "avif")} if features.check("avif") else {})


@pytest.mark.parametrize("content", LOSSLESS.values(), ids=LOSSLESS)
def test_masks_of_lossless_codecs_keep_their_ids(content):
    np.testing.assert_array_equal(decode_mask(content, "m.png"), STEPS)


@pytest.mark.parametrize("content", WITH_LOSS.values(), ids=WITH_LOSS)
def test_masks_of_lossy_codecs_are_refused_whatever_their_name(content):
    with pytest.raises(DataError, match=r"m\.png: a lossy format does not keep object ids"):
        decode_mask(content, "m.png")


def test_notes_say_what_may_have_been_read_otherwise_than_meant(folder):
    root, pages = folder(4), [Image.fromarray(COLOURS)] * 2
    assert check_data(root).notes == {}
    pages[0].resize((40, 30)).save(root / "images" / "000.tif", save_all=True, append_images=pages)
    (root / "images" / "000.png").unlink()
    Image.fromarray(np.full((30, 40), 3000, np.uint16)).save(root / "images" / "001.png")
    mask = root / "masks" / "002.png"
    lossy = encoded(Image.fromarray(np.asarray(Image.open(mask)) * 60), "jpeg")
    Image.open(io.BytesIO(lossy)).save(mask)
    assert check_data(root).notes == {FIRST_PAGE: 1, DARK: 1, SPECKLED: 1}
    with pytest.warns(UserWarning, match=r"001\.png: 16-bit values below 4096 .* multiply them by 16"):
        open_data(root, split="all", resolution=8).batch([1])
    with pytest.warns(UserWarning, match=r"000\.tif: only the first of several pages"):
        read_image(root / "images" / "000.tif")


def test_grey_with_premultiplied_alpha_is_read():
    np.testing.assert_array_equal(read_image(Image.new("LA", (2, 2), (9, 255)).convert("La")), np.full((2, 2, 3), 9))


def test_coloured_mask_is_refused_with_the_remedy(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png: a mask in colours.*np\.unique"):
        decode_mask(tmp_path / "m.png", "m.png")
    with pytest.raises(DataError, match=r"m\.png: mode RGB instead of a palette image.*the published file"):
        decode_mask(tmp_path / "m.png", "m.png", palette_only=True)


def test_crop_and_resize_are_those_of_the_published_loader():
    image = np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    ids = np.random.default_rng(2).integers(0, 11, (240, 320), dtype=np.uint8)
    box = (64, 24, 256, 216)
    size = (128, 128)
    expected = Image.fromarray(image).crop(box).resize(size, Image.Resampling.BILINEAR)
    mask = Image.fromarray(ids).crop(box).resize(size, Image.Resampling.NEAREST)
    result = square(Decoded(image, ids), crop=0.8, resolution=128)
    np.testing.assert_array_equal(result.image, np.asarray(expected))
    np.testing.assert_array_equal(result.mask, np.asarray(mask))  # pyright: ignore


def test_pixels_survive_the_way_to_floats_and_back():
    batch = to_batch(COLOURS[None], GREY[None], [5])
    assert batch["image"].dtype == torch.float32
    assert batch["image"].is_contiguous()
    assert batch["image"].max() <= 1
    assert batch["mask"].dtype == batch["index"].dtype == torch.int64
    image, mask = to_pixels(batch)
    np.testing.assert_array_equal(image[0], COLOURS)
    np.testing.assert_array_equal(mask[0], GREY)  # pyright: ignore


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow's own, for what is then refused
@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_images_and_masks_beyond_the_limit_are_refused_before_they_are_decoded(decode):
    with pytest.raises(DataError, match=r"m.png: 13,000x13,000 pixels; at most 67,108,864 in all can be read"):
        decode(png_by_hand(13_000, 13_000, 16), "m.png")


def test_a_16_bit_mask_in_colours_is_refused():
    with pytest.raises(DataError, match=r"deep.png: 16 bits a channel"):
        decode_mask(png_by_hand(2, 1, 16, b"\0" + struct.pack(">6H", 1, 1, 1, 5, 5, 5)), "deep.png")


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
def test_masks_without_ids_are_refused(mask):
    with pytest.raises(ValueError, match=r"mask: expected whole numbers \[H, W\]"):
        prepared(torch.zeros(3, 8, 8), mask, resolution=8)


def test_images_are_turned_upright_unless_there_is_a_mask(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    for image in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        upright, _ = prepared(image, resolution=8)
        assert upright.mean((0, 2)).tolist() == [0] * 4 + [1] * 4
        stored, mask = prepared(image, np.zeros((8, 8), np.int64), resolution=8)
        assert stored.mean((0, 2)).tolist() == [1] * 4 + [0] * 4
        assert mask is not None


FRAMES = [Image.new("RGB", (32, 32), (40 * number, 0, 0)) for number in range(3)]
REFUSED = {
    "text": (b"hello", "it is not a file of PNG, JPEG"),
    "empty": (b"", "empty"),
    "tiff": (encoded(Image.new("RGB", (32, 32)), "tiff"), "it is not a file of PNG, JPEG"),
    "cut off": (encoded(Image.effect_noise((64, 64), 50).convert("RGB"))[:900], "cannot be decoded .*another file"),
    "animation": (encoded(FRAMES[0], "gif", save_all=True, append_images=FRAMES[1:]), "an animation of 3 frames"),
    "panorama": (png_by_hand(20_000, 400), "20,000x400 pixels; at most 8,000 on a side and 24,000,000"),
    "bomb": (png_by_hand(60_000, 60_000), "cannot be decoded .*decompression bomb"),
    "area": (png_by_hand(7_900, 7_900), "7,900x7,900 pixels"),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), "at least 16 on a side"),
    "too many bytes": (b"\0" * (UPLOAD_LIMITS.size + 1), "20 MiB; at most 20 can be read"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_uploads_beyond_the_limits_are_refused_in_a_sentence(content, message):
    with pytest.raises(DataError, match=f"^This image: .*{message}") as caught:
        read_image(content, name="This image", limits=UPLOAD_LIMITS)
    assert "skip_broken" not in str(caught.value)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "gif"])
def test_usual_uploads_are_read(kind):
    pixels = read_image(encoded(Image.fromarray(COLOURS), kind), limits=UPLOAD_LIMITS)
    assert (pixels.shape, pixels.dtype) == ((20, 24, 3), np.uint8)
    if kind in ("png", "bmp"):
        np.testing.assert_array_equal(pixels, COLOURS)


def test_only_folders_of_images_alone_are_listed(folder, clevrtex, tmp_path):
    root = folder(2)
    (root / "images" / ".thumbnails").mkdir()
    Image.fromarray(COLOURS).save(root / "images" / ".thumbnails" / "0.png")
    assert [path.name for path in find_images(root / "images")] == ["000.png", "001.png"]
    for wrong in (root, clevrtex(1)):
        with pytest.raises(DataError, match="a mask, not an image; name a folder of images alone"):
            find_images(wrong)
    for ending in ("", "_0", "_overlay", "_segmentation"):  # what `slotlab segment` writes of an image
        Image.fromarray(COLOURS).save(root / "images" / f"photo{ending}.png")
    with pytest.raises(DataError, match=r"photo_segmentation.png: a mask that `slotlab segment` wrote"):
        find_images(root / "images")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find_images(tmp_path / "nowhere")


def test_links_to_folders_are_followed_once(clevrtex, folder, tmp_path):
    scenes = clevrtex(20)  # folders 0 and 1
    (scenes / "1").rename(tmp_path / "elsewhere")
    (scenes / "1").symlink_to(tmp_path / "elsewhere")
    (scenes / "0" / "back").symlink_to(scenes)
    assert len(open_data(scenes, split="all")) == 20
    pictures = folder(10)
    other = folder(5, name="others")
    (pictures / "images" / "more").symlink_to(other / "images")
    (pictures / "masks" / "more").symlink_to(other / "masks")
    (pictures / "images" / "more" / "back").symlink_to(pictures / "images")
    assert len(open_data(pictures, split="all")) == 15


def test_a_folder_that_may_not_be_read_is_named_not_left_out(clevrtex, monkeypatch):
    scenes, scan = clevrtex(20), os.scandir

    def denied(path):
        if str(path).endswith("1"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"1: cannot be read \(Permission denied\)"):
        open_data(scenes, split="all")


def test_other_formats_pipes_and_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "eps.png", format="EPS")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="eps.png: it cannot be decoded"):
        decode_image(tmp_path / "eps.png", "eps.png")
    with pytest.raises(DataError, match="pipe.png: not a regular file"):
        decode_image(tmp_path / "pipe.png", "pipe.png")
    with pytest.raises(DataError, match=r"gone\.png: the file is missing"):
        decode_image(tmp_path / "gone.png", "gone.png")
