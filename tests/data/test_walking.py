from slotlab.data import open_data


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
