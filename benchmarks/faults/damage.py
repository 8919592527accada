"""Shared by `mutations.py`: ways to damage a file, by format, each the same for the same number."""

import copy
import io
import json
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Change = Callable[[Path, random.Random], str]  # damages the file, and says how

OTHERS = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"PK\x03\x04\x14\0\0\0",
    b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n",
    b"<!DOCTYPE html><html>404</html>",
    b"\xff\xfe{\0}\0",
    b"{}",
    b"[]",
    b"null",
)


def bytes_of(path: Path, chance: random.Random) -> str:
    """Damages bytes, whatever they mean."""
    data, kind = bytearray(path.read_bytes()), chance.randrange(9)
    start = chance.randrange(max(len(data), 1))
    if chance.random() < 0.5:  # headers are at the beginning
        start = min(start, chance.randrange(64))
    end = min(len(data), start + chance.choice((1, 4, 16, 256, 4096)))
    names = ("empty", "cut", "flipped", "zeroed", "removed", "doubled", "noise", "other", "appended")
    if kind == 0:
        data = bytearray()
    elif kind == 1:
        del data[start:]
    elif kind == 2:
        for _ in range(chance.choice((1, 3, 30))):
            if data:
                data[min(start + chance.randrange(200), len(data) - 1)] ^= 1 << chance.randrange(8)
    elif kind == 3:
        data[start:end] = bytes(end - start)
    elif kind == 4:
        del data[start:end]
    elif kind == 5:
        data[start:start] = data[start:end]
    elif kind == 6:
        data[start:end] = chance.randbytes(end - start)
    elif kind == 7:
        data = bytearray(chance.choice(OTHERS)) + (data if chance.random() < 0.3 else b"")
    else:
        data += chance.randbytes(chance.choice((1, 100, 10_000)))
    path.write_bytes(data)
    return f"{names[kind]} at {start}"


def thing(path: Path, chance: random.Random) -> str:
    """Puts something that is no file in the place of the file."""
    kind = chance.choice(("missing", "folder", "link to itself", "link to nothing", "pipe", "device"))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "link to nothing":
        path.symlink_to(path.with_name("nothing"))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero" if chance.random() < 0.5 else "/dev/null")
    return kind


RAW = {
    "1e400": "1e400",
    "NaN": "NaN",
    "-Infinity": "-Infinity",
    "5,000 digits": "9" * 5000,
    "nested lists": "[" * 100_000 + "]" * 100_000,
    "nested objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "half a surrogate": '"\\ud800"',
}
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 1.5, -0.5, 1e-300, 1e300, 255, 30_000, 10**6, 2**31, 2**63, 10**9, 10**18),
    *("", "x", "x" * 100_000, "\0", "../../etc/passwd", "/etc", "owner/name", "nan", "7", [], {}, [[]], [None], [1, 2]),
    *({"a": 1}, [10**9] * 3, [-1], ["x"]),
)


def _places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*where, key)
        yield from _places(value[key], (*where, key))


def changed(content: Any, chance: random.Random) -> tuple[Any, str, str | None]:
    """A copy of nested lists and dicts with one change; words; a raw text for the value "@RAW@"."""
    content, raw = copy.deepcopy(content), None
    places = list(_places(content))
    if not places:
        return chance.choice(VALUES), "the whole", None
    depth = chance.randint(1, max(map(len, places)))
    where = chance.choice([place for place in places if len(place) <= depth])
    parent = content
    for key in where[:-1]:
        parent = parent[key]
    kind, key, shown = chance.random(), where[-1], ".".join(map(str, where))
    before = parent[key]
    if kind < 0.15:
        del parent[key]
        return content, f"without {shown}", None
    if kind < 0.25 and isinstance(parent, dict):
        parent["unknown"] = chance.choice(VALUES)
        return content, f"unknown beside {shown}", None
    if kind < 0.3 and isinstance(parent, dict):
        parent[f"{key}_"] = parent.pop(key)
        return content, f"{shown} renamed", None
    if kind < 0.45:
        name = chance.choice(list(RAW))
        parent[key], raw = "@RAW@", RAW[name]
        return content, f"{shown}: {name}", raw
    if kind < 0.65 and isinstance(before, int | float) and not isinstance(before, bool):
        parent[key] = chance.choice((-before, before * 10**6, before + 1, before / 3, str(before), [before], 10**5))
    elif kind < 0.65 and isinstance(before, list):
        parent[key] = chance.choice((before * 2, before[:-1], before[::-1], before * 1000, [before], {"a": before}))
    elif kind < 0.65 and isinstance(before, str):
        parent[key] = chance.choice((before + "x", before.upper(), before * 1000, [before], {"a": before}))
    else:
        parent[key] = chance.choice(VALUES)
    return content, f"{shown}: {str(parent[key])[:40]}", None


def json_of(path: Path, chance: random.Random) -> str:
    """Changes a value, a key or the nesting of a JSON file."""
    content, said, raw = changed(json.loads(path.read_text()), chance)
    text = json.dumps(content)
    path.write_text(text if raw is None else text.replace('"@RAW@"', raw))
    return said


def lines_of(path: Path, chance: random.Random) -> str:
    """Changes JSON, a line of JSON, an archive of arrays or a picture, by its name."""
    if path.suffix == ".npz":
        return npz_of(path, chance)
    if path.suffix == ".png":
        return image_of(path, chance)
    lines = [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines()
    number = chance.randrange(len(lines))
    content, said, raw = changed(json.loads(lines[number]), chance)
    lines[number] = json.dumps(content).replace('"@RAW@"', raw or '"@RAW@"')
    path.write_text("\n".join(lines) + "\n")
    return said


ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
YAMLS = {
    "alias bomb": ALIASES + "model: *i\n",
    "alias bomb as settings": ALIASES + "model: {kind: *i}\n",
    "brackets": "[" * 5000,
    "model of brackets": "model: " + "[" * 5000,
    "tag": "model: !!python/object/apply:os.system ['true']\n",
    "loop": "model: &m {kind: slot-autoencoder, encoder: *m}\n",
    "two documents": "model: {}\n---\nmodel: {}\n",
    "date": "model: {kind: 2020-01-01}\n",
    "keys": "model: {1: 2, null: 3, [a]: 4}\n",
    "sexagesimal": "model: {kind: 1:2:3}\n",
    "tab": "model:\n\tkind: x\n",
    "merge": "model: {<<: [1, 2]}\n",
    "empty": "model:\n",
    "nul": "model: {kind: \0}\n",
}


def yaml_of(path: Path, chance: random.Random) -> str:
    """Changes a value, a key or the nesting of a YAML file."""
    import yaml

    if chance.random() < 0.2:
        name = chance.choice(list(YAMLS))
        path.write_text(YAMLS[name])
        return name
    content, said, raw = changed(yaml.safe_load(path.read_text()), chance)
    text = yaml.safe_dump(content, sort_keys=False)
    path.write_text(text if raw is None else text.replace("'@RAW@'", raw.replace("\\ud800", "\\U0000d800")))
    return said


def csv_of(path: Path, chance: random.Random) -> str:
    """Changes a cell, a row or the heading of a CSV file."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    cells = (
        "nan",
        "inf",
        "1e400",
        "-1",
        "",
        "text",
        '"',
        "a\nb",
        "\0",
        "9" * 5000,
        "1_000",
        "0x10",
        "1e308",
        "x" * 200_000,
    )
    kind, row = chance.randrange(9), chance.randrange(len(rows))
    if kind == 0:
        rows[row] += ["1"] * chance.choice((1, 100_000))
    elif kind == 1:
        rows[row] = rows[row][: chance.randrange(len(rows[row]))]
    elif kind == 2:
        rows[0][chance.randrange(len(rows[0]))] = chance.choice(("step", "unknown", "", "ari", "\ufeffstep"))
    elif kind == 3:
        rows = rows[: chance.choice((0, 1))]
    elif kind == 4:
        rows = rows[1:]
    elif kind == 5:
        rows = [rows[0], *rows[1:] * chance.choice((2, 5000))]
    else:
        column = chance.choice((0, chance.randrange(len(rows[row]))))
        rows[max(row, 1)][column] = chance.choice(cells)
    path.write_text("\n".join(",".join(one) for one in rows) + "\n")
    return f"way {kind}, row {row}"


def safetensors_of(path: Path, chance: random.Random) -> str:
    """Changes the header or the tensors of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    if chance.random() < 0.5:
        if chance.random() < 0.2:
            said, text = "length", data[8 : 8 + length]
            length = chance.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))
        else:
            header, said, raw = changed(header, chance)
            text = json.dumps(header).replace('"@RAW@"', raw or '"@RAW@"').encode("utf-8", "surrogatepass")
            length = len(text)
        path.write_bytes(struct.pack("<Q", length) + text + body)
        return f"header, {said}"
    from safetensors.numpy import load, save

    tensors = load(data)
    name = chance.choice(sorted(tensors))
    tensors, said = _array_change(tensors, name, chance, objects=False)
    path.write_bytes(save({key: np.ascontiguousarray(values) for key, values in tensors.items()}))
    return said


ARRAYS = (
    *("dropped", "renamed", "nan", "inf", "huge", "negative", "empty", "flat", "longer", "shorter", "axis"),
    *("transposed", "int8", "bool", "float64", "zeros", "objects", "text", "complex"),
)
HDF5 = (
    *("array", "array", "array", "array", "group", "loop", "nothing", "outside", "external", "virtual", "sparse"),
    *("wide", "text", "compound"),
)
IMAGES = ("mode", "mode", "mode", "size", "size", "bomb", "sixteen", "frames", "exif", "other", "float")


def _array_change(
    arrays: dict[str, Any], name: str, chance: random.Random, objects: bool = True
) -> tuple[dict[str, Any], str]:
    """Another array in place of one of `arrays`."""
    values = np.array(arrays[name])
    kind = chance.choice(ARRAYS if objects else ARRAYS[:-3])
    if kind == "dropped":
        del arrays[name]
    elif kind == "renamed":
        arrays[f"{name}_"] = arrays.pop(name)
    elif kind in ("nan", "inf"):
        values = values.astype(np.float32) if values.dtype.kind in "fiub" else np.zeros(3, np.float32)
        if values.size:
            values.flat[chance.randrange(values.size)] = float(kind)
        arrays[name] = values
    else:
        numbers = values if values.dtype.kind in "fiub" else np.zeros(3, np.float32)
        arrays[name] = {
            "huge": lambda: (numbers.astype(np.float64) * 1e30).astype(np.float32),
            "negative": lambda: -numbers.astype(np.float32) - 1,
            "empty": lambda: numbers[:0] if numbers.ndim else numbers.reshape(1)[:0],
            "flat": lambda: numbers.reshape(-1),
            "longer": lambda: np.concatenate([np.atleast_1d(numbers)] * 2),
            "shorter": lambda: np.atleast_1d(numbers)[:-1],
            "axis": lambda: numbers[None],
            "transposed": lambda: numbers.T,
            "int8": lambda: numbers.astype(np.int8),
            "bool": lambda: numbers.astype(bool),
            "float64": lambda: numbers.astype(np.float64),
            "zeros": lambda: np.zeros_like(numbers),
            "objects": lambda: np.array([{"a": 1}, None], dtype=object),
            "text": lambda: np.array(["x", "yy"]),
            "complex": lambda: numbers.astype(np.complex64),
        }[kind]()
    return arrays, f"{name} {kind}"


def npy_of(path: Path, chance: random.Random) -> str:
    """Changes the header of an .npy file, or writes another array."""
    values = np.load(path)
    kind = chance.randrange(3)
    if kind == 0:
        arrays, said = _array_change({"array": values}, "array", chance)
        with path.open("wb") as file:
            np.save(file, next(iter(arrays.values()), np.empty(0)), allow_pickle=True)
        return said
    header = {"descr": values.dtype.str, "fortran_order": False, "shape": values.shape}
    if kind == 1:
        header, said, _ = changed({**header, "shape": list(values.shape)}, chance)
        text = repr(header)
    else:
        said = chance.choice(
            ("'|O'", "'<U9'", "'<M8[s]'", "'V999999999'", "[('a', '<f4')]", "'>i8'", "'<f2'", "9" * 5000)
        )
        text = f"{{'descr': {said}, 'fortran_order': {chance.random() < 0.5}, 'shape': {values.shape}, }}"
    text = text.ljust(117 - 8) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) % 65536) + text.encode() + values.tobytes())
    return f"header, {said[:60]}"


def npz_of(path: Path, chance: random.Random) -> str:
    """Changes an array of an .npz file, or the JSON in one, or the archive."""
    with np.load(path) as file:
        arrays = dict(file)
    name = chance.choice(sorted(arrays))
    texts = [key for key, values in arrays.items() if values.dtype.kind == "U" and str(values).startswith("{")]
    if texts and chance.random() < 0.3:
        content, said, raw = changed(json.loads(str(arrays[texts[0]])), chance)
        arrays[texts[0]] = np.array(json.dumps(content).replace('"@RAW@"', raw or '"@RAW@"'))
    elif chance.random() < 0.2:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, values in arrays.items():
                content = io.BytesIO()
                np.save(content, values)
                data = content.getvalue()
                if key == name:
                    data = data.replace(b"(", b"(99999999999, ", 1)
                archive.writestr(f"{key}.npy", data)
        return f"{name} of a huge shape"
    else:
        arrays, said = _array_change(arrays, name, chance)
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return said


def hdf5_of(path: Path, chance: random.Random) -> str:
    """Changes the data sets or links of an HDF5 file."""
    import h5py

    with h5py.File(path, "r+") as file:
        name = chance.choice(sorted(file))
        values = np.asarray(file[name])
        kind = chance.choice(HDF5)
        del file[name]
        if kind == "array":
            arrays, said = _array_change({name: values}, name, chance, objects=False)
            for key, other in arrays.items():
                file[key] = other
            return said
        if kind == "group":
            file.create_group(name)
        elif kind == "loop":
            file[name] = h5py.SoftLink(f"/{name}")
        elif kind == "nothing":
            file[name] = h5py.SoftLink("/nothing")
        elif kind == "outside":
            file[name] = h5py.ExternalLink("/etc/passwd" if chance.random() < 0.5 else path.name, f"/{name}")
        elif kind == "external":
            file.create_dataset(name, values.shape, "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(values.shape, "u1")
            layout[...] = h5py.VirtualSource("/etc/passwd", name, values.shape)
            file.create_virtual_dataset(name, layout)
        elif kind == "sparse":
            file.create_dataset(name, (10**9, 16, 16, 3), "u1", chunks=(1, 16, 16, 3))
        elif kind == "wide":
            file.create_dataset(name, (24, 60_000, 60_000, 3), "u1", chunks=(1, 64, 64, 3))
        elif kind == "text":
            file[name] = ["x"] * 24
        else:
            file[name] = np.zeros(24, [("a", "f4"), ("b", "i4")])
    return f"{name} {kind}"


def image_of(path: Path, chance: random.Random) -> str:
    """Writes the image in another mode, size or kind under its name; or makes its header lie."""
    with Image.open(path) as file:
        file.load()
        picture, form = file.copy(), str(file.format)
    kind = chance.choice(IMAGES)
    mode = chance.choice(("1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I", "F", "LAB", "HSV", "RGBa", "La"))
    size = chance.choice(((1, 1), (1, 5000), (5000, 1), (17, 16), (16, 17), (3000, 3000)))
    if kind == "bomb" and form == "PNG":
        data = bytearray(path.read_bytes())
        struct.pack_into(">II", data, 16, *chance.choice(((60_000, 60_000), (2**31 - 1, 1), (0, 0), (13_000, 13_000))))
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
        path.write_bytes(data)
        return kind
    more: dict[str, Any] = {}
    if kind == "mode":
        with_mode = picture.convert("RGB" if mode in ("HSV", "LAB", "YCbCr", "CMYK") else "L")
        picture = _converted(with_mode, mode)
        kind = f"mode {mode}"
    elif kind == "size":
        picture, kind = picture.resize(size), f"size {size}"
    elif kind == "bomb":
        picture = Image.new("1", (13_000, 13_000))
    elif kind == "sixteen":
        values = np.random.default_rng(0).integers(0, 65_536, picture.size[::-1], dtype=np.uint16)
        picture = Image.fromarray(values)
    elif kind == "frames":
        more = {"save_all": True, "append_images": [picture.rotate(90)]}
    elif kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = chance.choice((6, 99, 0))
        more = {"exif": exif.tobytes() if chance.random() < 0.6 else b"Exif\0\0" + chance.randbytes(40)}
    elif kind == "float":
        values = np.full(picture.size[::-1], np.nan if chance.random() < 0.5 else 1e30, np.float32)
        picture, form = Image.fromarray(values), "TIFF"
    elif kind == "other":
        form = chance.choice(("GIF", "BMP", "WEBP", "PPM", "ICO", "TGA", "EPS", "PDF", "JPEG", "TIFF", "JPEG2000"))
        kind = f"a {form}"
    for there in (picture, _converted(picture, "RGB"), _converted(picture, "L")):  # what the format can hold
        try:
            content = io.BytesIO()
            there.save(content, form, **more)
        except Exception:  # Pillow raises a different kind for each
            continue
        path.write_bytes(content.getvalue())
        return kind
    return f"{kind}, not written"


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    try:
        return picture.convert(mode)
    except ValueError:
        return picture


def trainer_of(path: Path, chance: random.Random) -> str:
    """Changes a value of a trainer's state, or writes another object."""
    import torch

    state = torch.load(path, weights_only=True)
    kind = chance.random()
    if kind < 0.15:
        other = chance.choice(([], None, 7, {}, {"step": 1}, torch.zeros(3), "x"))
        torch.save(other, path)
        return f"whole: {other}"[:60]
    if kind < 0.2:
        torch.save(Path("a class that loading refuses"), path)
        return "a class"
    if kind < 0.25:
        torch.save(state, path, _use_new_zipfile_serialization=False)
        return "old format"
    places = list(_places(state))
    shallow = [place for place in places if len(place) == 1]
    where = chance.choice(shallow if chance.random() < 0.4 else places)
    parent = state
    for key in where[:-1]:
        parent = parent[key]
    before, way = parent[where[-1]], chance.random()
    if way < 0.2:
        del parent[where[-1]]
        shown = "gone"
    elif isinstance(before, torch.Tensor) and way < 0.8:
        shown = chance.choice(("nan", "flat", "axis", "empty", "half", "int", "list", "longer"))
        parent[where[-1]] = {
            "nan": before * float("nan"),
            "flat": before.reshape(-1),
            "axis": before[None],
            "empty": before.reshape(-1)[:0],
            "half": before.half(),
            "int": before.int(),
            "list": before.tolist(),
            "longer": torch.cat([before.reshape(-1)] * 2),
        }[shown]
    else:
        parent[where[-1]] = chance.choice(VALUES)
        shown = str(parent[where[-1]])[:40]
    torch.save(state, path)
    return f"{'.'.join(map(str, where))}: {shown}"
