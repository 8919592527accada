"""An id that marks pixels to be ignored, through every reader that has masks."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from slotlab.data import check_data, open_data, pack
from slotlab.errors import ConfigError
from slotlab.metrics.functional import adjusted_rand_index


@pytest.fixture(params=[0, 255])
def ringed(folder, request):
    """Ten images whose objects have a ring, one pixel wide, of the id of unlabelled pixels."""
    root = folder(10)
    for path in (root / "masks").iterdir():
        mask = np.array(Image.open(path))
        other = mask[1:, 1:] != mask[:-1, :-1]
        mask[mask == 0] = 200
        mask[1:, 1:][other] = request.param
        Image.fromarray(mask).save(path)
    return root, request.param


def test_a_perfect_prediction_is_perfect_with_void_ignored(ringed, tmp_path):
    root, void = ringed
    plain = open_data(root, split="all", resolution=30)
    truth = torch.stack([plain[i]["mask"] for i in range(10)])
    expected = torch.where(truth == void, -1, truth)
    whole = expected.clamp(min=0)
    for spec in (root, pack(root, tmp_path / "with", resolution=30, ignore=void), pack(root, tmp_path / "without")):
        ignore = None if spec == tmp_path / "with" else void
        data = open_data(spec, split="all", ignore=ignore)
        assert torch.equal(data.batch(range(10))["mask"], expected)
        assert data.describe()["ignore"] == void
        assert adjusted_rand_index(whole, data.batch(range(10))["mask"]).tolist() == [1.0] * 10
    found = check_data(root, ignore=void)
    assert (found.ignored, max(found.objects)) == (10, 4)
    assert "ignore" not in plain.describe()
    with pytest.raises(ConfigError, match="ignore=3: every id in rendered masks is an object"):
        open_data("scenes:plain", ignore=3)


def test_evaluate_names_the_ignored_id_in_its_protocol(ringed, slots_run, run_slotlab, tmp_path):
    root, void = ringed
    words = (
        "evaluate",
        slots_run,
        "--data",
        root,
        "--split",
        "all",
        "--ignore",
        void,
        "--json",
        tmp_path / "scores.json",
    )
    status, out, _ = run_slotlab(*words)
    assert (status, f"ignore {void}" in out) == (0, True)
    assert json.loads((tmp_path / "scores.json").read_text())["protocol"]["ignore"] == void
    assert "with ignored pixels" in run_slotlab("data", "check", root, "--ignore", void)[1]
