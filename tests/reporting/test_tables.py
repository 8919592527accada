import math

from slotlab.metrics.metrics import Score
from slotlab.reporting.tables import _cell


def test_the_score_of_one_image_has_no_error():
    assert _cell(Score(mean=0.5, standard_error=math.nan, count=1, degenerate=0), 2) == "0.50"


def test_the_list_of_models_names_their_licence(run_slotlab):
    status, printed, err = run_slotlab("models")
    assert status == 0, err
    assert "licence of the weights: Apache-2.0" in printed
