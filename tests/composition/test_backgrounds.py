import pytest
import torch
from torch.nn import functional as F

from slotlab.composition import edits
from slotlab.composition.edits import Scene, background_slot, take_background
from slotlab.errors import ConfigError


def scene(rows, seed):
    """A scene whose pixels belong to the slots in `rows`."""
    owners = torch.tensor(rows)
    slots = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed))
    return Scene(slots, None, torch.zeros(3, *owners.shape), F.one_hot(owners, 3).permute(2, 0, 1).float())


MINE = [[2, 2, 2, 2], [2, 0, 0, 2], [2, 0, 0, 1], [2, 2, 2, 1]]
THEIRS = [[1, 1, 1, 1], [1, 0, 0, 1], [1, 2, 2, 1], [1, 1, 1, 1]]


def test_the_background_is_what_lies_along_the_border():
    assert background_slot(scene(MINE, 0)) == 2
    assert background_slot(scene(THEIRS, 0)) == 1


def test_a_background_is_taken_from_another_scene():
    mine, theirs = scene(MINE, 0), scene(THEIRS, 1)
    plan = take_background(edits.remove(mine, [0]), mine, theirs)
    assert plan.numbers == (1, 2)
    assert plan.slots[1].equal(theirs.slots[1])
    assert plan.slots[0].equal(mine.slots[1])
    with pytest.raises(ConfigError, match="an earlier edit removed it"):
        take_background(edits.remove(mine, [2]), mine, theirs)
