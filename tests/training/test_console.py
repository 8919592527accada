from slotlab.training.console import TrainingProgress

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
