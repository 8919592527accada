import pickle

import numpy as np
import pytest
import torch

from slotlab.data import check_data, evaluation_batches, open_data
from slotlab.errors import DataError

h5py = pytest.importorskip("h5py", reason="needs the hdf5 extra")


@pytest.fixture
def written(tmp_path):
    def write(name="set.hdf5", **arrays):
        rng = np.random.default_rng(0)
        arrays = {
            "image": rng.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8),
            "mask": rng.integers(0, 5, (20, 16, 16, 1)),
        } | arrays
        with h5py.File(tmp_path / name, "w") as file:
            for key, value in arrays.items():
                if value is not None:
                    file[key] = value
        return tmp_path / name, arrays

    return write


def test_reads_rows(written):
    path, arrays = written()
    data = open_data(path, split="val")
    batch = data.batch([1, 0])
    assert batch["index"].tolist() == [3, 2]
    assert "mask" in batch
    np.testing.assert_array_equal(batch["mask"], arrays["mask"][[3, 2], ..., 0])
    np.testing.assert_array_equal(batch["image"].mul(255).round().permute(0, 2, 3, 1), arrays["image"][[3, 2]])


def test_without_masks_and_with_other_names(written):
    path, _ = written(mask=None)
    assert not open_data(path).has_masks
    path, arrays = written("other.h5", image=None, frames=np.zeros((10, 8, 8, 3), np.uint8), mask=None)
    assert len(open_data(path, image="frames", split="all")) == 10
    with pytest.raises(DataError, match="no array 'image'; it has frames: pass image="):
        open_data(path)
    assert arrays["image"] is None
    with pytest.raises(DataError, match="no array 'segments'; it has frames"):
        open_data(path, image="frames", mask="segments")


def test_values_from_other_files_broken_links_and_huge_images_are_refused(tmp_path, written):
    path, _ = written()
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(256)) * 60)

    def storage(file):
        file.create_dataset("image", (20, 16, 16, 3), "u1", external=[(str(secret), 0, 15_360)])

    def virtual(file):
        layout = h5py.VirtualLayout((20, 16, 16, 3), "u1")
        layout[...] = h5py.VirtualSource(path.name, "image", (20, 16, 16, 3))
        file.create_virtual_dataset("image", layout)

    def link(file):
        file["image"] = h5py.ExternalLink(path.name, "image")

    def broken(file):
        file["image"] = h5py.SoftLink("/nothing")

    def huge(file):
        file.create_dataset("image", (20, 60_000, 60_000, 3), "u1", chunks=(1, 64, 64, 3))

    def huge_mask(file):
        file["image"] = np.zeros((20, 16, 16, 3), np.uint8)
        file.create_dataset("mask", (20, 60_000, 60_000), "u1", chunks=(1, 64, 64))

    for write, message in (
        (huge_mask, "'mask': 60,000x60,000 pixels; at most"),
        (storage, "'image' takes its values from another file"),
        (virtual, "'image' takes its values from another file"),
        (link, "'image' takes its values from another file"),
        (broken, "other.h5: cannot be read"),
        (huge, "'image': 60,000x60,000 pixels; at most"),
    ):
        with h5py.File(tmp_path / "other.h5", "w") as file:
            write(file)
        with pytest.raises(DataError, match=message):
            open_data(tmp_path / "other.h5")


LAYOUTS = {
    "channels first": lambda image, mask: (image.transpose(0, 3, 1, 2), mask[:, None]),
    "floats": lambda image, mask: ((image / 255).astype(np.float32), mask.astype(np.float32)),
    "alpha": lambda image, mask: (np.concatenate([image, image[..., :1]], axis=3), mask[..., None]),
    "layers": lambda image, mask: (image, (mask[:, None] == np.arange(5)[:, None, None]).astype(np.uint8) * 255),
    "layers last": lambda image, mask: (image, mask[..., None] == np.arange(5)),
}


@pytest.mark.parametrize("kind", ["hdf5", "groups", "groups of images", "npz", "npy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_give_the_same_samples(tmp_path, kind, layout):
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (12, 14, 16, 3), dtype=np.uint8), rng.integers(0, 5, (12, 14, 16))
    images, masks = LAYOUTS[layout](image, mask)
    path = tmp_path / "set"
    if kind == "npz":
        path = tmp_path / "set.npz"
        np.savez_compressed(path, images=images, masks=masks)
    elif kind == "npy":
        path.mkdir()
        np.save(path / "images.npy", images)
        np.save(path / "masks.npy", masks)
    else:
        path = tmp_path / "set.h5"
        with h5py.File(path, "w") as file:
            if kind == "hdf5":
                file["image"], file["mask"] = images, masks
            for row in range(12) if kind != "hdf5" else ():  # 10 after 9
                names = ("image/{}", "mask/{}") if kind == "groups" else ("{}/image", "{}/mask")
                file[names[0].format(row)], file[names[1].format(row)] = images[row], masks[row]
    data = open_data(path, split="all")
    assert (data.has_masks, len(data)) == (True, 12)
    assert data.describe()["kind"] == ("npz" if kind in ("npz", "npy") else "hdf5")
    data = pickle.loads(pickle.dumps(data))
    for row in (0, 2, 11):
        assert (data.read(row).image == image[row]).all() and (data.read(row).mask == mask[row]).all()


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.full((20, 16, 16, 3), 9.0)}, r"'image': floats from 9 to 9; expected \[0, 1\]"),
        ({"image": np.zeros((20, 16, 16, 3), np.int16)}, "'image': values of type int16; expected uint8"),
        ({"image": np.zeros((20, 16, 16, 5), np.uint8)}, r"'image': an image of shape \[16, 16, 5\]; expected"),
        ({"image": np.zeros((0, 16, 16, 3), np.uint8)}, "'image' is empty"),
        ({"mask": np.zeros((19, 16, 16), np.uint8)}, "'mask' has 19 rows, 'image' 20"),
        ({"mask": np.zeros((20, 8, 16), np.uint8)}, r"'mask': a mask of shape \[8, 16\], its image has 16x16 pixels"),
        ({"mask": np.full((20, 16, 16), 0.5)}, "'mask': a mask of type float64; expected whole numbers"),
        ({"mask": np.zeros((20, 4, 16, 16), np.uint8)}, "'mask': pixels in none of 4 layers; the first has to be"),
        ({"image": None}, "no array 'image'; it has mask"),
    ],
)
def test_wrong_arrays(written, tmp_path, kind, arrays, message):
    path, arrays = written(**arrays)
    if kind == "npz":
        path = tmp_path / "set.npz"
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(DataError, match=rf"set\.{kind}.*{message}"):
        open_data(path)


def test_damaged_numpy_files_and_pickles_are_refused(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, image=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"set.npz: cannot be read \(Object arrays cannot be loaded"):
        open_data(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="set.npz: cannot be read"):
        open_data(path)


@pytest.mark.parametrize("value", [-2, 2**31, 2**63 + 5])
def test_ids_out_of_range_are_named(written, value):
    mask = np.zeros((20, 16, 16), np.uint64 if value > 2**32 else np.int64)
    mask[2, 0, 0] = value
    path, _ = written(mask=mask)
    with pytest.raises(
        DataError, match=r"object ids from .*; they must be -1 \(ignored\), 0 \(background\) or more, below 2\*\*31"
    ):
        open_data(path, split="val", resolution=8).batch([0])
    assert [str(value) in file.reason for file in check_data(path).broken] == [True]


def test_damaged_files_are_refused_in_one_sentence(written, tmp_path):
    whole = written(image=np.zeros((10, 4, 4, 3), np.uint8), mask=np.zeros((10, 4, 4), np.uint8))[0].read_bytes()
    rng, structure = np.random.default_rng(0), np.flatnonzero(np.frombuffer(whole, np.uint8))
    refused = 0
    for number in range(100):
        damaged, path = bytearray(whole), tmp_path / f"{number}.h5"  # HDF5 keeps a file of one name open
        damaged[rng.choice(structure)] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            data = open_data(path, split="all", resolution=8)
            data.batch(range(len(data)))
        except DataError as error:
            refused += str(path) in str(error)
    assert refused > 50


def test_truncated_file(written):
    path, _ = written()
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"set\.hdf5: cannot be opened as HDF5"):
        open_data(path)


def test_worker_processes_open_the_file_themselves(written):
    path, arrays = written()
    data = open_data(path, split="all")
    data.batch([0])
    batches = list(evaluation_batches(data, batch_size=6, workers=2))
    images = torch.cat([batch["image"] for batch in batches]).mul(255).round().permute(0, 2, 3, 1)
    np.testing.assert_array_equal(images, arrays["image"])


def test_missing_h5py_says_how_to_install(written, monkeypatch):
    path, _ = written()
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(DataError, match=r"pip install 'slotlab\[hdf5\]'"):
        open_data(path)
