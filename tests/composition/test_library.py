import json

import numpy as np
import pytest
import torch
from composition_samples import made_up_library, made_up_table
from safetensors.numpy import load_file
from torch.nn import functional as F

import slotlab
from slotlab import checkpoints
from slotlab.composition import ConceptLibrary, SlotTable, extract, fingerprint, fit_library
from slotlab.composition import library as library_module
from slotlab.composition.library import cluster
from slotlab.composition.slots import Seen
from slotlab.data import open_data
from slotlab.errors import CheckpointError, ConfigError
from slotlab.models.randomness import seeded_generator


@pytest.fixture
def model(tiny_preset):
    torch.manual_seed(3)
    return checkpoints.create_model(tiny_preset)


@pytest.fixture
def dataset(squares):
    return open_data(squares, resolution=16)


def test_slots_on_disk_are_those_of_the_model(model, dataset, tmp_path):
    seen = []
    table = extract(model, dataset, tmp_path / "slots", batch_size=5, seed=7, on_batch=seen.append)
    assert sum(seen) == len(dataset) == 32
    assert model.training
    model.eval()
    for row in range(0, len(table), 9):
        batch = dataset.batch([int(table.position[row])])
        assert int(batch["index"][0]) == table.index[row]
        with torch.inference_mode():
            output = model(batch["image"], [seeded_generator(7, int(table.index[row]))])
        number = int(table.number[row])
        np.testing.assert_allclose(table.slots[row], output.slots[0, number], atol=1e-5)
        owned = output.segmentation("masks")[0] == number
        assert table.area[row] == pytest.approx(owned.float().mean().item())
        assert table.truth[row] in batch["mask"][0][owned]
    again = SlotTable.open(tmp_path / "slots")
    np.testing.assert_array_equal(again.slots, table.slots)
    assert again.facts["dropped"] == 32 * 4 - len(table)
    assert not list(tmp_path.glob(".*")), "nothing temporary is left"


def test_a_number_of_concepts_that_cannot_be_is_refused_before_the_work(model, dataset, tmp_path):
    seen = []
    with pytest.raises(ConfigError, match="concepts: at least 2"):
        fit_library(model, dataset, tmp_path / "library", concepts=1, on_batch=seen.append)
    assert not seen


def test_background_alone_makes_no_concepts():
    with pytest.raises(ConfigError, match="no object slot, only background"):
        cluster(np.zeros((0, 8), np.float32), 3, seed=0)


def test_batches_do_not_change_the_slots(model, dataset, tmp_path):
    first, second = (extract(model, dataset, tmp_path / str(size), batch_size=size) for size in (3, 32))
    np.testing.assert_allclose(first.slots, second.slots, atol=1e-5)
    np.testing.assert_array_equal(first.number, second.number)


def test_areas_centres_background_and_empty_slots(monkeypatch, model, tmp_path, squares):
    owners = torch.zeros(1, 16, 16, dtype=torch.int64)
    owners[0, 4:8, 8:16] = 1  # the right middle; touches the border at four pixels
    owners[0, 9:15, 1:13] = 2  # larger, but away from the border; slot 3 has nothing
    masks = F.one_hot(owners, 4).permute(0, 3, 1, 2).float()
    monkeypatch.setattr("slotlab.composition.slots.see", lambda *_: Seen(torch.randn(1, 4, 8), masks, None))
    table = extract(model, open_data(squares, resolution=16, count=1), tmp_path / "slots")
    assert table.number.tolist() == [0, 1, 2]
    assert table.background.tolist() == [True, False, False]
    np.testing.assert_allclose(table.area[1:] * 256, [32, 72], rtol=1e-6)
    np.testing.assert_allclose(table.centre[1], [0.5, -0.25], atol=1e-6)
    assert table.facts["dropped"] == 1


def test_a_folder_of_something_else_is_not_replaced(model, dataset, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="something else"):
        extract(model, dataset, tmp_path)
    assert (tmp_path / "thesis.txt").is_file()


def test_a_library_is_replaced_with_its_picture_and_nothing_else_is(model, dataset, tmp_path):
    fit_library(model, dataset, tmp_path / "library", concepts=2)
    (tmp_path / "library" / "concepts.png").write_bytes(b"of two concepts")
    assert fit_library(model, dataset, tmp_path / "library", concepts=3).concepts == 3
    assert not (tmp_path / "library" / "concepts.png").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"a photo")
    with pytest.raises(ConfigError, match="photos: holds something else than a concept library"):
        fit_library(model, dataset, tmp_path / "photos", concepts=2)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.png"]


def test_an_interrupted_extraction_leaves_nothing(model, dataset, tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(model, dataset, tmp_path / "slots", batch_size=4, on_batch=stop)
    assert not list(tmp_path.iterdir())


def test_an_autoencoder_of_latents_has_no_slots(latents_run, dataset, tmp_path):
    with pytest.raises(CheckpointError, match="has no slots"):
        extract(slotlab.load(latents_run), dataset, tmp_path / "slots")


def test_concepts_are_the_groups_that_there_are():
    library = made_up_library()
    table = library.table
    assert library.concepts == 4
    assert sum(library.sizes) == len(table)
    assert (library.concept == 0).tolist() == table.background.tolist()
    assert library.sizes[1] >= library.sizes[2] >= library.sizes[3] > 0
    groups = table.slots.argmax(axis=1)[~table.background]
    concepts = library.concept[~table.background]
    assert len({*zip(groups.tolist(), concepts.tolist(), strict=True)}) == 3
    for concept in range(4):
        np.testing.assert_allclose(
            library.centroids[concept], table.slots[library.members[concept]].mean(axis=0), atol=1e-4
        )
    assert library.facts["inertia"] < 1 * len(table)


def test_the_same_seed_gives_the_same_concepts():
    first, second = (ConceptLibrary.fit(made_up_table(), concepts=6, seed=5) for _ in range(2))
    assert first.identity == second.identity


def test_the_number_of_slots_is_the_default_and_silhouette_finds_the_groups():
    assert ConceptLibrary.fit(made_up_table(slots=5)).concepts == 5
    library = ConceptLibrary.fit(made_up_table(), concepts="silhouette")
    assert library.concepts == 4
    assert max(library.facts["silhouettes"], key=library.facts["silhouettes"].get) == "4"


def test_mini_batches_above_the_limit(monkeypatch):
    monkeypatch.setattr(library_module, "MOST_FOR_KMEANS", 50)
    library = made_up_library(images=100)
    assert library.facts["algorithm"].startswith("MiniBatchKMeans")
    groups = library.table.slots.argmax(axis=1)[~library.table.background]
    assert len({*zip(groups.tolist(), library.concept[~library.table.background].tolist(), strict=True)}) == 3


def test_central_members_come_nearest_first():
    library = made_up_library()
    rows = library.central(1, 5)
    assert len(rows) == 5
    distance = np.linalg.norm(library.table.slots - library.centroids[1], axis=1)
    assert distance[rows].tolist() == sorted(distance[library.members[1]])[:5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concepts": 90}, r"80 object slots are too few for 89 clusters; lower --concepts to at most 81"),
        ({"concepts": 1}, "at least 2"),
        ({"concepts": "elbow"}, "silhouette"),
    ],
)
def test_impossible_numbers_of_concepts(options, message):
    with pytest.raises(ConfigError, match=message):
        ConceptLibrary.fit(made_up_table(), **options)


def test_slots_that_are_all_alike_make_no_clusters():
    with pytest.raises(ConfigError, match="too much alike"):
        cluster(np.ones((10, 3), np.float32), 3, 0)


def test_a_library_comes_back_as_it_was(model, dataset, tmp_path):
    library = fit_library(model, dataset, tmp_path, concepts=2, sources={"model": "here"})
    assert {path.name for path in tmp_path.iterdir()} == {"library.json", "slots.safetensors"}
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # who may read one may read the other
    loaded = ConceptLibrary.load(tmp_path, model)
    assert loaded.identity == library.identity
    assert loaded.facts == library.facts
    assert loaded.sources == {"model": "here"}
    np.testing.assert_array_equal(loaded.slots, library.slots)
    np.testing.assert_array_equal(loaded.table.background, library.table.background)
    content = json.loads((tmp_path / "library.json").read_text())
    assert content["slots"]["data"] == dataset.describe()
    assert content["slots"]["fingerprint"] == fingerprint(model)
    assert sum(content["sizes"]) == len(library.table)
    assert set(content["clusters"]["purity"]) >= {"object slots mostly on a true object"}


def test_a_rounded_library_is_stored_in_half_the_size_and_comes_back_exactly(model, dataset, tmp_path):
    library = fit_library(model, dataset, tmp_path, concepts=2)
    rounded = library.rounded()
    assert rounded.identity != library.identity
    np.testing.assert_allclose(rounded.slots, library.slots, rtol=2**-11, atol=2**-24)
    rounded.save(tmp_path)
    assert load_file(tmp_path / "slots.safetensors")["slots"].dtype == np.float16
    loaded = ConceptLibrary.load(tmp_path, model)
    assert loaded.slots.dtype == np.float32
    assert loaded.identity == rounded.identity
    np.testing.assert_array_equal(loaded.slots, rounded.slots)
    library.slots[0, 0] = 1e5
    with pytest.raises(CheckpointError, match="not finite in float16"):
        library.rounded()


def test_another_model_is_refused(model, dataset, tiny_preset, tmp_path):
    fit_library(model, dataset, tmp_path, concepts=2, sources={"model": "runs/first"})
    torch.manual_seed(4)
    other = checkpoints.create_model(tiny_preset)
    message = f"{fingerprint(model)[:12]}.*{fingerprint(other)[:12]}.*runs/first.*slotlab concepts fit"
    with pytest.raises(CheckpointError, match=message):
        ConceptLibrary.load(tmp_path, other)


def test_a_fingerprint_outlives_saving_and_knows_config_and_weights(model, diffusion_run, tmp_path):
    checkpoints.save(model, tmp_path)
    assert fingerprint(slotlab.load(tmp_path)) == fingerprint(model)
    assert fingerprint(slotlab.load(diffusion_run)) == fingerprint(slotlab.load(diffusion_run).train())
    before = fingerprint(model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(model) != before


def test_damaged_libraries_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="library.json: missing"):
        ConceptLibrary.load(tmp_path)
    made_up_library().save(tmp_path)
    made_up_library(seed=1).save(tmp_path / "other")
    (tmp_path / "other" / "slots.safetensors").replace(tmp_path / "slots.safetensors")
    with pytest.raises(CheckpointError, match="not the one"):
        ConceptLibrary.load(tmp_path)
    (tmp_path / "slots.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="damaged"):
        ConceptLibrary.load(tmp_path)
    (tmp_path / "library.json").write_text('{"format": "slotlab-concepts", "version": 99}')
    with pytest.raises(CheckpointError, match="version 99"):
        ConceptLibrary.load(tmp_path)
    (tmp_path / "library.json").write_text("[")
    with pytest.raises(CheckpointError, match="not a concept library"):
        ConceptLibrary.load(tmp_path)


def test_concepts_are_compared_with_true_shapes_and_materials(monkeypatch, model, tmp_path):
    scenes = open_data("scenes:plain", split="train", resolution=32, count=12, max_objects=3)
    masks = F.one_hot(scenes.batch(range(12))["mask"], 4).permute(0, 3, 1, 2).float()  # a model that sees the truth
    monkeypatch.setattr("slotlab.composition.slots.see", lambda *_: Seen(torch.randn(12, 4, 8), masks, None))
    library = fit_library(model, scenes, tmp_path / "library", concepts=3)
    table, objects = library.table, scenes.objects(scenes.batch(range(12))["index"].tolist())
    assert len(table) == 12 + sum(map(len, objects))
    for attribute in ("shape", "material"):
        names, codes = table.facts["names"][attribute], getattr(table, attribute)
        for position, truth, code in zip(table.position, table.truth, codes, strict=True):
            assert code == -1 if truth == 0 else names[code] == objects[position][truth - 1][attribute]
        shares = [np.bincount(codes[library.concept == concept]).max() for concept in (1, 2)]
        found = library.facts["attributes"][attribute]
        assert found["purity"] == pytest.approx(sum(shares) / (len(table) - 12))
        assert found["purity"] >= found["one concept"]
        assert found["most common"][0] is None


def test_data_without_metadata_has_no_attributes(tiny_preset, squares, tmp_path):
    library = fit_library(checkpoints.create_model(tiny_preset), open_data(squares), tmp_path / "library", concepts=2)
    assert library.table.shape is None
    assert library.facts["attributes"] == {}
