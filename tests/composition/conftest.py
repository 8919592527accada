import pytest
from composition_samples import pictures

from slotlab.checkpoints import load, save
from slotlab.composition import fit_library
from slotlab.composition.edits import read_scene
from slotlab.data import open_data


@pytest.fixture(scope="module")
def model(distinct):
    return distinct()


@pytest.fixture(scope="module")
def diffusion(diffusion_run):
    return load(diffusion_run)


@pytest.fixture(params=["model", "diffusion"])
def any_model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def dataset(squares):
    return open_data(squares, resolution=16)


@pytest.fixture(scope="module")
def model_folder(model, tmp_path_factory):
    save(model, folder := tmp_path_factory.mktemp("model"))
    return folder


@pytest.fixture(scope="module")
def libraries(model, diffusion, dataset, tmp_path_factory):
    """The folder of a library of each model, by the model's kind."""
    folders = {one.kind: tmp_path_factory.mktemp("library") for one in (model, diffusion)}
    for one in (model, diffusion):
        fit_library(one, dataset, folders[one.kind], concepts=2)
    return folders


@pytest.fixture
def scenes(any_model, squares):
    return [read_scene(any_model, path) for path in pictures(squares)[:2]]


@pytest.fixture
def scene(model, squares):
    return read_scene(model, pictures(squares)[0])
