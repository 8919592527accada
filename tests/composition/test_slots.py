"""The table of slots of a data set."""

import numpy as np
import pytest
import torch
from composition_samples import output_of
from torch.nn import functional as F

import slotlab
from slotlab.composition import ConceptLibrary, extract, fit_library, score_compositions
from slotlab.data import open_data
from slotlab.errors import CheckpointError, DataError
from slotlab.models.sampling import seeded_generator


def segmenting(model, monkeypatch, masks):
    """Makes `model.segment` answer random slots with these masks."""
    slots = torch.randn(len(masks), masks.shape[1], 8)
    monkeypatch.setattr(model, "segment", lambda *_: output_of(slots, masks), raising=False)


def test_slots_are_those_of_the_model_whatever_the_batches(any_model, dataset):
    any_model.train()
    steps = extract.steps(any_model, dataset, batch_size=5, seed=7)
    assert list(steps) == [5] * 6 + [2]
    table = extract(any_model, dataset, batch_size=5, seed=7)
    assert any_model.training
    any_model.eval()
    for row in range(0, len(table), 9):
        batch = dataset.batch([int(table.position[row])])
        assert int(batch["index"][0]) == table.index[row]
        output = any_model.segment(batch["image"], [seeded_generator(7, int(table.index[row]))])
        number = int(table.number[row])
        np.testing.assert_allclose(table.slots[row], output.slots[0, number].detach(), atol=1e-5)
        owned = output.segmentation(any_model.finer_masks)[0] == number
        assert table.area[row] == pytest.approx(owned.float().mean().item())
        assert table.truth[row] in batch["mask"][0][owned]
    assert table.facts["dropped"] == 32 * 4 - len(table)
    whole = extract(any_model, dataset, batch_size=32, seed=7)
    np.testing.assert_allclose(whole.slots, table.slots, atol=1e-5)
    np.testing.assert_array_equal(whole.number, table.number)


def test_areas_centres_background_fill_and_empty_slots(monkeypatch, model, squares):
    owners = torch.zeros(1, 16, 16, dtype=torch.int64)
    owners[0, 4:8, 8:16] = 1  # the right middle; touches the border at four pixels
    owners[0, 9:15, 1:13] = 2  # larger, but away from the border; slot 3 has nothing
    masks = F.one_hot(owners, 4).permute(0, 3, 1, 2).float()
    masks[:, 0] *= 0.75
    masks[:, 1] += 0.25 * (owners == 0)
    segmenting(model, monkeypatch, masks)
    table = extract(model, open_data(squares, resolution=16, count=1))
    np.testing.assert_allclose(table.fill, [1, 32 / (32 + 152 / 4), 1], rtol=1e-6)
    assert table.number.tolist() == [0, 1, 2]
    assert table.background.tolist() == [True, False, False]
    np.testing.assert_allclose(table.area[1:] * 256, [32, 72], rtol=1e-6)
    np.testing.assert_allclose(table.centre[1], [0.5, -0.25], atol=1e-6)
    assert table.facts["dropped"] == 1


def test_ignored_pixels_are_no_true_segment(monkeypatch, model, squares):
    data = open_data(squares, resolution=16, count=1)
    batch = data.batch([0])
    batch["mask"] = torch.full((1, 16, 16), -1)
    batch["mask"][0, 8:, :4] = 3  # of slot 0, an eighth
    monkeypatch.setattr(data, "batch", lambda _: batch)
    owners = torch.zeros(1, 16, 16, dtype=torch.int64)
    owners[0, :, 8:] = 1
    segmenting(model, monkeypatch, F.one_hot(owners, 4).permute(0, 3, 1, 2).float())
    table = extract(model, data)
    assert (table.truth.tolist(), table.truth_share.tolist()) == ([3, 0], [1, 0])


def test_concepts_are_compared_with_true_shapes_and_materials(monkeypatch, model, tmp_path):
    scenes = open_data("scenes:plain", split="train", resolution=32, count=12, max_objects=3)
    masks = F.one_hot(scenes.batch(range(12))["mask"], 4).permute(0, 3, 1, 2).float()
    segmenting(model, monkeypatch, masks)
    library = fit_library(model, scenes, tmp_path, concepts=3)
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


def test_models_without_usable_slots_are_refused(latents_run, dataset, monkeypatch, model):
    with pytest.raises(CheckpointError, match="has no slots"):
        extract(slotlab.load(latents_run), dataset)
    segmenting(model, monkeypatch, torch.full((32, 4, 16, 16), 0.25))
    diverged = output_of(torch.full((32, 4, 8), torch.nan), torch.full((32, 4, 16, 16), 0.25))
    monkeypatch.setattr(model, "segment", lambda *_: diverged)
    with pytest.raises(CheckpointError, match="its training diverged"):
        extract(model, dataset)


def test_clips_are_refused(model, libraries, tmp_path):
    clips = open_data("scenes:moving", resolution=16, count=2, frames=2)
    library = ConceptLibrary.load(libraries[model.kind], model)
    with pytest.raises(DataError, match="scenes:moving: holds clips"):
        extract(model, clips)
    with pytest.raises(DataError, match="scenes:moving: holds clips"):
        score_compositions(model, library, tmp_path, clips, network=None)
