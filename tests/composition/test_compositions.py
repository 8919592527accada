import json

import numpy as np
import pytest
import torch
from composition_samples import made_up_library
from PIL import Image

from slotlab.composition import PROTOCOLS, ConceptLibrary, compose, compositions, score_compositions
from slotlab.composition.compositions import origin, paint_plans, read_plans
from slotlab.data import open_data
from slotlab.errors import CheckpointError, ConfigError
from slotlab.fidelity import open_network
from slotlab.figures.composition import concept_figure, contact_sheet


@pytest.fixture
def library(any_model, libraries):
    return ConceptLibrary.load(libraries[any_model.kind], any_model)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_plan_depends_on_seed_and_number_alone_and_takes_one_slot_of_an_image(protocol):
    library = made_up_library()
    make = PROTOCOLS[protocol]
    assert make(library, 30, 1)[:7] == make(library, 7, 1)
    assert make(library, 7, 1) != make(library, 7, 2)
    assert [plan.number for plan in make(library, 7, 1)] == list(range(7))
    for plan in make(library, 60, 0):
        assert len({*library.table.index[list(plan.rows)]}) == len(plan.rows)


def test_report_takes_one_member_of_each_concept_uniformly():
    library = made_up_library(images=40)
    made = compositions.report(library, 2000, 0)
    for plan in made:
        assert library.concept[list(plan.rows)].tolist() == [0, 1, 2, 3]
    drawn = np.bincount([plan.rows[1] for plan in made], minlength=len(library.table))[library.members[1]]
    assert drawn.min() > 0
    assert drawn.max() < 3 * drawn.mean()
    with pytest.raises(ConfigError, match="fit it to more images"):
        compositions.report(made_up_library(images=3, slots=9), 1, 0)


def test_shuffle_takes_slot_i_of_image_b_plus_i():
    library = made_up_library(images=20)
    made = compositions.shuffle(library, 20, 0)
    order = [library.table.index[plan.rows[0]] for plan in made]
    assert sorted(order) == sorted(set(library.table.index))
    for b, plan in enumerate(made):
        assert library.table.number[list(plan.rows)].tolist() == [0, 1, 2, 3, 4]
        assert library.table.index[list(plan.rows)].tolist() == [order[(b + i) % 20] for i in range(5)]
    assert {plan.rows for plan in compositions.shuffle(library, 40, 0)[20:]}.isdisjoint({plan.rows for plan in made})


def test_shuffle_leaves_empty_slots_out():
    dropped = {(image, slot) for image in range(20) for slot in (2, 4)}
    library = made_up_library(dropped=dropped, concepts=3)
    for plan in compositions.shuffle(library, 20, 0):
        assert library.table.number[list(plan.rows)].tolist() == [0, 1, 3]
        assert plan.wanted == 5


def test_shuffle_never_paints_nothing():
    dropped = {(image, slot) for image in range(20) for slot in range(5) if slot != image % 5}
    library = made_up_library(images=20, concepts=2)
    table = library.table
    keep = np.array([(i, n) not in dropped for i, n in zip(table.position, table.number, strict=True)])
    for name, values in table.columns().items():
        setattr(table, name, values[keep])
    library.concept = library.concept[keep]
    assert all(plan.rows for plan in compositions.shuffle(library, 20, 0))
    with pytest.raises(ConfigError, match="20 images"):
        table.facts["slots_per_image"] = 21
        compositions.shuffle(library, 1, 0)


def test_scene_has_one_background_and_objects_that_do_not_collide():
    dropped = {(image, slot) for image in range(10) for slot in (3, 4)}
    library = made_up_library(dropped=dropped)
    table = library.table
    wanted, placed = [], []
    for plan in compositions.scene(library, 200, 0):
        background, *objects = plan.rows
        assert library.concept[background] == 0
        assert (library.concept[objects] != 0).all()
        radius = 2 * np.sqrt(table.area[objects] / np.pi)
        distance = np.linalg.norm(table.centre[objects][:, None] - table.centre[objects][None], axis=2)
        apart = distance >= radius[:, None] + radius[None] - 1e-6
        assert apart[~np.eye(len(objects), dtype=bool)].all()
        wanted.append(plan.wanted - 1)
        placed.append(len(objects))
    assert set(wanted) == {2, 4}, "the numbers of objects that the images have"
    assert 70 < wanted.count(2) < 130
    assert placed == wanted, "small slots find a place"
    table.area[:] = 0.9
    assert {len(plan.rows) for plan in compositions.scene(library, 5, 0)} == {2}, "large ones are left out"


def test_whole_prefers_slots_that_fill_their_masks_where_the_library_knows_them():
    library = made_up_library(images=40)
    scene, whole = (
        np.concatenate([library.table.fill[list(plan.rows[1:])] for plan in PROTOCOLS[name](library, 100, 0)])
        for name in ("scene", "whole")
    )
    assert scene.mean() < 0.7 < 0.85 < whole.mean()
    assert len({*whole}) > 50
    library.table.fill = None
    with pytest.raises(ConfigError, match="fit it again, or use scene"):
        PROTOCOLS["whole"](library, 1, 0)


def test_chosen_concepts_each_give_a_member():
    library = made_up_library()
    found = compositions.chosen(library, (1, 0, 1), 40, 5)
    for plan in found:
        assert library.concept[list(plan.rows)].tolist() == [1, 0, 1]
        assert len(set(library.table.index[list(plan.rows)].tolist())) == 3
    assert len({plan.rows for plan in found}) > 20
    assert compositions.chosen(library, (1, 0, 1), 3, 5) == found[:3]
    for concepts, message in (((), "name at least one"), ((0, 99), "there is no concept 99")):
        with pytest.raises(ConfigError, match=message):
            compositions.chosen(library, concepts, 1)


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "chosen"])
def test_images_are_what_the_model_paints_of_the_planned_slots(any_model, library, protocol, tmp_path):
    options = {"concepts": (0, 1, 1)} if protocol == "chosen" else {"protocol": protocol}
    steps = compose.steps(any_model, library, tmp_path, count=5, seed=9, batch_size=2, **options)
    assert list(steps) == [2, 2, 1]
    images = compose(any_model, library, tmp_path, count=5, seed=9, batch_size=2, **options)
    assert sorted(path.name for path in images.iterdir()) == [f"{number:06d}.png" for number in range(5)]
    settings = json.loads((tmp_path / "composition.json").read_text())
    assert (settings["protocol"], settings.get("concepts")) == (protocol, [0, 1, 1] if protocol == "chosen" else None)
    plans = (
        PROTOCOLS[protocol](library, 5, 9) if protocol in PROTOCOLS else compositions.chosen(library, (0, 1, 1), 5, 9)
    )
    assert read_plans(tmp_path) == plans
    lines = [json.loads(line) for line in (tmp_path / "compositions.jsonl").read_text().splitlines()]
    assert lines == [origin(library, plan) for plan in plans]
    for plan, line in zip(plans, lines, strict=True):
        assert [slot["index"] for slot in line["slots"]] == library.table.index[list(plan.rows)].tolist()
        assert [slot["concept"] for slot in line["slots"]] == library.concept[list(plan.rows)].tolist()
        (painted,) = paint_plans(any_model, library, [plan], seed=9)
        with Image.open(tmp_path / line["image"]) as image:
            found = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        assert (found - painted).abs().max() < 0.6 / 255 + 1e-4


def test_an_interrupted_composition_is_resumed_exactly(any_model, library, tmp_path, monkeypatch):
    options = {"protocol": "scene", "count": 7, "batch_size": 3}
    compose(any_model, library, tmp_path / "whole", **options)
    steps = compose.steps(any_model, library, tmp_path / "parts", **options)
    assert next(steps) == 3
    steps.close()
    images = tmp_path / "parts" / "images"
    assert len(list(images.iterdir())) == 3
    (images / "000001.png").unlink()
    (images / ".000004.png.1.tmp").write_bytes(b"half an image")
    before = (images / "000002.png").stat().st_mtime_ns
    compose(any_model, library, tmp_path / "parts", **options)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert (images / "000002.png").stat().st_mtime_ns == before
    monkeypatch.setattr(type(any_model), "paint", None)
    compose(any_model, library, tmp_path / "parts", **options)  # nothing left to paint


def test_what_cannot_be_composed_is_refused_and_nothing_is_written(model, diffusion, libraries, tmp_path):
    library = ConceptLibrary.load(libraries[model.kind])
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="does not hold a composition"):
        compose(model, library, tmp_path, count=1)
    compose(model, library, tmp_path / "out", count=2)
    before = contents(tmp_path)
    for options, message in (
        ({"seed": 1, "count": 2}, "with other settings .*seed was 0, now 1"),
        ({"count": 3}, "count was 2, now 3"),
        ({"protocol": "reports"}, "did you mean 'report'"),
        ({"count": 0}, "count: must be 1 or more"),
        ({"seed": -1}, "seed: must be 0 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            compose(model, library, tmp_path / "out", **options)
    with pytest.raises(CheckpointError, match="the library holds slots of model"):
        compose(diffusion, library, tmp_path / "other")
    assert contents(tmp_path) == before


def test_figures_of_concepts_and_compositions(any_model, library, dataset, squares, tmp_path):
    picture = concept_figure(any_model, library, dataset, members=3, cell=32)
    assert np.asarray(picture).std() > 10
    fewer = concept_figure(any_model, library, dataset, members=2, cell=32)
    assert fewer.width < picture.width and fewer.height == picture.height
    compose(any_model, library, tmp_path, count=4)
    sheet = contact_sheet(any_model, library, dataset, tmp_path, count=3, cell=32)
    assert sheet.height > 3 * 32
    with pytest.raises(ConfigError, match="the data set and split that the library was fitted to"):
        concept_figure(any_model, library, open_data(squares, resolution=16, split="val"))


def test_only_the_composition_of_this_library_is_scored(model, libraries, squares, feature_net, tmp_path):
    network = open_network(feature_net)
    library = ConceptLibrary.load(libraries[model.kind])
    data = open_data(squares, resolution=16, split="test")
    with pytest.raises(ConfigError, match="composition.json: missing; make a composition"):
        score_compositions(model, library, tmp_path, data, network)
    compose(model, library, tmp_path, count=1)
    with pytest.raises(ConfigError, match="another library"):
        score_compositions(model, ConceptLibrary.fit(library.table, concepts=3), tmp_path, data, network)
    (tmp_path / "images" / "000000.png").unlink()
    with pytest.raises(ConfigError, match="an unfinished composition"):
        score_compositions(model, library, tmp_path, data, network)
