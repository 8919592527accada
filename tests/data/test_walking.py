import os

import pytest

from slotlab.data import open_data
from slotlab.errors import DataError


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
