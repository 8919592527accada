import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from slotlab.data import check_data
from slotlab.errors import DataError
from slotlab.reporting.tables import data_table


def shown(result):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(data_table(result))
    return console.export_text()


def test_counts_everything(clevrtex):
    result = check_data(clevrtex(20))
    assert result.ok
    assert result.splits == {"test": 2, "val": 2, "train": 16}
    assert (result.count, result.masks, result.kind, result.crop) == (20, 20, "clevrtex", 0.8)
    assert result.sizes == {"40x30": 20}
    assert result.modes == {"RGB": 20}
    assert result.objects == {1: 7, 2: 7, 3: 6} == result.objects_cropped
    text = shown(result)
    assert "test 2, val 2, train 16" in text
    assert "1: 7, 2: 7, 3: 6" in text


def test_objects_that_the_crop_removes(folder):
    root = folder(10)
    mask = np.zeros((30, 40), np.uint8)
    mask[:, :3], mask[10:20, 15:20] = 1, 9
    Image.fromarray(mask).save(root / "masks" / "000.png")
    result = check_data(root, crop=0.5)
    assert result.gaps == 1
    assert sum(result.objects.values()) == 10
    assert result.objects != result.objects_cropped
    assert "objects after crop 0.5" in shown(result)


def test_every_broken_file_is_listed(damaged, clevrtex):
    stem = "CLEVRTEX_full_0000"
    Image.new("P", (9, 9)).save(damaged / "1" / f"{stem}11_flat.png")
    (damaged / "1" / f"{stem}12.json").write_text("{")
    clevrtex(1, root=damaged / "again", first=15)
    result = check_data(damaged)
    assert not result.ok
    assert (result.count, result.masks) == (20, 15)
    said = {
        "000004.png": "cannot be decoded",
        "000005.png": "0 bytes",
        "000009.png": "mode RGB instead of a palette",
        "000011.png": "9x9 pixels, but its image",
        "000012.json": "JSON",
        "000015.png": "index 15 is also that of",
        "000019.png": "is missing",
    }
    reasons = {file.file.rsplit("_", 1)[-1]: file.reason for file in result.broken}
    assert reasons.keys() == said.keys() and len(result.broken) == 7
    assert [name for name, words in said.items() if words not in reasons[name]] == []
    assert "000004.png" in shown(result)
    assert not result.ok


def test_modes_and_sizes_are_counted(folder):
    root = folder(10, masks=False)
    Image.new("L", (20, 20)).save(root / "images" / "000.png")
    Image.new("RGBA", (20, 20)).save(root / "images" / "001.png")
    result = check_data(root)
    assert result.modes == {"RGB": 8, "L": 1, "RGBA": 1}
    assert result.sizes == {"40x30": 8, "20x20": 2}
    assert result.masks == 0
    assert "objects" not in shown(result)


def test_nothing_to_check(tmp_path):
    with pytest.raises(DataError, match="the folder is empty"):
        check_data(tmp_path)
