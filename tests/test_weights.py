"""The trained models that come with the package, as they lie in `src/slotlab/weights`."""

import json
import shlex

import pytest
import torch
from safetensors.torch import load_file

import slotlab
from slotlab.data import open_data
from slotlab.models.sampling import seeded_generator
from slotlab.publishing import image_scores
from slotlab.released import check, model_folder, size_of

pytestmark = pytest.mark.usefixtures("no_network")
LARGEST = {"scenes-64": 8e6, "scenes-64-diffusion": 40e6, "textured-64": 8e6, "textured-128": 8e6, "moving-64": 8e6}
LARGEST["textured-128-diffusion"] = 25e6
NAMES = tuple(name for name in LARGEST if name != "moving-64")  # which compose


@pytest.mark.parametrize("name", LARGEST)
def test_they_load_without_a_network_and_are_whole(name):
    assert name in slotlab.list_models(pretrained=True)
    folder = model_folder(name)
    check(folder)
    assert size_of(folder) <= LARGEST[name]
    parameters = dict(slotlab.load(name).named_parameters())
    stored = load_file(folder / "model.safetensors")
    assert {stored[key].dtype for key in parameters} == {torch.float16}
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}


def test_moving_64_keeps_its_scores_on_clips():
    scores = json.loads((model_folder("moving-64") / "metrics.json").read_text())["video"]["posterior"]
    assert scores["fg_ari"]["mean"] > 0.88 and scores["identity"]["mean"] > 0.9
    examples = json.loads((model_folder("moving-64") / "examples.json").read_text())
    data = open_data("scenes:moving", split="test", resolution=64, max_objects=6, count=200)
    model, known = slotlab.load("moving-64"), examples["worst"][0]
    batch = data.batch([known["image"]])
    with torch.no_grad():
        (value,) = image_scores(batch | {"mask": batch["mask"].flatten(0, 1)}, model(batch["image"]), "posterior")[1]
    assert value == pytest.approx(known["score"], abs=0.02)


def test_textured_128_weighs_attention_and_keeps_its_scores():
    folder = model_folder("textured-128")
    assert json.loads((folder / "config.json").read_text())["attended"]
    scores = json.loads((folder / "metrics.json").read_text())["details"]["posterior"]
    assert scores["ari"]["mean"] > 0.76 and scores["fg_ari"]["mean"] > 0.79


def test_photos_takes_a_photograph_of_any_size_apart():
    check(model_folder("photos"))
    found = slotlab.segment_image("photos", model_folder("photos").parents[1] / "samples" / "bus.jpg")
    assert found.masks.shape == (8, 427, 640)
    body, road, sky = (int(found.segmentation[place]) for place in ((250, 250), (400, 500), (40, 320)))
    assert len({body, road, sky}) == 3
    assert found.masks[body, 220:260, 200:500].mean() > 0.8  # the side of the bus is one object


def test_the_autoencoder_is_whole_and_slot_diffusion_begins_with_it(run_slotlab):
    check(model_folder("textured-128-latents"))
    autoencoder = slotlab.load("textured-128-latents")
    images = slotlab.render(range(2), variant="textured", resolution=128, supersample=2).image
    assert (autoencoder(images).reconstruction - images).square().mean() < 0.01
    held = slotlab.create_model("textured-128-diffusion").autoencoder
    assert held.fingerprint() == autoencoder.fingerprint()
    assert "textured-128-latents" in run_slotlab.fine("models")


@pytest.mark.parametrize("name", NAMES)
def test_their_library_is_of_these_weights_and_composes(name, run_slotlab, tmp_path):
    library = slotlab.load_library(name, slotlab.load(name))
    assert len(library.slots) > 1000
    words = ["compose", name, name, "--protocol", "scene", "--count", 2, "--sheet", 0, "--out", tmp_path / "out"]
    run_slotlab.fine(*words)
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 2


@pytest.mark.parametrize("name", NAMES)
def test_their_card_says_what_they_reach(name):
    """The card's examples, scored anew: on another machine the last digits may differ."""
    examples = json.loads((model_folder(name) / "examples.json").read_text())
    protocol = json.loads((model_folder(name) / "metrics.json").read_text())["protocol"]
    model = slotlab.load(name)
    same = {key: protocol[key] for key in ("split", "count", "resolution", "max_objects", "supersample")}
    data = open_data(protocol["data"], **same)
    for group in ("best", "worst"):
        batch = data.batch([example["image"] for example in examples[group]])
        generators = [seeded_generator(0, int(index)) for index in batch["index"]]
        name, values = image_scores(batch, model(batch["image"], generators), model.finer_masks)
        assert name == examples["score"]
        assert values == pytest.approx([example["score"] for example in examples[group]], abs=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_repeatable_and_leaves_the_package_alone(name, run_slotlab, tmp_path):
    folder = model_folder(name)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    card = (folder / "card.md").read_text()
    (command,) = (line for line in card.splitlines() if line.startswith("slotlab evaluate"))
    words = shlex.split(command)[1:]
    words[words.index("--count") + 1] = "8"
    printed = []
    for file in ("a.json", "b.json"):
        out = run_slotlab.fine(*words, "--json", tmp_path / file)
        printed.append(out)
    assert printed[0] == printed[1]
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_their_pictures_of_concepts_are_there_or_drawn_elsewhere(run_slotlab, tmp_path):
    folder = model_folder("scenes-64") / "concepts"
    before = (folder / "concepts.png").read_bytes()
    out = run_slotlab.fine("concepts", "show", "scenes-64")
    assert "background" in out and str(folder / "concepts.png") in out.replace("\n", "")
    run_slotlab.fine("concepts", "show", "scenes-64", "--members", 2, "--out", tmp_path / "few.png")
    assert (tmp_path / "few.png").stat().st_size < len(before)
    assert (folder / "concepts.png").read_bytes() == before


def test_models_lists_them_first(run_slotlab):
    out = run_slotlab.fine("models")
    assert out.index("scenes-64-diffusion") < out.index("presets:")
    for said in ("FG-ARI", "MB", "scenes:plain", "64²", "minutes in all on", "licence of the weights: Apache-2.0"):
        assert said in out


def test_they_are_what_other_models_begin_with():
    from slotlab.checkpoints import load_autoencoder, take_parts

    assert list(take_parts(slotlab.create_model("scenes-64"), "scenes-64")) == ["encoder", "decoder"]
    grown = {"encoder": ["7 to 11 slots"], "decoder": ["each pixel to 2x2"]}
    assert take_parts(slotlab.create_model("textured-128"), "textured-64") == grown
    registered = slotlab.create_model("scenes-64-diffusion", **{"denoiser.registers": 7})
    assert take_parts(registered, "scenes-64-diffusion")["denoiser"] == ["0 to 7 registers"]
    longer = slotlab.create_model("scenes-64-diffusion", **{"denoiser.last_blocks": 2})
    assert take_parts(longer, "scenes-64-diffusion")["denoiser"] == ["0 to 2 last blocks"]
    autoencoder = load_autoencoder("scenes-64-diffusion", 64)
    images = torch.rand(1, 3, 64, 64)
    given = slotlab.load("scenes-64-diffusion").autoencoder
    assert torch.equal(autoencoder.encode(images), given.encode(images))
    assert autoencoder.config["source"] == "scenes-64-diffusion"
    model = slotlab.create_model("scenes-64-diffusion", **{"autoencoder.pretrained": "scenes-64-diffusion"})
    assert model.autoencoder.fingerprint() == given.fingerprint()
