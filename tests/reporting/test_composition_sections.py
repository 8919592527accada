import json

import pytest
from PIL import Image
from reporting_samples import tiny_model

import slotlab
from slotlab.composition import compose, fingerprint, fit_library
from slotlab.errors import CheckpointError
from slotlab.reporting.report import write_report
from slotlab.reporting.sections import composition_section, concept_section

MADE_BY = fingerprint(tiny_model())


@pytest.fixture
def composed(tmp_path, data):
    model = tiny_model()
    dataset = slotlab.open_data(data, split="all", resolution=model.resolution)
    library = fit_library(model, dataset, tmp_path / "library", concepts=2)
    compose(model, library, tmp_path / "composed", protocol="scene", count=2)
    return tmp_path


def test_a_library_shows_sizes_and_the_picture_if_there_is_one(composed):
    section = concept_section(composed / "library", MADE_BY)
    assert [row[0] for row in section.tables[0].rows] == ["background", "concept 1"]
    assert not section.figures
    Image.new("RGB", (30, 20)).save(composed / "library" / "concepts.png")
    assert concept_section(composed / "library", MADE_BY).figures[0].image.size == (30, 20)


def test_a_composition_shows_its_scores_once_it_has_some(composed):
    assert not composition_section(composed / "composed", MADE_BY).tables
    result = {"distance": 12.3456, "chance": 1.5, "generated": {"count": 2}}
    real = {"data": "pictures", "split": "val", "resolution": 16, "images": 4}
    scores = {"protocol": {"distance": "FD-net", "real": real}, "scene": result}
    (composed / "composed" / "scores.json").write_text(json.dumps(scores))
    section = composition_section(composed / "composed", MADE_BY)
    assert section.title == "Compositions: scene"
    assert section.tables[0].rows == [["scene", "12.35", "1.5", "2"]]
    assert "4 real images (pictures, split val, 16 pixels)" in section.tables[0].caption


def test_a_damaged_composition_is_named(run, composed):
    (composed / "composed" / "scores.json").write_text('{"protocol": {"distance": "FD-net"}}')
    with pytest.raises(CheckpointError, match="composed: damaged .*; compose it again"):
        write_report(run, images=1, compositions=[composed / "composed"])


def test_both_come_into_the_report(run, composed):
    page = write_report(run, images=1, library=composed / "library", compositions=[composed / "composed"]).read_text()
    assert "Concepts" in page and "Compositions: scene" in page


def test_other_folders_and_what_another_model_made_are_refused(composed, tmp_path):
    with pytest.raises(CheckpointError, match="slotlab concepts fit RUN"):
        concept_section(tmp_path, MADE_BY)
    with pytest.raises(CheckpointError, match="slotlab compose RUN LIBRARY"):
        composition_section(tmp_path, MADE_BY)
    for section, folder in ((concept_section, "library"), (composition_section, "composed")):
        with pytest.raises(CheckpointError, match=f"{folder}: is of model .* leave it out"):
            section(composed / folder, "another")
