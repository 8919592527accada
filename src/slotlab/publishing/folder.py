"""From a run to a folder that can be shipped: rounded weights, and all that is said of them measured on those."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from slotlab import hub
from slotlab.atomic import replacing
from slotlab.composition import compose, fit_library
from slotlab.composition.library import PICTURE_FILE
from slotlab.composition.scoring import OnProgress, counted
from slotlab.data import open_data
from slotlab.errors import ConfigError
from slotlab.evaluation import evaluate
from slotlab.models import LatentAutoencoder, Model, SlotModel
from slotlab.presets.config import RUN_FILE, DataSettings, read_run_config
from slotlab.publishing.card import EXAMPLES_FILE, write_card
from slotlab.publishing.examples import ImageScores, example_picture
from slotlab.publishing.records import portable, portable_facts, training_records
from slotlab.released import LIBRARY_FOLDER, is_released, write_manifest
from slotlab.reporting.concepts import concept_picture, contact_sheet
from slotlab.reporting.previews import write_png
from slotlab.training.checkpoint import TRAINING_FILE, weights_of

EXAMPLES = 8


def prepare(
    run: str | Path,
    out: str | Path,
    *,
    name: str,
    data: str | None = None,
    images: int = 500,
    library_images: int = 1000,
    device: str | torch.device = "cpu",
    on_progress: OnProgress | None = None,
) -> Path:
    """Makes a released folder of a run. It appears when it is complete, in place of an earlier one.

    It holds the weights in float16, and made with exactly those: the scores on the test split (`metrics.json`),
    pictures of its first, best and worst images (`examples.json` says which), the concept library of the first images
    of the train split with pictures of concepts and compositions (`concepts/`; none for a model without slots); and
    how it was trained (`training.json`), a card of it all, and the SHA-256 of every file (`manifest.json`).

    Args:
        run: a run folder.
        out: new, empty, or an earlier released folder.
        name: what the card calls the model: a name that `slotlab.load` knows it by.
        data: where the run's data is now, if not where it was.
        images: how many images of the test split to score, at most.
        library_images: how many images of the train split the library has the slots of, at most.
        device: where the model runs.
        on_progress: told what is being made, how much of it is done, and of how much.

    Returns:
        `out`.

    Raises:
        CheckpointError: `run` is no run that was trained, or a file in it is damaged, or does not fit float16.
        ConfigError: `out` holds something else.
        DataError: the data cannot be read.
    """
    run, out = Path(run), Path(out)
    check_place(out)
    config, records = read_run_config(run / RUN_FILE), training_records(run)
    source = data or config.data.source
    opening = _opening(config.data, source)
    with replacing(out) as folder:
        folder.mkdir()
        model = _rounded(hub.load(run), folder).to(device)
        _write_json(
            folder / TRAINING_FILE,
            {
                "averaged_weights": records[-1]["averaged_weights"],
                "seconds": round(sum(record.get("seconds", 0) for record in records), 1),
                "runs": records,
                "data": portable(source, "data"),
            },
        )
        _evaluate(model, source, {**opening, "split": "test", "count": images}, folder, on_progress)
        if not isinstance(model, LatentAutoencoder):
            opening |= {"split": "train", "count": library_images}
            _fit_library(model, name, source, opening, folder / LIBRARY_FOLDER, on_progress)
        write_card(folder, name)
        write_manifest(folder)
    return out


def check_place(out: Path) -> None:
    """Raises ConfigError unless `out` is new, empty or an earlier release, and not the folder that one is in."""
    if out.exists() and not is_released(out) and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: holds something other than a released model; name a new folder")
    if out.resolve() == Path.cwd():
        raise ConfigError(f"{out}: the folder that you are in cannot be replaced by the release; name it from outside")


def _opening(data: DataSettings, source: str) -> dict[str, Any]:
    """How `slotlab.open_data` opens a run's data, but for split and count."""
    opening: dict[str, Any] = {"crop": data.crop, "skip_broken": data.skip_broken}
    if source.startswith("scenes:"):
        opening |= {
            "min_objects": data.min_objects,
            "max_objects": data.max_objects,
            "supersample": data.supersample,
        }
    return opening


def _rounded(model: Model, folder: Path) -> Model:
    """Saves a model in float16, and loads what was saved."""
    hub.save(model, folder, half=True)
    config = model.config
    for part in (config, config.get("autoencoder", {})):
        if part.get("source"):  # where a pretrained autoencoder lay
            part["source"] = portable(part["source"], "runs")
    _write_json(folder / hub.CONFIG_FILE, config)
    return hub.load(folder)


def _evaluate(model: Model, source: str, opening: dict[str, Any], folder: Path, on_progress: OnProgress | None) -> None:
    dataset = open_data(source, resolution=model.resolution, **opening)
    scores = ImageScores(None if isinstance(model, LatentAutoencoder) else model.finer_masks)
    result = evaluate(
        model,
        dataset,
        weights=weights_of(folder),
        on_batch=counted(on_progress, "test images", len(dataset)),
        on_output=scores.add,
    )
    dataclasses.replace(result, protocol=portable_facts(result.protocol)).write(folder / "metrics.json")
    chosen = scores.chosen(EXAMPLES)
    examples: dict[str, Any] = {"score": scores.name}
    for group, places in chosen.items():
        examples[group] = [{"image": scores.index[place], "score": scores.values[place]} for place in places]
        write_png(example_picture(model, dataset, places), folder / f"{group}.png")
    _write_json(folder / EXAMPLES_FILE, examples)


def _fit_library(
    model: SlotModel,
    name: str,
    source: str,
    opening: dict[str, Any],
    folder: Path,
    on_progress: OnProgress | None,
) -> None:
    dataset = open_data(source, resolution=model.resolution, **opening)
    library = fit_library(
        model,
        dataset,
        folder,
        sources={"model": name, "data": portable(source, "data"), "opening": opening},
        on_batch=counted(on_progress, "slots for the library", len(dataset)),
    )
    library.table.facts["data"] = portable_facts(library.table.facts["data"])
    library = library.rounded()
    library.save(folder)
    write_png(concept_picture(model, library, dataset), folder / PICTURE_FILE)
    with tempfile.TemporaryDirectory() as composed:
        told = counted(on_progress, "compositions", EXAMPLES)
        compose(model, library, composed, protocol="scene", count=EXAMPLES, on_batch=told)
        write_png(contact_sheet(model, library, dataset, composed, count=EXAMPLES), folder / "compositions.png")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
