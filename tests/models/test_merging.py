import pytest
import torch

from slotlab.models import SlotOutput, merge_slots


def output_of(masks, slots=None, images=None):
    masks = torch.tensor(masks, dtype=torch.float32)[None]  # [1, K, H, W]
    count = masks.shape[1]
    attention = masks.flatten(2)[:, None].expand(-1, 2, -1, -1)
    vectors = 10 * torch.eye(count)[None] if slots is None else torch.tensor(slots, dtype=torch.float32)[None]
    reconstruction = torch.rand(1, 3, *masks.shape[2:], generator=torch.Generator().manual_seed(0))
    painted = torch.rand(1, count, 3, *masks.shape[2:], generator=torch.Generator().manual_seed(1))
    return SlotOutput(vectors, attention, tuple(masks.shape[2:]), masks, reconstruction, painted, posterior=masks)


LEFT, RIGHT = [[1.0, 1, 0, 0]] * 4, [[0.0, 0, 1, 1]] * 4
HALF = [[0.5, 0.5, 0, 0]] * 4
SPECK = [[0.0, 0, 0, 0]] * 3 + [[0.0, 0, 0, 0.6]]
UNDER = [[0.0, 0, 1, 1]] * 3 + [[0.0, 0, 1, 0.4]]


def check_sums(found):
    for soft in (found.masks, found.posterior, found.attention.transpose(1, 2)):
        torch.testing.assert_close(soft.sum(dim=1), torch.ones_like(soft[:, 0]))


def test_two_slots_that_share_an_object_become_one():
    before = output_of([HALF, RIGHT, HALF])
    found = merge_slots(before)
    assert found.segmentation("posterior").unique().numel() == 2
    torch.testing.assert_close(found.masks[0, [0, 2]].sum(dim=0), torch.tensor(LEFT))
    assert sorted(found.masks[0].amax(dim=(1, 2)).tolist()) == [0, 1, 1]
    assert torch.equal(found.slots, before.slots)
    assert torch.equal(found.reconstruction, before.reconstruction)
    check_sums(found)
    kept = int(found.masks[0, [0, 2]].sum(dim=(1, 2)).argmax()) * 2
    both = before.slot_images[0, [0, 2]].mean(dim=0)[:, :, :2]  # what they painted together
    torch.testing.assert_close(found.slot_images[0, kept][:, :, :2], both)


def test_slots_side_by_side_stay_unless_their_vectors_are_nearly_equal():
    assert merge_slots(output_of([LEFT, RIGHT])).segmentation("masks").unique().numel() == 2
    halves = [[[1.0, 0, 0, 0]] * 4, [[0.0, 1, 0, 0]] * 4, RIGHT]
    vectors = [[1.0, 0], [1.1, 0], [0, 9]]
    assert merge_slots(output_of(halves, vectors)).segmentation("masks")[0, 0].tolist()[:2] in ([0, 0], [1, 1])
    assert merge_slots(output_of(halves, vectors), near=0).segmentation("masks").unique().numel() == 3


def test_a_slot_with_hardly_a_pixel_gives_it_to_the_others():
    before = output_of([LEFT, UNDER, SPECK])
    found = merge_slots(before, overlap=1, least=0.1)
    assert found.masks[0, 2].max() == 0
    torch.testing.assert_close(found.masks[0, 1], torch.tensor(RIGHT))
    check_sums(found)
    untouched = merge_slots(before, overlap=1, near=0, least=0)
    torch.testing.assert_close(untouched.masks, before.masks)


def test_an_image_does_not_change_what_is_merged_in_another():
    one, other = output_of([HALF, RIGHT, HALF]), output_of([LEFT, UNDER, SPECK])
    names = ("slots", "attention", "masks", "reconstruction", "slot_images", "posterior")
    both = SlotOutput(
        **{name: torch.cat([getattr(one, name), getattr(other, name)]) for name in names},
        attention_grid=one.attention_grid,
    )
    merged = merge_slots(both)
    for place, alone in enumerate((one, other)):
        torch.testing.assert_close(merged[place].masks, merge_slots(alone).masks)


def test_masks_that_the_model_does_not_have_are_refused():
    before = output_of([LEFT, RIGHT])
    before.posterior = None
    with pytest.raises(ValueError, match="posterior"):
        merge_slots(before, "posterior")
