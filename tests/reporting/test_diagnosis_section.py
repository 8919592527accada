import json

import pytest
import torch
from matplotlib.figure import Figure

from slotlab.diagnostics import Diagnosis
from slotlab.figures.curves import PER_ROW, diagnosis_figure, figure_image, slot_use_figure
from slotlab.reporting.report import write_report
from slotlab.reporting.tables import explained


def made_up(slots=4, **changes):
    values = {
        "images": 10,
        "slots_used_counts": [0, 2, 5, 3, *[0] * (slots - 3)],
        "slot_use": [1.0, 0.75, 0.5, *[0.0] * (slots - 3)],
        "slot_shares": [1 / slots] * slots,
        "mask_entropy": 0.125,
        "entropy_counts": [0, 0, 10, *[0] * 17],
        "attention_changes": [0.25, 0.0625],
        "duplicate_shares": [[0.0] * slots for _ in range(slots)],
        "likeness": 0.25,
        "true_likeness": 0.2,
        "background_slots": 1.5,
        "objects": 4.5,
        "large_objects": 3,
        "mean_masks": torch.rand(slots, 32, 32, generator=torch.Generator().manual_seed(0)),
    }
    return Diagnosis(**{**values, **changes})


def bars(figure: Figure):
    return [[patch.get_height() for patch in axes.patches] for axes in figure.axes if axes.patches]  # pyright: ignore


def test_every_number_is_explained():
    duplicates = [[0.0] * 4 for _ in range(4)]
    duplicates[1][2] = 0.9
    rows = explained(made_up(duplicate_shares=duplicates).numbers())
    assert {title: value for title, value, _, _ in rows} == {
        "slots used": "2.10 of 4",
        "mask entropy": "0.125",
        "attention change": "0.250, 0.062",
        "likeness": "0.250",
        "background slots": "1.50",
        "dead slots": "3",
        "duplicate slots": "0.90; 1 and 2: 90%",
    }
    healthy = {title: words for title, _, words, meaning in rows if meaning}
    assert "5.50" in healthy["slots used"]
    assert "0.20" in healthy["likeness"]
    assert all(healthy.values()) and len(healthy) == len(rows)


def test_what_is_not_known_is_not_explained():
    unknown = dict.fromkeys(("true_likeness", "background_slots", "objects"))
    numbers = made_up(**unknown, attention_changes=[], likeness=None).numbers()
    titles = {title for title, *_ in explained(numbers)}
    assert titles == {"slots used", "mask entropy", "dead slots", "duplicate slots"}


def test_bars_show_how_often_each_slot_is_used():
    use, used = bars(slot_use_figure(made_up().numbers()))
    assert use == [1.0, 0.75, 0.5, 0.0]
    assert used == [0, 2, 5, 3, 0]


@pytest.mark.parametrize("slots", [4, PER_ROW, PER_ROW + 3])
def test_the_picture_has_a_mean_mask_of_each_slot(slots):
    figure = diagnosis_figure(made_up(slots), "a model")
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(drawn) == slots
    assert bars(figure)[0] == list(made_up(slots).slots_used_counts)
    picture = figure_image(figure)
    assert picture.width > 1000
    assert len(picture.getcolors(1 << 22) or []) > 100


def test_a_model_with_one_iteration_and_one_slot_can_be_drawn():
    single = {"slots_used_counts": [0, 10], "slot_use": [1.0], "slot_shares": [1.0], "duplicate_shares": [[0.0]]}
    found = made_up(1, **single, attention_changes=[])
    assert figure_image(diagnosis_figure(found)).height > 100


def test_the_report_shows_the_diagnosis(run):
    before = write_report(run, images=1).read_text(encoding="utf-8")
    assert "How slots are used" not in before
    metrics = json.loads((run / "metrics.json").read_text())
    numbers = {"mask_source": "attention", **made_up().numbers()}
    (run / "metrics.json").write_text(json.dumps(metrics | {"diagnostics": numbers}))
    after = write_report(run, images=1).read_text(encoding="utf-8")
    for part in ("How slots are used", "mask entropy", "10 images", "attention masks", "slot 1 75%"):
        assert part in after
    assert after.count("<img") == before.count("<img") + 1
