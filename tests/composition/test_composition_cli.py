"""`slotlab concepts` and `slotlab compose`."""

import json

import pytest


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


def test_a_run_is_composed_with_its_averaged_weights(run_slotlab, diffusion_run, diffusion, libraries, tmp_path):
    library = libraries[diffusion.kind]
    run_slotlab.fine("compose", diffusion_run, library, "--count", 1, "--sheet", 0, "--out", tmp_path / "out")
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


def test_a_sheet_needs_the_data_but_the_compositions_do_not(run_slotlab, model_folder, library, tmp_path):
    status, _, err = run_slotlab("compose", model_folder, library, "--count", 2, "--out", tmp_path / "out")
    assert status == 0
    assert "no sheet.png: the library does not say where its data is" in err
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 2
