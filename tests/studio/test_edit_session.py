from dataclasses import replace

import pytest
import torch

from slotlab.composition import edits
from slotlab.composition.edits import Edited, Scene
from slotlab.errors import ConfigError
from slotlab.figures.grid import slot_colours
from slotlab.models import SlotOutput
from slotlab.studio import edit_session
from slotlab.studio.edit_session import MOST_STEPS, Editing


@pytest.fixture
def begun():
    masks = torch.full((1, 3, 4, 4), 1 / 3)
    output = SlotOutput(torch.eye(3)[None], torch.full((1, 1, 3, 16), 1 / 3), (4, 4), masks, torch.zeros(1, 3, 4, 4))
    scene, empty = Scene(torch.zeros(3, 4, 4), output), torch.zeros(3, 4, 4)
    slots = edits.keep(scene, range(3))
    painted = Edited(empty, empty, masks[0], slots, frozenset(), empty[0].bool(), 0.0)
    return Editing(scene, slot_colours(range(3)), painted, ((slots, "unchanged"),))


def test_starting_again_keeps_the_other_image(begun):
    other = replace(begun.scene)
    edited = edit_session.remove(replace(begun, selected=1, other=other, other_selected=2), None)
    again = edit_session.begin_again(edited, None)
    assert edited.slots.numbers == (0, 2)
    assert again.slots.numbers == (0, 1, 2)
    assert again.source() == (other, 2)
    assert again.painting is edited.painting is begun.painting


def test_a_new_edit_drops_what_was_undone_and_the_first_step_always_stays(begun):
    now = begun
    for _ in range(MOST_STEPS + 5):
        now = edit_session.remove(replace(now.at_step(0), selected=0), None)
    assert len(now.steps) == 2
    for number in range(MOST_STEPS + 5):
        now = now.with_step(now.slots, f"edit {number}", None)
    assert len(now.steps) == MOST_STEPS
    assert now.at_step(0).slots.numbers == (0, 1, 2)
    with pytest.raises(ConfigError, match="nothing to undo"):
        now.at_step(-1)
    with pytest.raises(ConfigError, match="nothing to redo"):
        now.at_step(MOST_STEPS)


def test_objects_are_moved_from_the_centre_of_their_mask(begun, models):
    masks = torch.zeros(3, 4, 4)
    masks[1, :, 3] = 1  # the last column: its centre is at (0.875, 0.5)
    now = replace(begun, selected=1, painted=replace(begun.painted, masks=masks))
    moved = edit_session.move_to(now, models[1], 0.375, 0.75)
    assert moved.slots.vector(1)[:2].tolist() == pytest.approx([-0.5, 0.25])
    with pytest.raises(ConfigError, match="move: this model"):
        edit_session.move_to(now, models[0], 0.375, 0.75)
