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

    for write, message in (
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


def test_a_group_of_pictures_is_refused(tmp_path):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["image/0"] = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(DataError, match=r"set.h5: 'image' is a group; write all images as one array"):
        open_data(tmp_path / "set.h5")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((20, 16, 16, 3), np.float32)}, r"'image' is float32 .* expected uint8 \(N, H, W, 3\)"),
        ({"image": h5py.Empty("u1")}, r"'image' is uint8 \(\); expected"),
        ({"image": np.zeros((0, 16, 16, 3), np.uint8)}, r"'image' is uint8 \(0, 16, 16, 3\)"),
        ({"image": np.zeros((20, 3, 16, 16), np.uint8)}, r"'image' is uint8 \(20, 3, 16, 16\)"),
        ({"mask": np.zeros((19, 16, 16), np.uint8)}, r"'mask' is uint8 \(19, 16, 16\); expected integer ids"),
        ({"mask": np.zeros((20, 16, 16), np.float32)}, r"'mask' is float32"),
    ],
)
def test_wrong_arrays(written, arrays, message):
    with pytest.raises(DataError, match=rf"set\.hdf5: {message}"):
        open_data(written(**arrays)[0])


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


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_open_the_file_themselves(written, workers):
    path, arrays = written()
    data = open_data(path, split="all")
    data.batch([0])
    batches = list(evaluation_batches(data, batch_size=6, workers=workers))
    images = torch.cat([batch["image"] for batch in batches]).mul(255).round().permute(0, 2, 3, 1)
    np.testing.assert_array_equal(images, arrays["image"])


def test_pickled_without_its_handle(written):
    data = open_data(written()[0], split="all")
    assert torch.equal(pickle.loads(pickle.dumps(data))[3]["image"], data[3]["image"])


def test_missing_h5py_says_how_to_install(written, monkeypatch):
    path, _ = written()
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(DataError, match=r"pip install 'slotlab\[hdf5\]'"):
        open_data(path)
