import numpy as np
import pytest

import slotlab
from slotlab.data import KINDS, SlotDataset, open_data, pack
from slotlab.errors import ConfigError, DataError


def test_it_is_the_library_s_own_name():
    assert slotlab.open_data is open_data


def test_kind_is_recognised_by_content_or_forced(clevrtex, folder, tmp_path):
    tree, pictures = clevrtex(10), folder(10)
    packed = pack(pictures, tmp_path / "packed", resolution=8)
    for spec, kind in [
        (tree, "clevrtex"),
        (tree.parent / "clevrtex_full" / "0", "clevrtex"),
        (pictures, "images"),
        (pictures / "images", "images"),
        (packed, "packed"),
        (f"images:{pictures}", "images"),
        (f"clevrtex:{tree}", "clevrtex"),
    ]:
        data = open_data(spec, split="all")
        assert isinstance(data, SlotDataset)
        assert data.describe()["kind"] == kind
        assert len(data) == 10
        assert data.has_masks == ("mask" in data[0]) == (spec != pictures / "images")


def test_missing_folder_names_it_and_what_is_accepted(tmp_path):
    for spec in (tmp_path / "nowhere", f"images:{tmp_path / 'nowhere'}"):
        with pytest.raises(DataError, match=r"nowhere: no such file or folder; accepted are a CLEVRTex tree"):
            open_data(spec)
    with pytest.raises(DataError, match="did you mean scenes:textured"):
        open_data("scenes")


def test_empty_and_foreign_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: the folder is empty; accepted"):
        open_data(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds no data set \(notes\.txt\)"):
        open_data(tmp_path / "empty")
    with pytest.raises(DataError, match=r"notes\.txt: a file, but not HDF5"):
        open_data(tmp_path / "empty" / "notes.txt")
    (tmp_path / "empty" / "images").mkdir()
    with pytest.raises(DataError, match=r"images: no image file here"):
        open_data(tmp_path / "empty")
    with pytest.raises(DataError, match=r"no CLEVRTEX_<variant>"):
        open_data(f"clevrtex:{tmp_path / 'empty'}")


def test_unknown_kind_suggests_the_nearest():
    with pytest.raises(DataError, match=r"unknown kind of data 'clevertex'; did you mean 'clevrtex'\?"):
        open_data("clevertex:somewhere")


def test_unknown_option_suggests_the_nearest(clevrtex):
    with pytest.raises(ConfigError, match=r"varient: no option of clevrtex data; did you mean 'variant'\?"):
        open_data(clevrtex(10), varient="full")


def test_an_option_of_other_data_is_to_be_left_out(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="max_objects: no option of images data; leave it out"):
        open_data(tmp_path, max_objects=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"split": "training"}, "split='training'"), ({"count": 0}, "count=0"), ({"resolution": 0}, "resolution=0")],
)
def test_options_out_of_range(clevrtex, options, message):
    with pytest.raises(ConfigError, match=message):
        open_data(clevrtex(10), **options)


def test_every_kind_documents_its_format():
    for kind in KINDS.values():
        assert "Dataset format:" in (kind.__doc__ or "")


def test_scenes_unpacked_below_a_folder_named_images_are_not_read_as_pictures(clevrtex, tmp_path):
    clevrtex(10, root=tmp_path / "data" / "images")
    found = open_data(tmp_path / "data", split="all")
    assert (found.describe()["kind"], len(found)) == ("clevrtex", 10)


def test_numbers_of_other_libraries_are_taken_and_others_refused(folder):
    assert open_data(folder(), resolution=np.int64(8), count=np.int64(3))[0]["image"].shape == (3, 8, 8)
    for options in ({"resolution": 8.5}, {"count": 2.0}, {"crop": "0.8"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            open_data(folder(), **options)
