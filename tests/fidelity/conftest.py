import pytest
from stand_ins import write_images


@pytest.fixture
def folders(tmp_path):
    """Two folders of small pictures: different draws, and the second is brighter."""
    return write_images(tmp_path / "real"), write_images(tmp_path / "generated", count=15, seed=1, tint=60)
