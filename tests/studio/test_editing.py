import dataclasses

import pytest
import torch

from slotlab.composition.edits import Scene
from slotlab.errors import ConfigError
from slotlab.studio import edit_session
from slotlab.studio.edit_session import Painter


@pytest.fixture
def begun():
    return edit_session.begin(Scene(torch.eye(3), None, torch.zeros(3, 4, 4), torch.full((3, 4, 4), 1 / 3)))


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
