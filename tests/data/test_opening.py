import numpy as np
import pytest

from slotlab.data import KINDS, SlotDataset, open_data, pack
from slotlab.errors import ConfigError, DataError


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


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("clevertex:somewhere", {}, r"unknown kind of data 'clevertex'; did you mean 'clevrtex'\?"),
        ("{}", {"varient": "full"}, r"varient: no option of clevrtex data; did you mean 'variant'\?"),
        ("images:{}/0", {"max_objects": 3}, "max_objects: no option of images data; leave it out"),
        ("{}", {"split": "training"}, "split='training'"),
        ("{}", {"count": 0}, "count=0"),
        ("{}", {"count": 2.0}, "count=2.0: expected a whole number"),
        ("{}", {"resolution": 0}, "resolution=0"),
        ("{}", {"resolution": 8.5}, "resolution=8.5: expected a whole number"),
        ("{}", {"crop": "0.8"}, "crop="),
        ("{}", {"crop": 1.1}, "crop=1.1: expected a fraction"),
    ],
)
def test_mistakes_are_named_with_the_nearest_right_word(clevrtex, spec, options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        open_data(spec.format(clevrtex(10)), **options)


def test_every_kind_documents_its_format():
    for kind in KINDS.values():
        assert "Dataset format:" in (kind.__doc__ or "")


def test_scenes_unpacked_below_a_folder_named_images_are_not_read_as_pictures(clevrtex, tmp_path):
    clevrtex(10, root=tmp_path / "data" / "images")
    found = open_data(tmp_path / "data", split="all")
    assert (found.describe()["kind"], len(found)) == ("clevrtex", 10)


def test_numbers_of_other_libraries_are_taken(folder):
    assert open_data(folder(), resolution=np.int64(8), count=np.int64(3))[0]["image"].shape == (3, 8, 8)
