import pytest
from PIL import Image

from slotlab.errors import DataError
from slotlab.studio.image_chooser import take_upload


def test_an_uploaded_file_is_removed_whether_it_is_read_or_not(tmp_path):
    path = tmp_path / "upload.png"
    Image.new("RGB", (32, 32)).save(path)
    assert take_upload(path).pixels.shape == (32, 32, 3)
    path.write_bytes(b"hello")
    with pytest.raises(DataError, match="^This image: it cannot be decoded"):
        take_upload(path)
    assert not path.exists()
