import shutil

import pytest

from slotlab.errors import CheckpointError, ConfigError
from slotlab.studio import open_models


def test_a_library_goes_to_its_model(shelf):
    plain, relative, diffusion = shelf
    assert [loaded.name for loaded in shelf] == ["plain", "relative", "diffusion"]
    assert plain.library is not None
    assert relative.library is diffusion.library is None
    assert (plain.has_poses, relative.has_poses, diffusion.has_poses) == (False, True, False)
    assert plain.sampling is relative.sampling is None
    assert diffusion.sampling is not None
    assert plain.describe() == "slot autoencoder, 16 × 16 pixels, 4 slots, 3 iterations"


def test_two_models_of_one_name_are_told_apart(plain_model):
    assert [loaded.name for loaded in open_models([plain_model, plain_model])] == ["plain", "plain (2)"]


def test_names_with_spaces_are_told_apart_too(plain_model, tmp_path):
    for place in ("a", "b"):
        shutil.copytree(plain_model, tmp_path / place / "my run")
    shelf = open_models([tmp_path / "a" / "my run", tmp_path / "b" / "my run"])
    assert [loaded.name for loaded in shelf] == ["my run", "my run (2)"]


def test_what_is_no_model_with_slots_is_refused(latents_run, tmp_path):
    with pytest.raises(CheckpointError, match="latents: a latent-autoencoder has no slots"):
        open_models([latents_run])
    with pytest.raises(CheckpointError, match="missing"):
        open_models([tmp_path])
    with pytest.raises(ConfigError, match="name one with --model"):
        open_models([])


def test_a_library_of_another_model_is_refused(relative_model, library):
    with pytest.raises(CheckpointError, match="a library of another model"):
        open_models([relative_model], [library])


def test_the_command_says_what_is_wrong(run_slotlab, tmp_path):
    status, _, err = run_slotlab("studio", "--model", tmp_path, "--no-browser")
    assert status == 2
    assert err.startswith("slotlab: ")
    assert "config.json: missing" in err
    assert "Traceback" not in err
