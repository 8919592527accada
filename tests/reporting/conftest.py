import pytest
from reporting_samples import write_data, write_run


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "pictures")


@pytest.fixture
def run(tmp_path, data):
    return write_run(tmp_path / "run", data)
