import dataclasses

import pytest
import torch

from slotlab.composition.edits import Scene
from slotlab.errors import ConfigError
from slotlab.models import SlotOutput
from slotlab.studio import edit_session
from slotlab.studio.edit_session import Painter


@pytest.fixture
def begun():
    masks = torch.full((1, 3, 4, 4), 1 / 3)
    output = SlotOutput(torch.eye(3)[None], torch.full((1, 1, 3, 16), 1 / 3), (4, 4), masks, torch.zeros(1, 3, 4, 4))
    return edit_session.begin(Scene(torch.zeros(3, 4, 4), output))


def test_one_thing_is_painted_at_a_time():
    painter = Painter()
    with painter.painting() as first:
        with pytest.raises(ConfigError, match="still being painted"), painter.painting():
            pass
        assert not first.is_set(), "who was refused stops nothing"
        painter.stop()
        assert first.is_set()
    with painter.painting() as second:
        assert not second.is_set()


def test_all_steps_have_one_painter(begun):
    removed = edit_session.remove(dataclasses.replace(begun, selected=1))
    assert removed.painter is begun.painter is edit_session.begin_again(removed).painter


def test_beginning_again_keeps_the_other_picture(begun):
    other = dataclasses.replace(begun.scene)
    edited = edit_session.remove(dataclasses.replace(begun, selected=1, other=other, other_selected=2))
    again = edit_session.begin_again(edited)
    assert again.plan.numbers == (0, 1, 2)
    assert again.giver() == (other, 2)
