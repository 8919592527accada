import json

import numpy as np
import pytest
import torch
from composition_samples import made_up_library, made_up_table, seeded_model
from safetensors.numpy import load_file

import slotlab
from slotlab import checkpoints
from slotlab.composition import PROTOCOLS, ConceptLibrary, fingerprint, fit_library
from slotlab.composition import library as library_module
from slotlab.composition.slots import choose_by_silhouette, cluster
from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.models.sampling import seeded_generator
from slotlab.released import LIBRARY_FOLDER, model_folder, released_names


def groups_and_concepts(library):
    """The pairs of true group and concept of the made-up object slots."""
    objects = ~library.table.background
    return {*zip(library.slots.argmax(axis=1)[objects].tolist(), library.concept[objects].tolist(), strict=True)}


def test_concepts_are_the_groups_of_slots():
    library = made_up_library()
    table = library.table
    assert library.concepts == 4
    assert sum(library.sizes) == len(table)
    assert (library.concept == 0).tolist() == table.background.tolist()
    assert library.sizes[1] >= library.sizes[2] >= library.sizes[3] > 0
    assert len(groups_and_concepts(library)) == 3
    for concept in range(4):
        mean = table.slots[library.members[concept]].mean(axis=0)
        np.testing.assert_allclose(library.centroids[concept], mean, atol=1e-4)
    assert library.facts["inertia"] < len(table)
    rows = library.central(1, 5)
    distance = np.linalg.norm(table.slots - library.centroids[1], axis=1)
    assert distance[rows].tolist() == sorted(distance[library.members[1]])[:5]


def test_the_number_of_concepts_is_that_of_slots_a_given_one_or_found_by_silhouette():
    assert ConceptLibrary.fit(made_up_table(slots=5)).concepts == 5
    first, second = (ConceptLibrary.fit(made_up_table(), concepts=6, seed=5) for _ in range(2))
    assert first.identity == second.identity
    library = ConceptLibrary.fit(made_up_table(), concepts="silhouette")
    assert library.concepts == 4
    assert max(library.facts["silhouettes"], key=library.facts["silhouettes"].get) == "4"
    few = np.repeat(np.eye(6, dtype=np.float32), 10, axis=0)
    assert list(choose_by_silhouette(few, 0)[1]) == [2, 3, 4, 6]  # of 60 slots only six differ


def test_many_slots_are_grouped_by_mini_batches(monkeypatch):
    monkeypatch.setattr("slotlab.composition.slots.MOST_FOR_KMEANS", 50)
    library = made_up_library(images=100)
    assert library.facts["algorithm"].startswith("MiniBatchKMeans")
    assert len(groups_and_concepts(library)) == 3


def test_a_member_of_a_concept_is_drawn():
    library = made_up_library()
    drawn = {tuple(library.draw(2, seeded_generator(seed)).tolist()) for seed in range(30)}
    assert 5 < len(drawn) <= library.sizes[2]
    assert drawn <= {tuple(slot) for slot in library.slots[library.members[2]].tolist()}
    with pytest.raises(ConfigError, match=r"there is no concept 4; there are 4, numbered 0 \(the background\) to 3"):
        library.draw(4, seeded_generator(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made_up_library(90), r"80 object slots are too few for 89 clusters; lower --concepts to at most 81"),
        (lambda: made_up_library(1), "at least 2"),
        (lambda: made_up_library("elbow"), "or silhouette, not 'elbow'"),
        (lambda: cluster(np.ones((10, 3), np.float32), 3, 0), "too much alike"),
        (lambda: cluster(np.zeros((0, 8), np.float32), 3, 0), "every slot is a background slot"),
    ],
)
def test_impossible_numbers_of_concepts(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_saved_library_is_the_same_and_knows_its_model(any_model, dataset, squares, tiny_preset, tmp_path):
    sources = {"model": "runs/first", "data": str(squares)}
    library = fit_library(any_model, dataset, tmp_path, concepts=2, sources=sources)
    assert {path.name for path in tmp_path.iterdir()} == {"library.json", "slots.safetensors"}
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1, "modes"
    loaded = ConceptLibrary.load(tmp_path, any_model)
    assert loaded.identity == library.identity
    assert loaded.facts == library.facts
    assert loaded.sources == sources
    np.testing.assert_array_equal(loaded.slots, library.slots)
    content = json.loads((tmp_path / "library.json").read_text())
    assert content["slots"]["data"] == dataset.describe()
    assert content["slots"]["fingerprint"] == fingerprint(any_model)
    assert sum(content["sizes"]) == len(library.table)
    assert set(content["clusters"]["purity"]) >= {"object slots mostly on a true object"}
    assert content["clusters"]["attributes"] == {}, "this data set does not describe its objects"
    other = seeded_model(tiny_preset)
    message = f"{fingerprint(any_model)[:12]}.*{fingerprint(other)[:12]}.*runs/first.*slotlab concepts fit"
    with pytest.raises(CheckpointError, match=message):
        ConceptLibrary.load(tmp_path, other)


def test_a_rounded_library_is_stored_in_half_the_size_and_loads_exactly(tmp_path):
    library = made_up_library()
    rounded = library.rounded()
    assert rounded.identity != library.identity
    np.testing.assert_allclose(rounded.slots, library.slots, rtol=2**-11, atol=2**-24)
    rounded.save(tmp_path)
    assert load_file(tmp_path / "slots.safetensors")["slots"].dtype == np.float16
    loaded = ConceptLibrary.load(tmp_path)
    assert loaded.slots.dtype == np.float32
    assert loaded.identity == rounded.identity
    library.slots[0, 0] = 1e5
    with pytest.raises(CheckpointError, match="not finite in float16"):
        library.rounded()


def test_a_library_is_replaced_with_its_picture_and_nothing_else_is(model, dataset, tmp_path):
    with pytest.raises(ConfigError, match="at least 2"):
        next(fit_library.steps(model, dataset, tmp_path, concepts=1))  # before the long work
    fit_library(model, dataset, tmp_path / "library", concepts=2)
    (tmp_path / "library" / "concepts.png").write_bytes(b"of two concepts")
    assert fit_library(model, dataset, tmp_path / "library", concepts=3).concepts == 3
    assert not (tmp_path / "library" / "concepts.png").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"a photo")
    with pytest.raises(ConfigError, match="photos: holds something else than a concept library"):
        fit_library(model, dataset, tmp_path / "photos", concepts=2)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.png"]


def test_a_library_opens_its_data(squares, tmp_path):
    library = made_up_library()
    with pytest.raises(DataError, match="does not say where its data is"):
        library.dataset()
    library.sources |= {"data": str(squares), "opening": {"split": "all"}}
    assert len(library.dataset()) == 40
    library.sources["data"] = str(tmp_path / "moved")
    with pytest.raises(DataError, match="which is needed to show its slots"):
        library.dataset()
    assert len(library.dataset(str(squares))) == 40


def test_a_fingerprint_outlives_saving_and_knows_config_and_weights(tiny_preset, diffusion_run, tmp_path):
    model = seeded_model(tiny_preset)
    checkpoints.save(model, tmp_path)
    before = fingerprint(model)
    assert fingerprint(slotlab.load(tmp_path)) == before
    assert fingerprint(slotlab.load(diffusion_run)) == fingerprint(slotlab.load(diffusion_run).train())
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(model) != before


def test_released_libraries_open_and_compose():
    for name in (name for name in released_names() if (model_folder(name) / LIBRARY_FOLDER).is_dir()):
        library = slotlab.load_library(name)
        for protocol in PROTOCOLS:
            assert len(PROTOCOLS[protocol](library, 2, 0)[1].rows) > 1


def test_damaged_libraries_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="library.json: missing"):
        ConceptLibrary.load(tmp_path)
    made_up_library().save(tmp_path)
    made_up_library(seed=1).save(tmp_path / "other")
    (tmp_path / "other" / "slots.safetensors").replace(tmp_path / "slots.safetensors")
    with pytest.raises(CheckpointError, match="not the file that library.json describes"):
        ConceptLibrary.load(tmp_path)
    (tmp_path / "slots.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="damaged concept library"):
        ConceptLibrary.load(tmp_path)
    (tmp_path / "library.json").write_text('{"format": "slotlab-concepts", "version": 99}')
    with pytest.raises(CheckpointError, match="version 99"):
        ConceptLibrary.load(tmp_path)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("sources", "data", 3),
        ("clusters", "purity", "much"),
        ("clusters", "attributes", {"shape": {"purity": 1.0}}),
        ("slots", "fingerprint", None),
        ("slots", "slots_per_image", "five"),
        ("slots", "data", {"data": "moved"}),
    ],
)
def test_damaged_settings_of_a_library_are_named(part, key, value, tmp_path):
    made_up_library().save(tmp_path)
    content = json.loads((tmp_path / "library.json").read_text())
    content[part][key] = value
    (tmp_path / "library.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"{key}.*; fit it again"):
        ConceptLibrary.load(tmp_path)
    del content[part]
    (tmp_path / "library.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"{part}.*: Input should be a valid"):
        ConceptLibrary.load(tmp_path)


@pytest.mark.parametrize("killed_at", ["library.json", "slots.safetensors"])
def test_a_fit_that_was_killed_is_repeated_in_its_folder(killed_at, model, dataset, monkeypatch, tmp_path):
    def killed(path, content=None):
        (tmp_path / f".{path.name}.999999999.tmp").write_bytes(b"half")
        raise KeyboardInterrupt

    name = "write_json" if killed_at == "library.json" else "replacing"
    with monkeypatch.context() as patch:
        patch.setattr(library_module, name, killed)
        with pytest.raises(KeyboardInterrupt):
            fit_library(model, dataset, tmp_path, concepts=2)
    assert (tmp_path / f".{killed_at}.999999999.tmp").exists()
    assert fit_library(model, dataset, tmp_path, concepts=2).concepts == 2
    assert {path.name for path in tmp_path.iterdir()} == {"library.json", "slots.safetensors"}
