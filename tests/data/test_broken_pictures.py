"""What a run meets in the wild, through the data sets rather than the decoder alone."""

import shutil

import pytest
import torch

from slotlab.data import evaluation_batches, open_data, training_batches
from slotlab.errors import DataError


def test_without_leave_the_first_broken_picture_stops_the_run(damaged):
    with pytest.raises(DataError, match=r"000019\.png: its mask"):
        open_data(damaged, split="all")
    (damaged / "1" / "CLEVRTEX_full_000019.png").unlink()
    data = open_data(damaged, split="all", resolution=8)
    with pytest.raises(DataError, match=r"000004\.png: it cannot be decoded .*skip_broken=True"):
        data.batch(range(19))
    with pytest.raises(DataError, match=r"000005\.png: the file is empty"):
        data[5]
    with pytest.raises(DataError, match=r"000009_flat\.png: mode RGB instead of a palette"):
        data[9]


@pytest.mark.parametrize("workers", [0, 2])
def test_with_leave_the_next_readable_one_is_taken_and_all_are_counted(damaged, workers):
    data = open_data(damaged, split="all", resolution=8, skip_broken=True)
    batches = list(evaluation_batches(data, batch_size=5, workers=workers))
    indices = torch.cat([batch["index"] for batch in batches]).tolist()
    assert indices == [0, 1, 2, 3, 6, 6, 6, 7, 8, 10, *range(10, 19), 0]
    assert sorted(file.file[-10:] for file in data.broken) == ["000004.png", "000005.png", "000009.png", "000019.png"]
    assert data.describe()["broken"] == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_training_names_the_broken_file_whatever_the_workers(damaged, workers):
    (damaged / "1" / "CLEVRTEX_full_000019.png").unlink()
    batches = training_batches(open_data(damaged, resolution=8, split="all"), batch_size=19, seed=0, workers=workers)
    with pytest.raises(DataError) as error:
        next(batches)
    assert "CLEVRTEX_full_0000" in str(error.value)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("skip_broken", [False, True])
def test_a_data_set_that_disappears(clevrtex, skip_broken):
    root = clevrtex(10)
    data = open_data(root, resolution=8, skip_broken=skip_broken)
    data.batch([0, 1])
    shutil.rmtree(root)
    with pytest.raises(DataError, match="clevrtex_full: the data set is gone"):
        data.batch([2, 3])


def test_all_broken(folder):
    root = folder(5)
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"images in a row are broken.*slotlab data check"):
        open_data(root, split="all", skip_broken=True)[2]
