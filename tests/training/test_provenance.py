import sys

import pytest

from slotlab.training.checkpoint import provenance


@pytest.mark.parametrize("program", ["/usr/bin/slotlab", "/somewhere/slotlab/__main__.py"])
def test_the_command_can_be_pasted_into_a_shell(monkeypatch, program):
    monkeypatch.setattr(sys, "argv", [program, "train", "scenes-32", "--out", "my runs/first"])
    assert provenance()["command"] == "slotlab train scenes-32 --out 'my runs/first'"


def test_a_script_of_ones_own_is_named_as_it_was_called(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "5"])
    assert provenance()["command"] == "train.py 5"
