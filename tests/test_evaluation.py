import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import slotlab
from slotlab.data import open_data
from slotlab.errors import ConfigError
from slotlab.evaluation import Evaluator, outputs
from slotlab.metrics.functional import adjusted_rand_index
from slotlab.models import merge_slots
from slotlab.models.sampling import seeded_generator
from slotlab.reporting.tables import evaluation_table


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


def halves(output):
    """The output with two other masks: the left and the right half."""
    masks = torch.zeros_like(output.masks)
    masks[:, 0, :, :8], masks[:, 1, :, 8:] = 1, 1
    return replace(output, masks=masks)


def scored(model, data, **options):
    evaluator = Evaluator(model, data, **options)
    for batch, output in outputs(model, data):
        evaluator.update(batch, halves(output))
    return evaluator.compute()


@pytest.fixture
def rectangles(tmp_path):
    """Photographs, 60x40 and 80x64: in the centred square an object on the left, and one of 4 pixels."""
    for name, (width, height) in {"a": (60, 40), "b": (80, 64)}.items():
        mask = np.zeros((height, width), np.uint8)
        mask[:, : width // 2] = 1
        mask[height // 2 : height // 2 + 2, width // 2 + 3 : width // 2 + 5] = 2
        for folder, pixels in {"images": np.zeros((height, width, 3), np.uint8), "masks": mask}.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    return tmp_path


def test_masks_are_scored_at_the_resolution_that_is_asked_for(model, rectangles):
    """Two images of other sizes: each is scored by its own pixels, or by as many of each."""
    for side in (24, "original"):
        data = open_data(rectangles, split="all", resolution=16, mask_resolution=side)
        result = scored(model, data)
        assert result.protocol["mask_resolution"] == side
        assert result.protocol["resolution"] == 16
        values = []
        for position in range(2):
            true = data[position]["mask"]
            size = 24 if side == 24 else (40, 64)[position]
            assert true.shape == (size, size)
            owners = (torch.arange(size) >= size // 2).long().expand(size, size)
            values.append(adjusted_rand_index(owners[None], true[None]))
        assert result.masks["ari"].mean == pytest.approx(torch.cat(values).mean().item())
        assert result.masks["ari"].mean > 0.9
        assert result.diagnostics["slots_used"] == 2
    for side in (0, 5000, "big"):
        with pytest.raises(ConfigError, match="expected a whole number of pixels from 1 to 4,096, or original"):
            open_data(rectangles, split="all", mask_resolution=side)
    with pytest.raises(ConfigError, match="the masks of scenes:plain have 64 pixels a side"):
        open_data("scenes:plain", mask_resolution=224)
    assert open_data("scenes:plain", mask_resolution="original").describe()["mask_resolution"] == 64


def test_the_protocol_of_the_command_names_what_was_scored(rectangles, run_slotlab, tmp_path):
    words = ["evaluate", "scenes-64", "--data", str(rectangles), "--split", "all", "--min-area", "0.01"]
    status, out, _ = run_slotlab(*words, "--mask-resolution", "original", "--json", str(tmp_path / "scores.json"))
    protocol = json.loads((tmp_path / "scores.json").read_text())["protocol"]
    assert (status, protocol["mask_resolution"], protocol["min_area"]) == (0, "original", 0.01)
    assert "mask_resolution original" in " ".join(out.split())
    status, _, error = run_slotlab(*words, "--mask-resolution", "20000")
    assert status == 2
    assert "mask_resolution=20000: expected a whole number of pixels from 1 to 4,096, or original" in error


def test_small_objects_can_be_left_out(model, rectangles):
    """With the dot ignored, the halves are right."""
    data = open_data(rectangles, split="all", resolution=16, mask_resolution="original")
    assert scored(model, data).masks["mbo"].mean < 0.6
    result = scored(model, data, min_area=0.01)
    assert {name: score.mean for name, score in result.masks.items()} == dict.fromkeys(result.masks, 1.0)
    assert result.protocol["min_area"] == 0.01
    with pytest.raises(ConfigError, match="min_area=1: expected a share of the picture"):
        Evaluator(model, data, min_area=1)


def test_classes_and_annotators_are_scored_beside_the_masks(model, rectangles):
    data = open_data(rectangles, split="all", resolution=16)
    evaluator = Evaluator(model, data, baselines=True)
    for batch, output in outputs(model, data):
        batch["classes"] = (batch["mask"] > 0).long()
        batch["annotators"] = torch.stack([batch["mask"], batch["mask"].clamp(max=0), batch["mask"] * 0 - 1], dim=1)
        evaluator.update(batch, halves(output))
    result = evaluator.compute()
    classes = result.masks["mbo_class"].mean
    assert 0.9 < classes < 1  # the dot is of the left half's class
    assert result.to_json()["masks"]["mbo_class"] == classes
    best, mean = result.best_annotator["masks"], result.masks
    assert best["ari"].mean == pytest.approx(2 * mean["ari"].mean)  # the second saw one region, so has ARI 0
    assert best["mbo"].mean == mean["mbo"].mean  # the second has no object, and the third saw nothing
    assert result.to_json()["best_annotator"]["block pattern"]["ari"]["count"] == 2
    table = Console(width=80, record=True, file=io.StringIO())
    table.print(evaluation_table(result))
    said = table.export_text()
    assert "mBO class" in said and "  best annotator" in said and "SLIC superpixels" in said
    assert "…" not in said


def test_baselines_stand_beside_the_model():
    data = open_data("scenes:plain", split="test", resolution=32, count=3, max_objects=6)
    result = slotlab.evaluate(slotlab.create_model("scenes-32"), data, baselines=True)
    assert list(result.baselines) == ["block pattern", "colour K-means", "SLIC superpixels", "feature K-means"]
    blocks, colours, *_ = (scores["ari"].mean for scores in result.baselines.values())
    assert 0 < blocks < colours
    assert result.to_json()["baselines"]["block pattern"]["ari"]["count"] == 3


def test_slots_may_be_merged_before_they_are_scored(model, squares):
    data = open_data(squares, split="all", resolution=16, count=10)
    result = slotlab.evaluate(model, data, merge=True)
    values = []
    for position in range(10):
        sample = data[position]
        output = merge_slots(model(sample["image"][None], [seeded_generator(0, int(sample["index"]))]))
        values.append(adjusted_rand_index(output.segmentation("masks"), sample["mask"][None])[0])
    assert result.masks["ari"].mean == pytest.approx(torch.stack(values).mean().item(), abs=1e-9)
    assert result.protocol["merged"] == "overlap 0.6, distance 0.2, emptied below 0.005"
    assert result.slots_used <= slotlab.evaluate(model, data).slots_used
