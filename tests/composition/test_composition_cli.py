"""`slotlab concepts`, `slotlab compose` and `slotlab edit`."""

import json
import shutil

import numpy as np
import pytest
from composition_samples import pictures
from PIL import Image

from slotlab.composition import edits, load_library
from slotlab.composition.edits import background_slot, paint_edit, read_scene, take_background
from slotlab.data import open_data
from slotlab.models.sampling import SamplingSettings


def test_the_whole_path_from_a_run_to_scored_compositions(run_slotlab, model_folder, feature_net, squares, tmp_path):
    library, out = tmp_path / "library", tmp_path / "out"
    printed = run_slotlab.fine("concepts", "fit", model_folder, "--data", squares, "--out", library, "--concepts", 2)
    assert "background" in printed and "images 32" in printed
    content = json.loads((library / "library.json").read_text())
    assert content["sources"]["data"] == str(squares)
    printed = run_slotlab.fine("concepts", "show", library, "--members", 3)
    assert "concepts.png" in printed
    assert (library / "concepts.png").stat().st_size > 1000
    score = ["--score", "--data", squares, "--split", "test", "--features", feature_net]
    words = ["compose", model_folder, library, "--count", 6, "--out", out, "--seed", 4]
    printed = run_slotlab.fine(*words, *score)
    for part in ("report", "reconstructions", "shuffle", "FD-small", "split test", "protocol: features small"):
        assert part in printed, part
    assert len(list((out / "images").glob("*.png"))) == 6
    assert (out / "sheet.png").is_file()
    scores = json.loads((out / "scores.json").read_text())
    assert scores["protocol"]["composition"]["seed"] == 4
    assert scores["protocol"]["generated"] == {"report": 6, "reconstructions": 4, "shuffle": 6}
    assert all(scores[name]["distance"] >= 0 for name in ("report", "reconstructions", "shuffle"))
    kept = {path.name.partition("-")[0] for path in (library / "score").glob("*.npz")}
    assert kept == {"real", "reconstructions", "shuffle"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("0*.png")}
    run_slotlab.fine(*words, *score)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what is there is not painted again"
    assert json.loads((out / "scores.json").read_text()) == scores
    scene = ["compose", model_folder, library, "--count", 6, "--out", tmp_path / "scene", "--seed", 4]
    run_slotlab.fine(*scene, "--protocol", "scene", *score)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "another protocol is scored beside the same"
    again = json.loads((tmp_path / "scene" / "scores.json").read_text())
    assert (again["shuffle"], again["reconstructions"]) == (scores["shuffle"], scores["reconstructions"])


def test_slot_diffusion_is_composed_with_its_averaged_weights_and_scored_beside_its_autoencoder(
    run_slotlab, diffusion_run, diffusion, libraries, feature_net, squares, tmp_path
):
    library = tmp_path / "library"
    shutil.copytree(libraries[diffusion.kind], library)
    words = ["compose", diffusion_run, library, "--count", 4, "--sheet", 0, "--out", tmp_path / "out"]
    run_slotlab.fine(*words, "--score", "--data", squares, "--split", "test", "--features", feature_net)
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert {"report", "reconstructions", "autoencoder"} < scores.keys()
    [ceiling] = {path.parent for path in (library / "score" / "autoencoder").glob("*.png")}
    test = open_data(squares, split="test", resolution=diffusion.resolution)
    wanted = diffusion.autoencoder.decode(diffusion.latents(test[1]["image"][None])).clamp(0, 1)[0]
    painted = np.asarray(Image.open(ceiling / "000001.png")) / 255
    assert np.abs(painted - wanted.detach().permute(1, 2, 0).numpy()).max() <= 0.51 / 255
    settings = json.loads((tmp_path / "out" / "composition.json").read_text())
    assert (settings["model"]["sampling_steps"], settings["model"]["weights"]) == (2, "moving average")


@pytest.fixture
def library(model, libraries):
    return libraries[model.kind]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("concepts fit {model} --data {data} --out {tmp}/l --concepts many", "silhouette, not 'many'"),
        ("concepts fit {model} --data {data} --out {tmp}/l --concepts 500", "lower --concepts"),
        ("concepts fit {model} --data {tmp}/nowhere --out {tmp}/l", "nowhere"),
        ("concepts show {tmp}", "library.json: missing"),
        ("concepts show {library}", "name it with --model"),
        ("compose {model} {library} --out {tmp}/o --protocol scenes", "did you mean 'scene'"),
        ("compose {model} {library} --out {tmp}/o --concept 7", "there is no concept 7"),
        ("compose {model} {library} --out {tmp}/o --score", "--score needs --data"),
    ],
)
def test_bad_input_ends_with_one_sentence(run_slotlab, model_folder, library, squares, tmp_path, words, message):
    places = {"model": model_folder, "data": squares, "library": library, "tmp": tmp_path}
    err = run_slotlab.refused(*words.format(**places).split())
    assert message in err
    assert not (tmp_path / "o").exists()


def test_the_library_of_a_release_is_not_replaced(run_slotlab, released, squares):
    before = (released / "concepts" / "library.json").read_text()
    err = run_slotlab.refused("concepts", "fit", released, "--data", squares, "--out", released / "concepts")
    assert "concepts: belongs to a released model, which does not change; name a new folder" in err
    assert (released / "concepts" / "library.json").read_text() == before


def test_a_library_too_small_to_be_scored_is_refused_before_composing(run_slotlab, model_folder, squares, tmp_path):
    few = ["--data", squares, "--count", 2, "--concepts", 2]
    run_slotlab.fine("concepts", "fit", model_folder, *few, "--out", tmp_path / "few")
    words = ["--protocol", "scene", "--score", "--data", squares]
    err = run_slotlab.refused("compose", model_folder, tmp_path / "few", *words, "--out", tmp_path / "out")
    assert "the library has 2 images, but each composition needs slots of" in err
    assert not (tmp_path / "out").exists()


def test_a_sheet_needs_the_data_but_the_compositions_do_not(run_slotlab, model_folder, library, tmp_path):
    status, _, err = run_slotlab("compose", model_folder, library, "--count", 2, "--out", tmp_path / "out")
    assert status == 0
    assert "no sheet.png: the library does not say where its data is" in err
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 2


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
