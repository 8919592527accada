import math

import pytest

from slotlab.figures.curves import SCORES, figure_image, loss_curves

FIRST = {"step": 10.0, "epoch": 1.0, "seconds": 60.0, "train_loss": 8.0, "validation_loss": 7.0}
ROWS = [
    FIRST | {"ari": -0.1, "fg_ari": 0.2},
    {"step": 20.0, "epoch": 2.0, "seconds": 120.0, "train_loss": 1.0, "validation_loss": 1.1, "attention_ari": 0.3},
]


def lines(axes):
    return {line.get_label(): list(line.get_xdata()) for line in axes.lines if not line.get_label().startswith("_")}


def test_losses_and_scores_stand_side_by_side_if_the_run_has_scores():
    (losses,) = loss_curves([{name: row[name] for name in ("step", "train_loss")} for row in ROWS]).axes
    assert lines(losses) == {"train": [10, 20]}
    losses, scores = loss_curves(ROWS).axes
    assert lines(losses) == {"train": [10, 20], "validation": [10, 20]}
    assert lines(scores) == {"ARI, decoder masks": [10], "FG-ARI, decoder masks": [10], "ARI, attention masks": [20]}
    assert scores.get_ylim()[0] < -0.1


def test_log_scale_only_where_the_loss_falls_far():
    assert loss_curves(ROWS).axes[0].get_yscale() == "log"
    near = [row | {"train_loss": 1.0, "validation_loss": 0.9} for row in ROWS]
    assert loss_curves(near).axes[0].get_yscale() == "linear"
    assert loss_curves([row | {"train_loss": 0.0} for row in ROWS]).axes[0].get_yscale() == "linear"


@pytest.mark.parametrize(("epoch", "label"), [(2.0, "epoch"), (1e-6, "minutes")])
def test_epochs_along_the_top_or_minutes_where_data_never_ends(epoch, label):
    axes = loss_curves([ROWS[0], ROWS[1] | {"epoch": epoch}]).axes[0]
    assert [child.get_xlabel() for child in axes.child_axes] == [label]


UNDEFINED = {"step": 5.0, "train_loss": math.nan, "validation_loss": math.inf, "seconds": math.nan}


@pytest.mark.parametrize("rows", [[], [{"step": 1.0}], [UNDEFINED], [{"train_loss": 1.0}]])
def test_gaps_and_values_that_are_not_finite_leave_a_picture(rows):
    picture = figure_image(loss_curves(rows, "a run"))
    assert picture.mode == "RGB"
    assert picture.width > 300
    assert len(picture.getcolors(100_000)) > 5


@pytest.mark.parametrize("scores", [SCORES, ()])
def test_legends_of_three_kinds_of_masks_and_long_titles_are_inside_the_picture(scores):
    figure = loss_curves([FIRST | dict.fromkeys(scores, 0.5)], "a-long-name-of-a-run-" * 9, "cross-attention masks")
    figure.draw_without_rendering()
    texts = [axes.get_legend() for axes in figure.axes if axes.get_legend()] + figure.texts
    for box in (text.get_window_extent() for text in texts):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
