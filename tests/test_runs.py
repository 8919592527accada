from types import SimpleNamespace

from slotlab import runs
from slotlab.config import run_config
from slotlab.runs import TrainingProgress
from slotlab.training.loop import Event

ROW = {"step": 1.0, "train_loss": 0.5, "validation_loss": 0.5, "images_per_second": 1.0}


def test_a_warning_is_told_once_when_it_lasts(capsys):
    progress = TrainingProgress(10, enabled=True)
    progress.show_validation(ROW, ["soft masks: 0.9", "dead slots: 1"])
    assert "warning" not in capsys.readouterr().out
    progress.show_validation(ROW, ["soft masks: 0.8"])
    assert "warning: soft masks: 0.8" in capsys.readouterr().out
    progress.show_validation(ROW, ["soft masks: 0.7", "dead slots: 1"])
    assert "warning" not in capsys.readouterr().out
    progress.show_validation(ROW, ["dead slots: 2"])
    assert "warning: dead slots: 2" in capsys.readouterr().out


def test_training_into_a_file_speaks_at_the_first_step_and_then_by_time(capsys, monkeypatch):
    clock = iter([0, 0, 59, 60, 60, 90])
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = TrainingProgress(3000, enabled=True)
    for step in (1, 2, 3, 4):
        run = SimpleNamespace(step=step, config=run_config("scenes-32"), loss=0.25, seconds=step)
        progress.show(Event("step", run))
    said = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["step 1 of 3000", "step 3 of 3000"]
