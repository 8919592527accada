import pytest
import torch
from torch.nn import functional as F

from slotlab.diagnostics import attention_changes, background_slots, duplicates, mask_entropy, owned_shares


def hard(owners, slots):
    return F.one_hot(owners, slots).movedim(-1, 1).float()


def test_owned_shares_are_those_of_the_pixels():
    owners = torch.tensor([[[0, 0, 2, 0]], [[1, 1, 1, 1]]])
    assert torch.equal(owned_shares(hard(owners, 4)), torch.tensor([[0.75, 0, 0.25, 0], [0, 1, 0, 0]]))


def test_entropy_is_0_for_owned_pixels_and_1_for_shared_ones():
    owned = hard(torch.randint(0, 5, (1, 8, 8)), 5)
    masks = torch.cat([owned, torch.full((1, 5, 8, 8), 0.2), 0.5 * owned + 0.1])
    entropy = mask_entropy(masks)
    assert entropy[0] == 0
    assert entropy[1] == pytest.approx(1)
    assert 0.4 < entropy[2] < 0.8
    assert mask_entropy(torch.ones(2, 1, 4, 4)).tolist() == [0, 0]


def test_attention_change_is_the_share_that_moves():
    first = hard(torch.zeros(1, 2, 5, dtype=torch.int64), 3).flatten(2)
    moved = first.clone()
    moved[0, :, 0] = torch.tensor([0.0, 1.0, 0.0])  # one of ten features goes to another slot
    attention = torch.stack([first, first, moved, moved], dim=1)
    assert torch.allclose(attention_changes(attention), torch.tensor([[0.0, 0.1, 0.0]]))
    assert attention_changes(attention[:, :1]).shape == (1, 0)


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
    found = duplicates(masks, slots)
    assert found.nonzero().tolist() == [[0, 2, 3]]


def test_slots_with_nearly_the_same_vector_are_duplicates_if_one_is_used():
    slots = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    slots[0, 3] = slots[0, 1] + 0.01
    used, unused = torch.ones(1, 8, 8, dtype=torch.int64), torch.zeros(1, 8, 8, dtype=torch.int64)
    assert duplicates(hard(used, 4), slots).nonzero().tolist() == [[0, 1, 3]]
    assert not duplicates(hard(unused, 4), slots).any()


def test_soft_edges_and_what_is_common_to_all_slots_make_no_duplicates():
    """Two halves whose masks fade into each other; vectors that differ by little beside what they share."""
    ramp = torch.linspace(-4, 4, 16).sigmoid().expand(1, 1, 16, 16)
    masks = torch.cat([ramp, 1 - ramp], dim=1)
    slots = 100 + torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    assert not duplicates(masks, slots).any()
