import numpy as np
import pytest
import torch
from PIL import Image

import slotlab
from slotlab.checkpoints import create_model, load, save
from slotlab.composition import edits
from slotlab.composition.edits import paint_edit, read_scene
from slotlab.figures.slots import look
from slotlab.metrics.functional import adjusted_rand_index


@pytest.fixture(scope="module")
def model(distinct):
    return distinct()


@pytest.fixture
def files(squares):
    return squares / "images" / "003.png", squares / "masks" / "003.png"


def test_all_forms_of_a_picture_look_the_same(model, files):
    path, _ = files
    picture = Image.open(path)
    pixels = np.asarray(picture)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
    wanted = look(model, path).output.slots
    for given in (str(path), picture, pixels, tensor):
        assert look(model, given).output.slots.equal(wanted)


def test_slots_have_the_numbers_of_an_edit(model, files):
    seen, scene = look(model, files[0], seed=5), read_scene(model, files[0], seed=5)
    assert seen.output.slots[0].equal(scene.slots)
    assert seen.segmentation().equal(scene.segmentation())


def test_a_scene_has_the_finest_masks_and_what_is_painted_those_that_painted_it(tiny_preset, diffusion_run, files):
    for model, finest in (
        (create_model(tiny_preset, pixel_sigma=0.2), "posterior"),
        (load(diffusion_run), "attention"),
    ):
        seen, scene = look(model, files[0]), read_scene(model, files[0])
        assert scene.masks.equal(seen.output.soft_masks(finest)[0])
        assert scene.segmentation().equal(seen.segmentation())
        assert not scene.masks.equal(seen.output.masks[0])
        if finest == "posterior":
            painted = paint_edit(model, scene, edits.keep(scene, range(4)))
            torch.testing.assert_close(painted.masks, seen.output.masks[0])


def test_scores_are_those_of_the_metrics(model, files):
    seen = look(model, *files)
    assert seen.mask.equal(torch.from_numpy(np.asarray(Image.open(files[1]))).long())
    scores = seen.scores()
    assert list(scores) == ["decoder masks", "attention masks"]
    ari = adjusted_rand_index(seen.output.segmentation("masks"), seen.mask[None], foreground_only=True)
    assert scores["decoder masks"]["FG-ARI"] == float(ari)
    assert look(model, files[0]).scores() == {}
    error = (seen.output.reconstruction.clamp(0, 1)[0] - seen.image).square()
    assert seen.errors()["MSE (mean)"] == pytest.approx(float(error.mean()))


def test_show_draws_every_slot_and_iteration(diffusion_run, model, files):
    without, figure = slotlab.show(files[0], model), slotlab.show(files[0], model, files[1])
    assert figure.mode == "RGB"
    assert figure.width > 4 * 128
    assert figure.height > 6 * 128
    assert figure.width >= without.width
    assert slotlab.show(files[0], diffusion_run, cell=64).height < figure.height


def test_the_command_writes_a_figure_per_image_and_model(run_slotlab, model, files, tmp_path):
    save(model, tmp_path / "tiny")
    out = run_slotlab.fine("show", files[0], "--model", tmp_path / "tiny", "--out", tmp_path / "figures")
    assert "003-tiny.png" in out
    assert Image.open(tmp_path / "figures" / "003-tiny.png").width > 500
