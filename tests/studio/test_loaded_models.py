import shutil
from dataclasses import replace

import pytest

import slotlab
from slotlab.composition.edits import paint_edit
from slotlab.errors import CheckpointError, ConfigError
from slotlab.models import VideoModel
from slotlab.studio import LoadedModel, edit_session, open_models
from slotlab.studio.image_chooser import FIRST_EXAMPLE


def test_a_library_goes_to_its_model(models):
    plain, posterior, diffusion = models
    assert [loaded.name for loaded in models] == ["plain", "posterior", "diffusion"]
    assert plain.library is not None
    assert posterior.library is diffusion.library is None
    assert (plain.can_move, posterior.can_move, diffusion.can_move) == (False, True, False)
    assert plain.sampling is posterior.sampling is None
    assert diffusion.sampling is not None
    assert plain.describe() == "slot autoencoder, 16 × 16 pixels, 4 slots, 3 iterations"


def test_models_of_one_name_are_numbered(plain_model, tmp_path):
    for place in ("a", "b"):
        shutil.copytree(plain_model, tmp_path / place / "my run")
    opened = open_models([tmp_path / "a" / "my run", plain_model, tmp_path / "b" / "my run"])
    assert [model.name for model in opened] == ["my run", "plain", "my run (2)"]


def test_what_is_no_model_with_slots_is_refused(latents_run, tmp_path):
    with pytest.raises(CheckpointError, match="latents: a latent-autoencoder has no slots"):
        open_models([latents_run])
    with pytest.raises(CheckpointError, match="missing"):
        open_models([tmp_path])


def test_a_model_that_starts_from_boxes_is_refused(distinct, tmp_path):
    slotlab.save(VideoModel(distinct(), starts="boxes"), tmp_path)
    with pytest.raises(ConfigError, match="starts from boxes, which pictures lack; train one with starts=learned"):
        open_models([tmp_path])


def test_a_library_of_another_model_is_refused(posterior_model, library):
    with pytest.raises(CheckpointError, match="a library of another model"):
        open_models([posterior_model], [library])


def test_a_model_of_clips_is_one_of_images_too(distinct):
    video = VideoModel(distinct(), "identity")
    loaded = LoadedModel("clips", video)
    assert loaded.painting is video.image_model
    assert loaded.describe() == "slot autoencoder of clips, 16 × 16 pixels, 4 slots, 3 iterations"
    removed = []
    for one in (loaded, LoadedModel("images", video.image_model)):
        now = edit_session.begin(one, FIRST_EXAMPLE)
        then = edit_session.remove(replace(now, selected=2), one)
        removed.append(paint_edit(one.model, then.scene, then.slots).image)
    assert removed[0].equal(removed[1])
