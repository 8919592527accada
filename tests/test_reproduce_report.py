"""One command reproduces the report, resumes, and refuses what it cannot use in one sentence."""

import importlib.util
import sys
from pathlib import Path

import pytest
from PIL import Image

from slotlab.config import run_config

EXAMPLE = Path(__file__).parents[1] / "examples" / "reproduce_report.py"


@pytest.fixture
def example(monkeypatch, feature_net):
    spec = importlib.util.spec_from_file_location("example_reproduce_report", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LIKE_REPORT", {"slots": 4})  # two steps do not fill eleven

    def run(*words):
        words = map(str, ["--scale", "tiny", "--features", feature_net, "--device", "cpu", *words])
        monkeypatch.setattr(sys, "argv", ["reproduce_report.py", *words])
        module.main()

    run.module = module
    return run


@pytest.fixture
def clevrtex(squares, tmp_path):
    """A function that writes the squares as a CLEVRTex tree of one variant."""

    def write(variant):
        folder = tmp_path / f"clevrtex_{variant}"
        folder.mkdir()
        for number in range(40):
            stem = folder / f"CLEVRTEX_{variant}_{number:06d}"
            Image.open(squares / "images" / f"{number:03d}.png").save(f"{stem}.png")
            mask = Image.open(squares / "masks" / f"{number:03d}.png")
            mask.putpalette([level for colour in range(256) for level in (colour, 0, 0)])
            mask.save(f"{stem}_flat.png")
        return folder

    return write


def test_an_interrupted_reproduction_resumes_and_leaves_the_page_of_the_report(
    example, clevrtex, tmp_path, monkeypatch, capsys
):
    data, out = clevrtex("full"), tmp_path / "out"
    train = example.module.train

    def interrupted(preset, **options):
        if options["out"].name == "slot-diffusion":
            raise KeyboardInterrupt
        return train(preset, **options)

    monkeypatch.setattr(example.module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        example("--data", data, "--out", out)
    checkpoint = out / "slot-attention" / "checkpoints" / "step-00000002" / "model.safetensors"
    written = checkpoint.stat().st_mtime_ns
    monkeypatch.setattr(example.module, "train", train)
    example("--data", data, "--out", out)
    assert checkpoint.stat().st_mtime_ns == written  # not trained again
    assert str(out / "report.html") in capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    titles = [
        "1 Object-Centric Learning",
        "1.5.1 Training loss",
        "1.5.2 Adjusted",
        "1.5.5 Attention",
        "1.6.1 Generated",
    ]
    titles += ["2 Slot Learning", "2.3.1 Finalized", "2.4.2 Adjusted", "2.5.1 Generated", "2.5.2 Clean-FID"]
    places = [page.index(f">{title}", page.index("<main>")) for title in titles]
    assert places == sorted(places)
    for number in ("0.681", "0.747", "235.7", "0.221", "0.684", "179.9", "FD-small"):
        assert number in page, number
    with pytest.raises(SystemExit, match="holds a reproduction with other settings.*data was"):
        example("--out", out)


def test_a_scale_that_is_not_there_and_data_without_a_training_split_are_one_sentence(
    example, clevrtex, tmp_path, capsys
):
    with pytest.raises(SystemExit):
        example("--scale", "huge", "--out", tmp_path / "out")
    assert "invalid choice: 'huge' (choose from" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="clevrtex_outd: has no training split"):
        example("--data", clevrtex("outd"), "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_scale_names_presets_and_settings_that_there_are(example):
    for scale, stages in example.module.STAGES.items():
        assert scale in example.module.SCALES
        for stage, preset, changes in stages:
            config = run_config(preset, changes | ({} if stage == "latents" else {"slots": 11, "max_objects": 10}))
            assert ("latents" in preset) == (stage == "latents"), config.preset
