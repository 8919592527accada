import json

import numpy as np
import pytest
import torch
from composition_samples import made_up_library
from PIL import Image

from slotlab.checkpoints import create_model, save
from slotlab.composition import ConceptLibrary, compose, compositions, fit_library
from slotlab.composition.compositions import origin, paint_plans
from slotlab.data import open_data
from slotlab.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def made(tiny_preset, squares, tmp_path_factory):
    """The folders of a model and its library."""
    torch.manual_seed(3)
    model = create_model(tiny_preset).eval()
    folder = tmp_path_factory.mktemp("chosen")
    save(model, folder / "model")
    sources = {"model": str(folder / "model"), "data": str(squares), "opening": {"split": "all"}}
    data = open_data(squares, resolution=16, split="all")
    return model, fit_library(model, data, folder / "library", concepts=3, sources=sources), folder


def test_each_concept_gives_a_member_and_no_two_are_of_one_image():
    library = made_up_library()
    found = compositions.chosen(library, (1, 0, 1), 40, 5)
    for plan in found:
        assert library.concept[list(plan.rows)].tolist() == [1, 0, 1]
        assert len(set(library.table.index[list(plan.rows)].tolist())) == 3
    assert len({plan.rows for plan in found}) > 20
    assert compositions.chosen(library, (1, 0, 1), 3, 5) == found[:3]


@pytest.mark.parametrize(("concepts", "message"), [((), "name at least one"), ((0, 99), "there is no concept 99")])
def test_concepts_that_are_not_there_are_refused(concepts, message):
    with pytest.raises(ConfigError, match=message):
        compositions.chosen(made_up_library(), concepts, 1)


def test_compositions_of_chosen_concepts_say_so(made, tmp_path):
    model, library, _ = made
    compose(model, library, tmp_path / "out", concepts=(0, 2), count=3, seed=4)
    settings = json.loads((tmp_path / "out" / "composition.json").read_text())
    assert (settings["protocol"], settings["concepts"]) == ("chosen", [0, 2])
    lines = [json.loads(line) for line in (tmp_path / "out" / "compositions.jsonl").read_text().splitlines()]
    assert [[slot["concept"] for slot in line["slots"]] for line in lines] == [[0, 2]] * 3
    planned = compositions.chosen(library, (0, 2), 3, 4)
    assert [origin(library, plan) for plan in planned] == lines
    for plan, image in zip(planned, paint_plans(model, library, planned, 4), strict=True):
        stored = np.asarray(Image.open(tmp_path / "out" / "images" / f"{plan.number:06d}.png")) / 255
        assert np.abs(stored - image.permute(1, 2, 0).numpy()).max() <= 0.51 / 255


def test_the_command_composes_chosen_concepts(run_slotlab, made, tmp_path):
    folder, out = made[2], tmp_path / "out"
    options = ["--concept", 0, "--concept", 1, "--concept", 1, "--count", 2, "--sheet", 0]
    status, _, err = run_slotlab("compose", folder / "model", folder / "library", "--out", out, *options)
    assert status == 0, err
    first = json.loads((out / "compositions.jsonl").read_text().splitlines()[0])
    assert [slot["concept"] for slot in first["slots"]] == [0, 1, 1]
    assert len(list((out / "images").glob("*.png"))) == 2
    status, _, err = run_slotlab("compose", folder / "model", folder / "library", "--out", out, "--concept", 7)
    assert status == 2
    assert "there is no concept 7" in err or "holds another composition" in err


def test_a_library_opens_its_own_data(made, squares, tmp_path):
    library = ConceptLibrary.load(made[2] / "library")
    assert len(library.dataset()) == 40
    library.sources["data"] = str(tmp_path / "moved")
    with pytest.raises(DataError, match="it has to be there to show its slots"):
        library.dataset()
    assert len(library.dataset(str(squares))) == 40
    library.sources.clear()
    with pytest.raises(DataError, match="does not say where its data is"):
        library.dataset()
