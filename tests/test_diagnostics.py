import torch

from slotlab.diagnostics import SlotDiagnostics


def diagnose(segmentation, slots, target=None):
    diagnostics = SlotDiagnostics(slots)
    diagnostics.update(segmentation, target)
    return diagnostics


def test_segmentations_that_follow_their_images_raise_no_warning():
    random = torch.Generator().manual_seed(0)
    found = diagnose(torch.randint(0, 4, (6, 8, 8), generator=random), slots=4, target=torch.ones(6, 8, 8).long())
    assert found.slots_used == 4
    assert abs(found.likeness) < 0.2
    assert found.warnings() == []


def test_one_slot_that_takes_all_is_a_collapse():
    found = diagnose(torch.zeros(4, 8, 8, dtype=torch.int64), slots=5)
    assert found.slots_used == 1
    assert "slots have collapsed: 1.0 of 5" in found.warnings()[0]


def test_the_same_tiles_on_every_image_are_noticed():
    tiles = torch.arange(4).repeat_interleave(2)[None, :, None].expand(5, 8, 8)
    assert "slots tile the picture" in diagnose(tiles, slots=4).warnings()[0]


def test_more_objects_than_slots_are_noticed():
    random = torch.Generator().manual_seed(0)
    target = torch.arange(64).reshape(1, 8, 8).expand(3, 8, 8) // 10  # background and six objects
    found = diagnose(torch.randint(0, 6, (3, 8, 8), generator=random), slots=6, target=target)
    assert "set slots=7" in found.warnings()[0]
