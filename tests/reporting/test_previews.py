import pytest
import torch
from PIL import Image
from reporting_samples import tiny_model

from slotlab.config import DataSettings, RunConfig
from slotlab.data import open_data
from slotlab.evaluation import batch_output, evaluate
from slotlab.models.sampling import seeded_generator
from slotlab.runs import draw_curves, draw_preview
from slotlab.training.checkpoint import Run

ROW = {"step": 7.0, "train_loss": 1.0, "validation_loss": 0.5, "ari": 0.1}


@pytest.fixture
def state(tmp_path, data):
    model = tiny_model().train()
    config = RunConfig(preset="tiny", model=model.config, data=DataSettings(source=str(data)))
    validation = open_data(data, split="val", resolution=16)
    nothing = {"fabric": None, "average": None, "optimizer": None, "train_data": validation}
    return Run(tmp_path / "run", config, trained=model, validation=validation, step=7, rows=[ROW], **nothing)


def test_pictures_are_drawn_where_the_report_looks_for_them(state):
    draw_preview(state, images=2)
    draw_curves(state, evaluate(state.model, state.validation))
    found = sorted(path.relative_to(state.folder).as_posix() for path in state.folder.rglob("*") if path.is_file())
    assert found == ["loss.png", "previews/step-00000007.png"]
    for path in found:
        with Image.open(state.folder / path) as picture:
            picture.verify()


def test_the_same_images_every_time_and_no_more_than_there_are(state):
    draw_preview(state, images=50)
    first = (state.folder / "previews" / "step-00000007.png").read_bytes()
    state.step = 8
    draw_preview(state, images=50)
    assert (state.folder / "previews" / "step-00000008.png").read_bytes() == first


def test_training_goes_on_as_if_nothing_had_been_drawn(state):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    draw_preview(state)
    assert state.model.training
    assert torch.equal(torch.rand(3), expected)


def test_outputs_are_those_that_are_scored(state):
    batch = state.validation.batch([0, 2])
    output = batch_output(state.model, batch, seed=5)
    single = batch_output(state.model, state.validation.batch([2]), seed=5)
    torch.testing.assert_close(output.masks[1:], single.masks)
    with torch.inference_mode():
        scored = state.model.eval()(batch["image"], [seeded_generator(5, int(i)) for i in batch["index"]])
    torch.testing.assert_close(output.reconstruction, scored.reconstruction)


def test_a_picture_that_fails_is_a_warning_and_the_model_trains_on(state, monkeypatch):
    with pytest.warns(RuntimeWarning, match="step 7: the loss curves could not be drawn"):
        draw_curves(state, None)  # type: ignore[arg-type]
    monkeypatch.setattr(state.model, "forward", lambda *_: 1 / 0)
    with pytest.warns(RuntimeWarning, match="step 7: the preview could not be drawn: division by zero"):
        draw_preview(state)
    assert state.model.training
