import pytest
import torch
from reporting_samples import write_data, write_run


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "pictures")


@pytest.fixture
def run(tmp_path, data):
    return write_run(tmp_path / "run", data)
