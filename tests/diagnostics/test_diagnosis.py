"""What a model does with its slots is found and named; each test makes masks that do just one thing wrong."""

import pytest
import torch
from torch.nn import functional as F

from slotlab.diagnostics import SlotDiagnostics

SIDE, IMAGES, SLOTS = 24, 40, 5


def squares(images=IMAGES, objects=3):
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
    return 0.95 * F.one_hot(owners, slots).movedim(-1, 1).float() + 0.05 / slots


def diagnosed(masks, target=None, attention=None, vectors=None, batch=16):
    images, slots = masks.shape[:2]
    if attention is None:
        last = F.adaptive_avg_pool2d(masks, 8).flatten(2)
        attention = torch.stack([last, last], dim=1)
    if vectors is None:
        vectors = torch.randn(images, slots, 8, generator=torch.Generator().manual_seed(1))
    gathered = SlotDiagnostics(slots, attention.shape[1])
    for first in range(0, images, batch):
        part = slice(first, first + batch)
        gathered.update(masks[part], vectors[part], attention[part], None if target is None else target[part])
    return gathered.compute()


@pytest.fixture(scope="module")
def target():
    return squares()


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
    assert found.entropy < 0.3
    assert found.likeness == pytest.approx(found.true_likeness, abs=0.1)
    assert found.objects == pytest.approx(3, abs=0.2)


def test_masks_that_ignore_the_image_are_tiling(target):
    tiles = torch.arange(SIDE)[None, :, None].expand(IMAGES, SIDE, SIDE) * 4 // SIDE
    found = diagnosed(soft(tiles), target)
    assert found.likeness == pytest.approx(1)
    assert set(found.mean_masks.unique().tolist()) == {0, 1}  # seen at a glance
    assert any(warning.startswith("slots tile the picture: ") and "seed=1" in warning for warning in found.warnings())


def test_images_that_are_alike_are_no_tiling(good, target):
    """Neighbouring frames of a video: masks agree because the true ones do."""
    found = diagnosed(soft(good[:1].expand(IMAGES, -1, -1)), target[:1].expand(IMAGES, -1, -1))
    assert found.likeness == pytest.approx(1)
    assert not any("tile" in warning for warning in found.warnings())


def test_one_slot_that_takes_all_is_a_collapse(target):
    found = diagnosed(soft(torch.full_like(target, 2)), target)
    assert found.slots_used == 1
    assert [warning.partition(":")[0] for warning in found.warnings()] == ["slots have collapsed"]


def test_a_dead_slot_is_named_with_the_setting_to_try(good, target):
    good[good == 3] = 4
    found = diagnosed(soft(good), target)
    assert found.dead_slots == [3]
    (warning,) = [warning for warning in found.warnings() if warning.startswith("dead slots: ")]
    assert "3 is never used" in warning
    assert "set slots=4" in warning


def test_several_dead_slots_are_named(good, target):
    good[good > 2] = 1
    found = diagnosed(soft(good), target)
    assert any("3 and 4 are never used" in warning and "slots=3" in warning for warning in found.warnings())


def test_of_a_few_images_no_slot_is_called_dead(good, target):
    few = torch.where(good[:4] == 4, 1, good[:4])
    assert not any("dead" in warning for warning in diagnosed(soft(few), target[:4]).warnings())


def test_two_slots_on_the_same_objects_are_named(good, target):
    masks = soft(torch.where(good > 1, 1, good))
    masks[:, 2] = masks[:, 1] = (masks[:, 1] + masks[:, 2]) / 2
    found = diagnosed(masks, target)
    assert found.duplicate_pairs[0][:2] == (1, 2)
    (warning,) = [warning for warning in found.warnings() if warning.startswith("duplicate slots: ")]
    assert "1 and 2 (in 100% of the images)" in warning
    assert "slots=4" in warning


def test_two_slots_with_the_same_vector_are_named(good, target):
    vectors = torch.randn(IMAGES, SLOTS, 8, generator=torch.Generator().manual_seed(1))
    vectors[:, 4] = vectors[:, 0]
    found = diagnosed(soft(good), target, vectors=vectors)
    assert found.duplicate_pairs == [(0, 4, 1.0)]


def test_duplicates_are_noticed_where_slots_have_no_place_of_their_own(good, target):
    """Each image has other duplicates, so that no pair stands out."""
    random = torch.Generator().manual_seed(3)
    masks = torch.stack([soft(one[None])[0][torch.randperm(SLOTS, generator=random)] for one in good])
    vectors = torch.randn(IMAGES, SLOTS, 8, generator=random)
    for image in vectors:
        pairs = torch.randperm(SLOTS, generator=random)
        image[pairs[1:3]] = image[pairs[:1]]
    found = diagnosed(masks, target, vectors=vectors)
    if not found.duplicate_pairs:
        assert any("pairs in each image" in warning for warning in found.warnings())
    assert found.duplicates_per_image > 1.5
    assert any(warning.startswith("duplicate slots: ") for warning in found.warnings())


def test_a_background_in_pieces_is_named(good, target):
    half = torch.arange(SIDE)[None, None].expand_as(good) < SIDE // 2
    found = diagnosed(soft(torch.where((target == 0) & half, 4, good)), target)
    assert found.background_slots == pytest.approx(2, abs=0.1)
    (warning,) = [warning for warning in found.warnings() if warning.startswith("the background is split: ")]
    assert "mask_penalty=0.001" in warning


def test_masks_that_no_slot_owns_are_called_soft(good, target):
    found = diagnosed(0.2 * soft(good) + 0.8 / SLOTS, target)
    assert found.entropy > 0.8
    assert any(warning.startswith("soft masks: ") for warning in found.warnings())


def test_attention_that_still_moves_is_named(good, target):
    masks = soft(good)
    last = F.adaptive_avg_pool2d(masks, 8).flatten(2)
    attention = torch.stack([last, last, last.roll(1, dims=1)], dim=1)
    found = diagnosed(masks, target, attention)
    assert found.attention_changes[0] == 0
    assert any("attention does not settle: " in warning and "iterations=5" in warning for warning in found.warnings())
    assert found.numbers()["attention_change"] == found.attention_changes[1]


def test_more_objects_than_slots_are_noticed(target):
    target = squares(objects=7)
    warnings = diagnosed(soft(target.clamp(max=4)), target).warnings()
    assert any(warning.startswith("too few slots: ") and "slots=8" in warning for warning in warnings)


def test_without_true_masks_what_needs_them_is_left_out(good):
    numbers = diagnosed(soft(good)).numbers()
    assert not {"background_slots", "true_likeness", "objects"} & numbers.keys()
    assert {"slots_used", "mask_entropy", "attention_change", "likeness", "dead_slots", "duplicates"} <= numbers.keys()


def test_the_batch_size_makes_no_difference(good, target):
    vectors = torch.randn(IMAGES, SLOTS, 8, generator=torch.Generator().manual_seed(1))
    one, other = (diagnosed(soft(good), target, vectors=vectors, batch=size).numbers() for size in (1, 40))
    for name in ("slots_used", "mask_entropy", "likeness", "true_likeness", "background_slots"):
        assert one[name] == pytest.approx(other[name]), name


def test_a_single_image_slot_or_iteration_is_no_error():
    found = diagnosed(torch.ones(1, 1, 8, 8), attention=torch.ones(1, 1, 1, 16))
    assert found.warnings() == []
    assert found.slots_used == 1
    assert not {"likeness", "attention_change"} & found.numbers().keys()
