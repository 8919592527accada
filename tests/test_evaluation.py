import json
from dataclasses import replace

import pytest
import torch

import slotlab
from slotlab.data import open_data
from slotlab.evaluation import Evaluator, outputs
from slotlab.metrics.functional import adjusted_rand_index
from slotlab.models.randomness import seeded_generator


@pytest.fixture(scope="module")
def model(tiny_preset):
    torch.manual_seed(0)
    return slotlab.create_model(tiny_preset).eval()


def test_scores_are_those_of_the_masks_one_by_one(model, squares):
    data = open_data(squares, split="all", resolution=16, count=10)
    result = slotlab.evaluate(model, data, batch_size=4, seed=3)
    values = []
    for position in range(10):
        sample = data[position]
        output = model(sample["image"][None], [seeded_generator(3, int(sample["index"]))])
        values.append(adjusted_rand_index(output.segmentation("attention"), sample["mask"][None])[0])
    assert result.attention["ari"].mean == pytest.approx(torch.stack(values).mean().item(), abs=1e-9)
    assert result.attention["ari"].count == result.protocol["images"] == 10


def test_the_batch_size_does_not_change_the_scores(model, squares):
    data = open_data(squares, split="all", resolution=16)
    one, other = (slotlab.evaluate(model, data, batch_size=size) for size in (3, 16))
    for source in ("masks", "attention"):
        for name, score in getattr(one, source).items():
            assert score.mean == pytest.approx(getattr(other, source)[name].mean, abs=1e-6)
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert one.reconstruction["mse_sum"].mean == pytest.approx(3 * 16 * 16 * one.reconstruction["mse"].mean)


def test_metrics_json_holds_the_promised_names(model, squares, tmp_path):
    result = slotlab.evaluate(model, open_data(squares, split="val", resolution=16))
    result.write(tmp_path / "metrics.json")
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert {"ari", "fg_ari", "miou", "mbo"} == content["masks"].keys() == content["attention"].keys()
    protocol = {"data", "split", "crop", "resolution", "images", "slots", "slot_seed", "miou", "mask_sources"}
    assert protocol <= content["protocol"].keys()
    assert content["details"]["masks"]["ari"]["count"] == content["protocol"]["images"] == 4


def test_data_without_masks_still_gives_a_reconstruction_error(model, squares):
    result = slotlab.evaluate(model, open_data(squares / "images", split="val", resolution=16))
    assert result.masks == {}
    assert result.reconstruction["mse"].count == 4


def test_pixels_to_ignore_cost_nothing(model, squares):
    """Perfect masks have perfect scores, whatever they say where the truth is void."""
    data = open_data(squares, split="all", resolution=16, count=8)
    evaluator = Evaluator(model, data)
    for batch, output in outputs(model, data, batch_size=3):
        owners = batch["mask"].clamp(max=3)
        batch["mask"] = torch.where(torch.rand(owners.shape) < 0.2, -1, owners)
        owners = torch.where(batch["mask"] < 0, torch.randint(4, owners.shape), owners)
        masks = torch.nn.functional.one_hot(owners, 4).permute(0, 3, 1, 2).float()
        evaluator.update(batch, replace(output, masks=masks))
    found = evaluator.compute()
    assert {name: score.mean for name, score in found.masks.items()} == dict.fromkeys(found.masks, 1.0)
    assert found.diagnostics["background_slots"] == 1
    assert 1 <= found.diagnostics["objects"] <= 3


def test_the_protocol_keeps_the_seed_of_the_scenes_apart_from_that_of_the_slots(model):
    scenes = open_data("scenes:plain", split="val", resolution=16, count=2, seed=7)
    protocol = slotlab.evaluate(model, scenes, seed=3).protocol
    assert (protocol["seed"], protocol["slot_seed"]) == (7, 3)


def test_baselines_stand_beside_the_model(tmp_path):
    data = open_data("scenes:plain", split="test", resolution=32, count=3, max_objects=6)
    result = slotlab.evaluate(slotlab.create_model("scenes-32"), data, baselines=True)
    assert list(result.baselines) == ["block pattern", "colour K-means"]
    blocks, colours = (scores["ari"].mean for scores in result.baselines.values())
    assert 0 < blocks < colours
    assert result.to_json()["baselines"]["block pattern"]["ari"]["count"] == 3
