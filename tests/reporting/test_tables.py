import math

import pytest

from slotlab.config import run_config
from slotlab.metrics.metrics import Score
from slotlab.reporting.tables import _cell, evaluate_command


def test_the_score_of_one_image_has_no_error():
    assert _cell(Score(mean=0.5, standard_error=math.nan, count=1, degenerate=0), 2) == "0.50"


@pytest.mark.parametrize(
    ("source", "settings", "options"),
    [
        (
            "scenes:plain",
            {"min_objects": 3, "max_objects": 6, "supersample": 2},
            "--min-objects 3 --max-objects 6 --sup",
        ),
        ("data/photos", {"crop": 0.5, "min_objects": 3, "skip_broken": True}, "--crop 0.5 --skip-broken"),
        ("hub:someone/scenes", {"split": "test", "count": 9, "broken": 1}, "--split test --count 9 --skip-broken"),
        ("my photos", {"crop": None, "skip_broken": False}, "--data 'my photos'"),
    ],
)
def test_the_command_has_what_data_like_that_needs(source, settings, options):
    command = evaluate_command("runs/first", source, settings)
    assert command.startswith("slotlab evaluate runs/first --data ")
    assert options in command
    assert "None" not in command and "False" not in command


def test_a_run_is_scored_on_scenes_like_those_it_was_trained_on():
    settings = run_config("textured-64").data
    command = evaluate_command("runs/one", settings.source, settings.model_dump())
    assert command.endswith("--data scenes:textured --min-objects 3 --max-objects 6 --supersample 2")
