"""Image files for tests: encoded in memory, with a palette, or by hand."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(picture, kind="png", **options):
    """The file of an image or array, as bytes."""
    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def save_palette(mask, path):
    """A palette PNG whose colours are nothing like its ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask.astype(np.uint8)).convert("P")
    picture.putpalette(np.random.default_rng(7).integers(0, 256, 768, dtype=np.uint8).tobytes())
    picture.frombytes(mask.astype(np.uint8).tobytes())
    picture.save(path)


def png_by_hand(width, height, bits=8, content=b"\0"):
    """A PNG, whatever its header promises."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
