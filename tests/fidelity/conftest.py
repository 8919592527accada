import pytest
from stand_ins import write_images, write_network


@pytest.fixture(scope="session")
def network_file(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("networks") / "small net.pt")


@pytest.fixture
def folders(tmp_path):
    """Two folders of small pictures: different draws, and the second is brighter."""
    return write_images(tmp_path / "real"), write_images(tmp_path / "generated", count=15, seed=1, tint=60)
