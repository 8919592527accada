"""How a model uses its slots; most tests make masks that do just one thing wrong."""

import json

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import slotlab
from slotlab import checkpoints
from slotlab.data import open_data
from slotlab.diagnostics import SlotDiagnostics, background_slots, duplicates
from slotlab.evaluation import diagnose
from slotlab.models import FeatureAutoencoder, FeatureGrouping, with_slots

SIDE, IMAGES, SLOTS = 24, 40, 5


def hard(owners, slots):
    return F.one_hot(owners, slots).movedim(-1, 1).float()


def test_only_large_pieces_of_the_background_count_and_only_the_background():
    target = torch.zeros(3, 10, 10, dtype=torch.int64)
    target[:, 5:] = 1
    target[2] = 1
    owners = torch.zeros(3, 10, 10, dtype=torch.int64)
    owners[:, 5:] = torch.arange(1, 6)[:, None]  # five slots in the object
    owners[0, 0, :5] = 6  # a tenth of the background
    owners[1, 0] = 6  # a fifth
    found = background_slots(hard(owners, 7), target)
    assert found[:2].tolist() == [1, 2]
    assert found[2].isnan()


def test_two_slots_that_share_an_object_are_duplicates_whoever_owns_it():
    slots = torch.eye(4)[None].expand(2, -1, -1)
    masks = hard(torch.zeros(2, 8, 8, dtype=torch.int64), 4)
    masks[0, :, 2:5, 2:5] = torch.tensor([0.0, 0.0, 0.6, 0.4])[:, None, None]
    masks[1, :, 2:5, 2:5] = torch.tensor([0.0, 0.0, 0.9, 0.1])[:, None, None]
    assert duplicates(masks, slots).nonzero().tolist() == [[0, 2, 3]]


def test_slots_with_nearly_the_same_vector_are_duplicates_if_one_is_used():
    slots = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    slots[0, 3] = slots[0, 1] + 0.01
    used, unused = torch.ones(1, 8, 8, dtype=torch.int64), torch.zeros(1, 8, 8, dtype=torch.int64)
    assert duplicates(hard(used, 4), slots).nonzero().tolist() == [[0, 1, 3]]
    assert not duplicates(hard(unused, 4), slots).any()


def test_soft_edges_and_what_is_common_to_all_slots_make_no_duplicates():
    """Halves whose masks fade into each other; vectors that share most of what they are."""
    ramp = torch.linspace(-4, 4, 16).sigmoid().expand(1, 1, 16, 16)
    masks = torch.cat([ramp, 1 - ramp], dim=1)
    slots = 100 + torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    assert not duplicates(masks, slots).any()


def true_squares(images=IMAGES, objects=3):
    """True masks: squares of 6 pixels at places of their own, the same number in each image."""
    random = torch.Generator().manual_seed(0)
    target = torch.zeros(images, SIDE, SIDE, dtype=torch.int64)
    for image in target:
        for label in range(1, objects + 1):
            y, x = torch.randint(0, SIDE - 6, (2,), generator=random).tolist()
            image[y : y + 6, x : x + 6] = label
    return target


def soft(owners, slots=SLOTS):
    """Masks that leave some of each pixel to the other slots."""
    return 0.95 * hard(owners, slots) + 0.05 / slots


def warned(found, name):
    """The warning of this name."""
    return next((warning for warning in found.warnings() if warning.startswith(f"{name}: ")), "")


def diagnosed(masks, target=None, attention=None, vectors=None, batch=16, frames=1):
    images, slots = masks.shape[:2]
    if attention is None:
        last = F.adaptive_avg_pool2d(masks, 8).flatten(2)
        attention = torch.stack([last, last], dim=1)
    if vectors is None:
        vectors = torch.randn(images, slots, 8, generator=torch.Generator().manual_seed(1))
    gathered = SlotDiagnostics(slots, attention.shape[1])
    for first in range(0, images, batch):
        part = slice(first, first + batch)
        gathered.update(masks[part], vectors[part], attention[part], None if target is None else target[part], frames)
    return gathered.compute()


@pytest.fixture(scope="module")
def target():
    return true_squares()


@pytest.fixture
def good(target):
    """Each object has a slot, now this, now that; the background has slot 0."""
    random = torch.Generator().manual_seed(2)
    owners = torch.zeros_like(target)
    for image, true in zip(owners, target, strict=True):
        for label, slot in enumerate((torch.randperm(SLOTS - 1, generator=random) + 1)[:3].tolist(), start=1):
            image[true == label] = slot
    return owners


def test_a_model_that_finds_the_objects_raises_no_warning(good, target):
    found = diagnosed(soft(good), target)
    assert found.warnings() == []
    assert 3.5 < found.slots_used <= 4
    assert found.background_slots == 1
    assert found.dead_slots == []
    assert found.mask_entropy < 0.3
    assert found.likeness == pytest.approx(found.true_likeness, abs=0.1)
    assert found.objects == pytest.approx(3, abs=0.2)


def test_masks_that_ignore_the_image_are_tiling_but_not_those_of_similar_images(good, target):
    tiles = torch.arange(SIDE)[None, :, None].expand(IMAGES, SIDE, SIDE) * 4 // SIDE
    found = diagnosed(soft(tiles), target)
    assert found.likeness == pytest.approx(1)
    assert set(found.mean_masks.unique().tolist()) == {0, 1}  # seen at a glance
    assert "seed=1" in warned(found, "slots tile the picture")
    # Neighbouring frames of a video: masks agree because the true ones do.
    found = diagnosed(soft(good[:1].expand(IMAGES, -1, -1)), target[:1].expand(IMAGES, -1, -1))
    assert found.likeness == pytest.approx(1)
    assert not warned(found, "slots tile the picture")
    # Without true masks, clips are compared with other clips alone.
    assert warned(diagnosed(soft(good.repeat_interleave(8, dim=0))), "slots tile the picture")
    found = diagnosed(soft(good.repeat_interleave(8, dim=0)), frames=8)
    assert found.likeness == pytest.approx(diagnosed(soft(good)).likeness)
    assert not warned(found, "slots tile the picture")


def test_one_slot_that_takes_all_is_a_collapse(target):
    found = diagnosed(soft(torch.full_like(target, 2)), target)
    assert found.slots_used == 1
    assert [warning.partition(":")[0] for warning in found.warnings()] == ["slots have collapsed"]
    (untrained,) = found.warnings(FeatureGrouping(64))
    assert untrained.startswith("slots have collapsed: 1.0 of") and "learning_rate" not in untrained
    assert "; this model is not trained" in untrained


@pytest.mark.parametrize(("last", "named"), [(3, "dead slots: 4, never used"), (2, "dead slots: 3, 4, never used")])
def test_dead_slots_are_named_with_the_setting_to_try(good, target, last, named):
    found = diagnosed(soft(good.clamp(max=last)), target)
    assert found.dead_slots == list(range(last + 1, SLOTS))
    assert named in warned(found, "dead slots")
    assert f"set slots={last + 1}" in warned(found, "dead slots")
    few = slice(0, 4)  # images, too few to call a slot dead
    assert not warned(diagnosed(soft(good[few].clamp(max=last)), target[few]), "dead slots")


def test_two_slots_on_the_same_objects_are_named(good, target):
    masks = soft(torch.where(good > 1, 1, good))
    masks[:, 2] = masks[:, 1] = (masks[:, 1] + masks[:, 2]) / 2
    found = diagnosed(masks, target)
    assert found.duplicate_pairs[0][:2] == [1, 2]
    assert "1 and 2 (in 100% of the images)" in warned(found, "duplicate slots")
    assert "slots=4" in warned(found, "duplicate slots")


def test_duplicates_are_noticed_where_slots_have_no_place_of_their_own(good, target):
    """Each image has other duplicates, so that no pair stands out."""
    random = torch.Generator().manual_seed(3)
    masks = torch.stack([soft(one[None])[0][torch.randperm(SLOTS, generator=random)] for one in good])
    vectors = torch.randn(IMAGES, SLOTS, 8, generator=random)
    for image in vectors:
        pairs = torch.randperm(SLOTS, generator=random)
        image[pairs[1:3]] = image[pairs[:1]]
    found = diagnosed(masks, target, vectors=vectors)
    assert found.duplicates > 1.5
    assert warned(found, "duplicate slots")


def test_a_background_in_pieces_is_named(good, target):
    half = torch.arange(SIDE)[None, None].expand_as(good) < SIDE // 2
    found = diagnosed(soft(torch.where((target == 0) & half, 4, good)), target)
    assert found.background_slots == pytest.approx(2, abs=0.1)
    assert "mask_penalty=0.001" in warned(found, "the background is split")
    assert not any("background" in warning for warning in found.warnings(FeatureAutoencoder(64)))  # is many things


def test_soft_masks_and_attention_that_still_moves_are_named(good, target):
    masks = 0.2 * soft(good) + 0.8 / SLOTS
    last = F.adaptive_avg_pool2d(soft(good), 8).flatten(2)
    found = diagnosed(masks, target, torch.stack([last, last, last.roll(1, dims=1)], dim=1))
    assert found.mask_entropy > 0.8
    assert warned(found, "soft masks")
    assert found.attention_changes[0] == 0
    assert "iterations=5" in warned(found, "attention does not settle")
    assert found.numbers()["attention_change"] == found.attention_changes[1]


def test_more_objects_than_slots_are_noticed(target):
    target = true_squares(objects=7)
    assert "slots=8" in warned(diagnosed(soft(target.clamp(max=4)), target), "too few slots")


def test_small_objects_and_rare_crowds_ask_for_no_slots(target):
    """A dot in each image, and in one of them 63 large objects."""
    before = diagnosed(soft(target.clamp(max=3)), target)
    target = target.clone()
    target[:, 0, 0] = 99
    target[0] = torch.arange(SIDE) * 8 // SIDE + 8 * (torch.arange(SIDE) * 8 // SIDE)[:, None]
    found = diagnosed(soft(target.clamp(max=3)), target)
    assert found.large_objects == before.large_objects == 3
    assert found.objects > before.objects + 1
    assert not [warning for warning in found.warnings() if "too few slots" in warning]


NEED_MASKS = {"background_slots", "true_likeness", "objects"}
OF_ANY_IMAGES = {"slots_used", "mask_entropy", "attention_change", "likeness", "dead_slots", "duplicates"}


def test_the_batch_size_makes_no_difference_and_without_true_masks_what_needs_them_is_left_out(good, target):
    one, other = (diagnosed(soft(good), target, batch=size).numbers() for size in (1, 40))
    assert one.keys() >= NEED_MASKS | OF_ANY_IMAGES
    for name in (NEED_MASKS | OF_ANY_IMAGES) - {"duplicates"}:  # counted against the vectors of a batch
        assert one[name] == pytest.approx(other[name]), name
    numbers = diagnosed(soft(good)).numbers()
    assert not NEED_MASKS & numbers.keys()
    assert numbers.keys() >= OF_ANY_IMAGES


def test_a_single_image_slot_or_iteration_is_no_error():
    found = diagnosed(torch.ones(1, 1, 8, 8), attention=torch.ones(1, 1, 1, 16))
    assert found.warnings() == []
    assert found.slots_used == 1
    assert not {"likeness", "attention_change"} & found.numbers().keys()


@pytest.fixture(scope="module")
def model(tiny_preset):
    torch.manual_seed(0)
    return slotlab.create_model(tiny_preset).eval()


@pytest.mark.parametrize("kind", ["autoencoder", "diffusion"])
def test_an_evaluation_holds_the_same_diagnosis(kind, model, diffusion_run, squares):
    chosen = with_slots(model if kind == "autoencoder" else checkpoints.load(diffusion_run))
    data = open_data(squares, split="all", resolution=16, count=24)
    numbers, evaluation = diagnose(chosen, data, seed=2).numbers(), slotlab.evaluate(chosen, data, seed=2)
    assert evaluation.diagnostics.pop("mask_source") == ("masks" if kind == "autoencoder" else "attention")
    assert evaluation.diagnostics.keys() == numbers.keys()
    for name in ("slots_used", "mask_entropy", "attention_change", "likeness", "background_slots", "duplicates"):
        assert evaluation.diagnostics[name] == pytest.approx(numbers[name], abs=1e-4), name
    assert evaluation.slots_used == pytest.approx(numbers["slots_used"])
    content = json.loads(json.dumps(evaluation.to_json()))
    assert content["diagnostics"]["slots_used_counts"] == numbers["slots_used_counts"]
    assert content["warnings"] == evaluation.warnings


def test_a_model_without_slots_has_no_diagnosis(latents_run, squares):
    data = open_data(squares, split="all", resolution=16, count=4)
    content = slotlab.evaluate(checkpoints.load(latents_run), data).to_json()
    assert (content["diagnostics"], content["warnings"], content["slots_used"]) == ({}, [], None)
    json.dumps(content, allow_nan=False)


@pytest.mark.parametrize("source", ["masks", "attention"])
def test_slot_diffusion_is_diagnosed_from_the_shell(run_slotlab, diffusion_run, squares, tmp_path, source):
    words = ["--data", squares, "--split", "all", "--count", 24, "--mask-source", source, "--threads", 1]
    words += ["--json", tmp_path / "found.json", "--out", tmp_path / "look.png"]
    status, printed, err = run_slotlab("diagnose", diffusion_run, *words)
    assert status == 0, err
    for part in ("slots used", "mask entropy", "attention change", "likeness", "dead slots", "protocol: data"):
        assert part in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["diagnostics"]["mask_source"] == source
    assert found["protocol"]["images"] == found["diagnostics"]["images"] == 24
    for warning in found["warnings"]:
        assert f"warning: {warning}" in printed
    picture = Image.open(tmp_path / "look.png")
    assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 50
    if source == "attention":  # quick: without masks, and the figure in the run folder
        words = ["--data", squares / "images", "--mask-source", source]
        printed = run_slotlab.fine("diagnose", diffusion_run, *words)
        assert (diffusion_run / "diagnostics.png").is_file() and "diagnostics.png" in printed
        assert "background slots" not in printed


def test_bad_input_ends_with_one_sentence(run_slotlab, latents_run, diffusion_run, squares, tmp_path):
    for words, message in [
        (["diagnose", latents_run, "--data", squares], "latent-autoencoder has no slots"),
        (["diagnose", diffusion_run, "--data", tmp_path / "nowhere"], "nowhere: no such file or folder"),
        (["diagnose", diffusion_run, "--data", squares, "--mask-source", "decoder"], "mask_source: unknown 'decoder'"),
    ]:
        err = run_slotlab.refused(*words)
        assert message in err
