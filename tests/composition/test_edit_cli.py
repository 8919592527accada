"""`slotlab edit`."""

import numpy as np
import pytest
from composition_samples import pictures
from PIL import Image

from slotlab.composition import edits
from slotlab.composition.edits import background_slot, paint_edit, read_scene, take_background
from slotlab.composition.library import load_library
from slotlab.models.sampling import SamplingSettings


@pytest.fixture
def words(tmp_path, model_folder, squares):
    return ["edit", model_folder, pictures(squares)[0], "--out", tmp_path / "out", "--device", "cpu", "--threads", 1]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_without_an_edit_the_slots_are_shown(run_slotlab, words, tmp_path):
    assert "4 slots" in run_slotlab.fine(*words)
    assert names(tmp_path / "out") == ["slots.png"]
    assert Image.open(tmp_path / "out" / "slots.png").width > 4 * 176


def test_the_command_does_what_the_functions_do(run_slotlab, words, model, squares, tmp_path):
    other = pictures(squares)[1]
    words += ["--remove", 2, "--swap", f"0={other}:3", "--interpolate", f"1={other}:2:0.25", "--add", f"{other}:1"]
    out = run_slotlab.fine(*words)
    assert "slots now: 0, 1, 3, 4; changed: 0, 1, 2, 4" in out
    assert "mean squared error outside the region" in out
    files = ["edit.png", "edited.png", "mask.png", "slots.npz"]
    assert names(tmp_path / "out") == sorted([*files, *(f"swapped-1-{name}" for name in files)])

    one, two = (read_scene(model, path) for path in pictures(squares)[:2])
    plan, theirs = edits.swap(edits.remove(one, [2]), two, 0, 3)
    plan = edits.add(edits.interpolate(plan, 1, two.slots[2], 0.25), two, 1)
    edited = paint_edit(model, one, plan)
    with np.load(tmp_path / "out" / "slots.npz") as stored:
        assert sorted(stored) == ["changed", "numbers", "slots"]
        assert np.allclose(stored["slots"], plan.slots)
        assert stored["numbers"].tolist() == [0, 1, 3, 4]
        assert stored["changed"].tolist() == [0, 1, 2, 4]
    with np.load(tmp_path / "out" / "swapped-1-slots.npz") as stored:
        assert np.allclose(stored["slots"], theirs.slots)
    mask = Image.open(tmp_path / "out" / "mask.png")
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), edited.segmentation())
    painted = np.asarray(Image.open(tmp_path / "out" / "edited.png"))
    assert painted.shape == (16, 16, 3)
    assert np.abs(painted / 255 - edited.image.permute(1, 2, 0).numpy()).max() <= 0.51 / 255


def test_the_command_puts_a_concepts_member_in_a_slots_place(run_slotlab, words, model, libraries, tmp_path):
    library = load_library(libraries[model.kind])
    run_slotlab.fine(*words, "--replace", f"2={libraries[model.kind]}:1")
    with np.load(tmp_path / "out" / "slots.npz") as stored:
        assert stored["changed"].tolist() == [2]
        assert np.any(np.all(library.slots[library.members[1]] == stored["slots"][2], axis=1))
    err = run_slotlab.refused(*words, "--replace", f"2={libraries[model.kind]}:7")
    assert "no concept 7; there are 2, numbered 0 (the background) to 1" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--remove", 9], "slot 9: there are 4 slots, numbered 0 to 3"),
        (["--swap", "1"], "--swap 1: not of the form K=IMAGE:J"),
        (["--add", "2"], "--add 2: not of the form IMAGE:J"),
        (["--interpolate", "1=x.png:2:much"], "not of the form K=IMAGE:J:AMOUNT"),
        (["--move", "1:nan,0"], "--move 1:nan,0: not of the form K:DX,DY"),
        (["--move", "1:0.5"], "--move 1:0.5: not of the form K:DX,DY"),
        (["--move", "1:0.5,0"], "model.kind=relative-slot-autoencoder"),
        (["--resize", "1"], "--resize 1: not of the form K:FACTOR"),
        (["--add", "nowhere.png:2"], "nowhere.png: no such image file"),
        (["--background", "nowhere.png"], "nowhere.png: no such image file"),
        (["--remove", 1, "--steps", 3], "paints in one step"),
    ],
)
def test_bad_words_end_with_one_sentence_and_write_nothing(run_slotlab, words, tmp_path, more, message):
    assert message in run_slotlab.refused(*words, *more)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_backgrounds_samplers_and_steps(
    run_slotlab, words, diffusion, diffusion_run, squares, tmp_path
):
    mine, other = pictures(squares)[:2]
    words[1] = diffusion_run
    run_slotlab.fine(*words, "--background", other, "--keep-outside", "--sampler", "ddim", "--steps", 3)
    scene, theirs = read_scene(diffusion, mine), read_scene(diffusion, other)
    with np.load(tmp_path / "out" / "slots.npz") as stored:
        assert stored["changed"].tolist() == [background_slot(scene)]
        assert np.allclose(stored["slots"][background_slot(scene)], theirs.slots[background_slot(theirs)])
    plan = take_background(scene, scene, theirs)
    wanted = paint_edit(diffusion, scene, plan, keep_outside=True, sampling=SamplingSettings("ddim", 3)).image
    painted = np.asarray(Image.open(tmp_path / "out" / "edited.png")) / 255
    assert np.abs(painted - wanted.permute(1, 2, 0).numpy()).max() <= 0.51 / 255
