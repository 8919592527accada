import json

import numpy as np
import pytest
import torch
from composition_samples import made_up_library
from PIL import Image

import slotlab
from slotlab import checkpoints
from slotlab.composition import PROTOCOLS, ConceptLibrary, compose, compositions, fit_library, score_compositions
from slotlab.composition.compositions import read_plans
from slotlab.data import open_data
from slotlab.errors import CheckpointError, ConfigError
from slotlab.figures.composition import concept_picture, contact_sheet
from slotlab.models.randomness import seeded_generator


@pytest.fixture(scope="module")
def small(tiny_preset, squares, tmp_path_factory):
    """A model and its library."""
    torch.manual_seed(3)
    model = checkpoints.create_model(tiny_preset).eval()
    folder = tmp_path_factory.mktemp("library")
    return model, fit_library(model, open_data(squares, resolution=16), folder, concepts=2)


@pytest.fixture(scope="module")
def large(diffusion_run, squares, tmp_path_factory):
    """The same of slot diffusion."""
    model = slotlab.load(diffusion_run)
    folder = tmp_path_factory.mktemp("library")
    return model, fit_library(model, open_data(squares, resolution=16), folder, concepts=2)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_plan_depends_on_seed_and_number_alone(protocol):
    library = made_up_library()
    make = PROTOCOLS[protocol]
    assert make(library, 30, 1)[:7] == make(library, 7, 1)
    assert make(library, 7, 1) != make(library, 7, 2)
    assert [plan.number for plan in make(library, 7, 1)] == list(range(7))


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_no_two_slots_come_from_one_image(protocol):
    library = made_up_library()
    for plan in PROTOCOLS[protocol](library, 60, 0):
        images = library.table.index[list(plan.rows)]
        assert len(np.unique(images)) == len(images)


def test_report_takes_one_member_of_each_concept_uniformly():
    library = made_up_library(images=40)
    made = compositions.report(library, 2000, 0)
    for plan in made:
        assert library.concept[list(plan.rows)].tolist() == [0, 1, 2, 3]
    drawn = np.bincount([plan.rows[1] for plan in made], minlength=len(library.table))[library.members[1]]
    assert drawn.min() > 0
    assert drawn.max() < 3 * drawn.mean()


def test_report_needs_enough_images():
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


def test_scene_leaves_out_what_finds_no_place():
    library = made_up_library()
    library.table.area[:] = 0.9
    assert {len(plan.rows) for plan in compositions.scene(library, 5, 0)} == {2}


@pytest.mark.parametrize("which", ["small", "large"])
@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_pictures_are_what_the_model_paints_of_the_planned_slots(which, protocol, request, tmp_path):
    model, library = request.getfixturevalue(which)
    done = []
    images = compose(model, library, tmp_path, protocol=protocol, count=5, seed=9, batch_size=2, on_batch=done.append)
    assert done == [2, 2, 1]
    assert sorted(path.name for path in images.iterdir()) == [f"{number:06d}.png" for number in range(5)]
    lines = [json.loads(line) for line in (tmp_path / "compositions.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == list(range(5))
    assert read_plans(tmp_path) == PROTOCOLS[protocol](library, 5, 9)
    for line in lines:
        rows = [slot["row"] for slot in line["slots"]]
        assert [slot["index"] for slot in line["slots"]] == library.table.index[rows].tolist()
        assert [slot["concept"] for slot in line["slots"]] == library.concept[rows].tolist()
        painted, _ = model.paint(
            torch.from_numpy(library.slots[rows])[None], None, [seeded_generator(9, line["number"])]
        )
        with Image.open(tmp_path / line["image"]) as image:
            found = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        assert (found - painted[0].detach()).abs().max() < 0.6 / 255 + 1e-4


@pytest.mark.parametrize("which", ["small", "large"])
def test_an_interrupted_composition_goes_on_exactly(which, request, tmp_path, monkeypatch):
    model, library = request.getfixturevalue(which)
    options = {"protocol": "scene", "count": 7, "batch_size": 3}
    compose(model, library, tmp_path / "whole", **options)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compose(model, library, tmp_path / "parts", **options, on_batch=stop)
    images = tmp_path / "parts" / "images"
    assert len(list(images.iterdir())) == 3
    (images / "000001.png").unlink()
    (images / ".000004.png.1.tmp").write_bytes(b"half a picture")
    before = (images / "000002.png").stat().st_mtime_ns
    compose(model, library, tmp_path / "parts", **options)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert (images / "000002.png").stat().st_mtime_ns == before
    monkeypatch.setattr(type(model), "paint", None)
    compose(model, library, tmp_path / "parts", **options)  # nothing left to paint


def test_folders_with_other_content_are_refused(small, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something else"):
        compose(*small, tmp_path, count=1)
    compose(*small, tmp_path / "out", count=2)
    before = contents(tmp_path / "out")
    with pytest.raises(ConfigError, match="another composition .*seed 0 there, 1 here"):
        compose(*small, tmp_path / "out", count=2, seed=1)
    with pytest.raises(ConfigError, match="count 2 there, 3 here"):
        compose(*small, tmp_path / "out", count=3)
    assert contents(tmp_path / "out") == before


def test_another_model_and_wrong_arguments_are_refused(small, large, tmp_path):
    with pytest.raises(CheckpointError, match="the library holds slots of model"):
        compose(large[0], small[1], tmp_path / "out")
    for options, message in (
        ({"protocol": "reports"}, "did you mean 'report'"),
        ({"count": 0}, "count: must be 1 or more"),
        ({"seed": -1}, "seed: must be 0 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            compose(*small, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", ["small", "large"])
def test_pictures_of_concepts_and_compositions(which, request, squares, tmp_path):
    model, library = request.getfixturevalue(which)
    data = open_data(squares, resolution=16)
    picture = concept_picture(model, library, data, members=3, cell=32)
    assert np.asarray(picture).std() > 10
    fewer = concept_picture(model, library, data, members=2, cell=32)
    assert fewer.width < picture.width and fewer.height == picture.height
    compose(model, library, tmp_path, count=4)
    sheet = contact_sheet(model, library, data, tmp_path, count=3, cell=32)
    assert sheet.height > 3 * 32
    with pytest.raises(ConfigError, match="the data set and split that the library was fitted to"):
        concept_picture(model, library, open_data(squares, resolution=16, split="val"))


def test_poses_go_with_their_slots(tiny_preset, squares, tmp_path):
    torch.manual_seed(0)
    model = checkpoints.create_model(
        tiny_preset, **{"slot_attention.frame": "relative", "decoder.position": "relative"}
    ).eval()
    library = fit_library(model, open_data(squares, resolution=16), tmp_path / "library", concepts=2)
    assert library.table.poses.shape == (len(library.table), 4)
    compose(model, library, tmp_path / "out", count=2, protocol="shuffle")
    rows = list(read_plans(tmp_path / "out")[1].rows)
    slots, poses = (torch.from_numpy(values[rows])[None] for values in (library.slots, library.table.poses))
    painted, _ = model.paint(slots, poses)
    with Image.open(tmp_path / "out" / "images" / "000001.png") as image:
        found = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert (found - painted[0].detach()).abs().max() < 0.6 / 255 + 1e-4


def test_only_the_composition_of_this_library_is_scored(small, squares, tmp_path):
    model, library = small
    data = open_data(squares, resolution=16, split="test")
    with pytest.raises(ConfigError, match="no composition to score"):
        score_compositions(model, library, tmp_path, data)
    compose(model, library, tmp_path, count=1)
    other = ConceptLibrary.fit(library.table, concepts=3)
    with pytest.raises(ConfigError, match="another library"):
        score_compositions(model, other, tmp_path, data)
    (tmp_path / "images" / "000000.png").unlink()
    with pytest.raises(ConfigError, match="an unfinished composition"):
        score_compositions(model, library, tmp_path, data)
