"""Releases a trained model with scores, figures and a card, to a folder or the hub."""

import dataclasses
import itertools
import math
import re
import shlex
import shutil
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import HfApi
from jinja2 import UndefinedError
from safetensors import safe_open

import slotlab
from slotlab import checkpoints
from slotlab.checkpoints import WEIGHTS_FILE
from slotlab.composition.compositions import compose
from slotlab.composition.library import PICTURE_FILE, fit_library
from slotlab.config import RUN_FILE, RunConfig, dotted, preset_names, read_run_config, run_config, validated
from slotlab.data import Batch, SlotDataset, open_data
from slotlab.errors import CheckpointError, ConfigError, MissingSplit
from slotlab.evaluation import Evaluator, batch_output, outputs
from slotlab.figures.composition import concept_figure, contact_sheet
from slotlab.figures.grid import write_png
from slotlab.figures.slots import reconstruction_grid
from slotlab.files import is_free, read_json, replacing, write_json
from slotlab.metrics.functional import adjusted_rand_index, peak_signal_to_noise_ratio
from slotlab.models import ClipModel, FeatureModel, FeatureOutput, LatentAutoencoder, Model, SlotModel
from slotlab.progress import Stage, in_steps, stage
from slotlab.released import (
    CARD_FILE,
    HUB_PREFIX,
    LIBRARY_FOLDER,
    MANIFEST_FILE,
    check,
    is_released,
    machines_of,
    model_folder,
    released_facts,
    released_names,
    write_manifest,
)
from slotlab.reporting.report import templates
from slotlab.reporting.tables import evaluate_command, mask_titles, protocol_line
from slotlab.training.checkpoint import TRAINING_FILE, weights_of

REMEDY = "only a trained run can be published; train on with --resume to write it"
EXAMPLES_FILE, EXAMPLES, CELL = "examples.json", 8, 96


def write_card(folder: Path, name: str) -> None:
    """Writes `card.md` into an otherwise complete release that `slotlab.load` knows as `name`."""
    facts = released_facts(folder)
    training, protocol = facts["training"], facts["metrics"]["protocol"]
    data = [run["train_data"] for run in training["runs"] if "train_data" in run]
    library = folder / LIBRARY_FOLDER / "library.json"
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        parameters = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    environment = templates(Path(__file__).parent, keep_trailing_newline=True)
    environment.filters["score"] = lambda details, digits=3: (
        f"{details['mean']:.{digits}f} ± {details['standard_error']:.{digits}f}"
    )
    template = environment.get_template("card.md.jinja")
    content = dict(
        name=name,
        **facts,
        titles=mask_titles(protocol),
        protocol=protocol_line(protocol).removeprefix("protocol: "),
        evaluate_command=evaluate_command(name, training.get("data", protocol["data"]), protocol),
        data=[described.get("source", described) for described in data],
        examples=read_json(folder / EXAMPLES_FILE, REMEDY),
        library=read_json(library, REMEDY) if library.is_file() else None,
        machines=machines_of(training),
        parameters=parameters,
        megabytes=(folder / WEIGHTS_FILE).stat().st_size / 1e6,
        version=slotlab.__version__,
    )
    try:
        text = template.render(content)
    except UndefinedError as error:  # names what is missing
        raise CheckpointError(f"{folder / TRAINING_FILE}: {error}; {REMEDY}") from None
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def image_scores(batch: Batch, output: Any, source: str | None) -> tuple[str, list[float]]:
    """What is scored and the score of each image, for a batch and a model's output for it.

    It is FG-ARI of the masks from `source`; or PSNR, or less the error of features, if that is None
    or the data has no masks. A clip has one score.
    """
    clips = len(batch["index"])
    if source is not None and "mask" in batch:
        target = batch["mask"].to(output.masks.device)
        maps = (one.unflatten(0, (clips, -1)).flatten(1) for one in (output.segmentation(source), target))
        values = adjusted_rand_index(*maps, foreground_only=True)
        return f"FG-ARI of the {output.titles.get(source, 'attention masks')}", values.tolist()
    if isinstance(output, FeatureOutput):
        name, values = "feature error, negated", -output.feature_errors()
    else:
        painted = output.reconstruction.clamp(0, 1)
        images = batch["image"].to(painted.device).reshape(painted.shape)
        name, values = "PSNR of the reconstruction", peak_signal_to_noise_ratio(painted, images)
    return name, values.unflatten(0, (clips, -1)).mean(dim=1).tolist()


def chosen(values: Sequence[float], count: int) -> dict[str, list[int]]:
    """Places of the `first` scores, the `best` and the `worst`, extremes first.

    Example:
        >>> chosen([0.5, 0.9, 0.1], 2)
        {'first': [0, 1], 'best': [1, 0], 'worst': [2, 0]}
    """
    scores = torch.tensor(values, dtype=torch.float64)
    return {
        "first": list(range(len(scores)))[:count],
        "best": scores.argsort(descending=True, stable=True)[:count].tolist(),
        "worst": scores.argsort(stable=True)[:count].tolist(),
    }


def training_records(run: str | Path) -> list[dict[str, Any]]:
    """What it took to train a run: records of the runs it started from, and its own last.

    A record has `out` (the run's folder in commands), `command`, `preset`, `preset_file` (its
    content, if the preset does not come with slotlab), and everything in `training.json`. A run
    that no longer exists has `out` alone. Absolute paths become `runs/NAME` and `data/NAME`.

    Raises:
        CheckpointError: a file in a run folder is damaged.
    """
    records: dict[str, dict[str, Any]] = {}
    _record(str(run), records, {})
    return list(records.values())


def portable(place: str, parent: str) -> str:
    """A path without the machine's folders: an absolute one becomes `parent/NAME`.

    Example:
        >>> portable("/home/me/clevrtex", "data"), portable("clevrtex:/home/me/clevrtex", "data")
        ('data/clevrtex', 'clevrtex:data/clevrtex')
        >>> portable("runs/first", "runs"), portable("scenes:plain", "data"), portable("/home/a:b/films", "data")
        ('runs/first', 'scenes:plain', 'data/films')
    """
    kind, colon, path = ("", "", place) if Path(place).is_absolute() else place.rpartition(":")
    return f"{kind}{colon}{parent}/{Path(path).name}" if Path(path).is_absolute() else place


def portable_facts(described: Mapping[str, Any]) -> dict[str, Any]:
    """A data set's description without absolute paths, and that of the set it was packed from."""
    facts = {**described, "data": portable(str(described["data"]), "data")}
    if isinstance(facts.get("source"), Mapping):
        facts["source"] = portable_facts(facts["source"])
    return facts


def _record(place: str, records: dict[str, dict[str, Any]], names: dict[Path, str]) -> str:
    """Adds the record of a run after those it started from; returns its name in commands."""
    if (key := Path(place).resolve()) in names:
        return names[key]
    folder, training, config = _folder_of(place), {}, None
    if released := is_released(folder):
        records |= {record["out"]: record for record in released_facts(folder)["training"]["runs"]}
    elif (folder / RUN_FILE).is_file():
        config = read_run_config(folder / RUN_FILE)
        values, training = config.model_dump(), read_json(folder / TRAINING_FILE, REMEDY)
        for split in ("train_data", "validation_data"):
            described = training.get(split, {"data": ""})
            if not isinstance(described, Mapping) or not isinstance(described.get("data"), str):
                raise CheckpointError(f"{folder / TRAINING_FILE}: {split} does not describe data; {REMEDY}")
        values["data"]["source"] = portable(values["data"]["source"], "data")
        parents = ((values["training"], "teacher"), (values["model"].get("autoencoder", {}), "pretrained"))
        parents = [(section, name) for section, name in parents if section.get(name)]
        given = [*config.training.beginnings, *(section[name] for section, name in parents)]
        # Released runs first: their names are fixed, so the others must avoid them.
        given.sort(key=lambda one: not is_released(_folder_of(one)))
        recorded = {one: _record(one, records, names) for one in given}
        for section, name in parents:
            section[name] = recorded[section[name]]
        if config.training.beginnings:
            values["training"]["start_from"] = ",".join(recorded[one] for one in config.training.beginnings)
        config = validated(RunConfig, values)
    usual = portable(place, "runs")
    own = {key: training[key] for key in training if key not in ("command", "train_data", "validation_data")}
    if own and usual not in names.values() and own.items() <= records.get(usual, {}).items():  # a release has it
        names[key] = usual
        return usual
    tries = (f"{usual}-{count}" if count else usual for count in itertools.count())
    out = names[key] = next(name for name in tries if name not in {*names.values(), *records})
    if config is not None:
        records[out] = {"out": out, **_how_trained(config, training, out)}
    elif not released:
        records[out] = {"out": out}  # the run no longer exists
    return out


def _how_trained(config: RunConfig, training: dict[str, Any], out: str) -> dict[str, Any]:
    """The record of a run without its `out`."""
    record: dict[str, Any] = {"preset": config.preset}
    changes = _changes(config)
    if changes is None:
        record["preset_file"] = yaml.safe_dump(config.model_dump(exclude={"preset"}), sort_keys=False)
    words = [f"{config.preset}.yaml"] if changes is None else [config.preset, *changes]
    command = shlex.join(["slotlab", "train", *words, "--out", out, *_kept_options(training)])
    splits = {"train_data", "validation_data"} & training.keys()
    return record | training | {"command": command} | {split: portable_facts(training[split]) for split in splits}


def _folder_of(place: str) -> Path:
    """The folder of a run or model that a config names; the name itself if nothing is there."""
    if place in released_names() or place.startswith(HUB_PREFIX):
        with suppress(CheckpointError):  # no longer on the hub, or the hub is out of reach
            return model_folder(place)
    return Path(place)


def _changes(config: RunConfig) -> list[str] | None:
    """The `key=value` words that turn its preset into `config`; None if no preset does."""
    if config.preset not in preset_names():
        return None
    usual, settings = (dotted(one.model_dump()) for one in (run_config(config.preset), config))
    changed = {key: value for key, value in settings.items() if key not in usual or usual[key] != value}
    words = [f"{key.removeprefix('training.').removeprefix('model.')}={value}" for key, value in changed.items()]
    try:
        return words if run_config(config.preset, words) == config else None
    except ConfigError:
        return None


def _kept_options(training: Mapping[str, Any]) -> list[str]:
    """The options that change the last digits: threads, device and processes."""
    kept = re.findall(r"--(?:threads|devices?|nodes)[ =]\S+", training.get("command", ""))
    threads = re.search(r", (\d+) threads$", training.get("machine", ""))
    if threads and not any(option.startswith("--threads") for option in kept):
        kept.append(f"--threads {threads[1]}")  # as many as the machine had cores
    return [word for option in kept for word in option.split()]


@in_steps
def prepare(
    run: str | Path,
    out: str | Path,
    *,
    name: str,
    data: str | None = None,
    images: int = 500,
    library_images: int = 1000,
    device: str | torch.device = "cpu",
) -> Generator[Stage, None, Path]:
    """Makes a release of a run: a folder that appears when complete, replacing an earlier one.

    It holds the weights in float16; scores of these weights on the test split, or on the val split of
    data without one (`metrics.json`);
    figures of the first, best and worst images (`examples.json` lists them); a concept library of
    images of the train split with figures of concepts and compositions (`concepts/`, for models
    with slots); how it was trained (`training.json`); `card.md`; and the SHA-256 of every
    file (`manifest.json`).

    Args:
        run: a run folder; or a released model, copied unchanged but for the name on its card.
        out: a new or empty folder, or an earlier release.
        name: what the card calls the model: a name that `slotlab.load` takes.
        data: where the run's data is now, if it was moved.
        images: how many images are scored, at most.
        library_images: how many images of the train split are in the library, at most.
        device: where the model runs.
    """
    run, out = Path(run), Path(out)
    if not is_free(out) and not is_released(out):
        raise ConfigError(f"{out}: holds something other than a released model; name a new folder")
    if is_released(out) and (added := _added(out)):
        raise ConfigError(f"{added[0]}: not part of the release, and would be lost; move it, or name a new folder")
    if out.resolve() == Path.cwd():
        raise ConfigError(f"{out}: the folder that you are in cannot be replaced by the release; name it from outside")
    if is_released(run):
        check(run)
        with replacing(out, synced=True) as folder:
            of_hub = shutil.ignore_patterns("README.md")  # its copy of the old card
            shutil.copytree(run, folder, ignore=of_hub)
            write_card(folder, name)
            write_manifest(folder)
        return out
    settings, records = read_run_config(run / RUN_FILE).data, training_records(run)
    source = data or settings.source
    rendering = {"min_objects", "max_objects", "supersample"} if source.startswith("scenes:") else set()
    opening: dict[str, Any] = settings.model_dump(include={"crop", "skip_broken"} | rendering)
    opening |= {} if settings.frames is None else {"frames": settings.frames}
    opening |= {} if settings.stride == 1 or rendering else {"stride": settings.stride}
    shown = portable(source, "data")
    with replacing(out, synced=True) as folder:
        folder.mkdir()
        model = checkpoints.load(run)
        checkpoints.save(model, folder, half=True)
        config = model.config
        for part in (config, config.get("autoencoder", {})):
            if part.get("source"):  # the path of a pretrained autoencoder
                part["source"] = portable(part["source"], "runs")
        write_json(folder / checkpoints.CONFIG_FILE, config)
        model = checkpoints.load(folder).to(device)  # the rounded weights
        seconds = round(sum(record.get("seconds", 0) for record in records), 1)
        averaged = records[-1]["averaged_weights"]
        training = {"averaged_weights": averaged, "seconds": seconds, "runs": records, "data": shown}
        write_json(folder / TRAINING_FILE, training)
        scored = {"resolution": model.resolution, **opening, "count": images}
        try:
            dataset = open_data(source, split="test", **scored)
        except MissingSplit:  # such as COCO, which has no test split
            dataset = open_data(source, split="val", **scored)
        yield from _evaluate(model, dataset, folder)
        if not isinstance(model, LatentAutoencoder | FeatureModel | ClipModel):  # which paint from slots, of images
            opening |= {"split": "train", "count": library_images}
            dataset = open_data(source, resolution=model.resolution, **opening)
            sources = {"model": name, "data": shown, "opening": opening}
            yield from _fit_library(model, dataset, folder / LIBRARY_FOLDER, sources)
        write_card(folder, name)
        write_manifest(folder)
    return out


def _added(release: Path) -> list[Path]:
    """Files in the folder of a release that are not its own, but for hidden ones and the hub's."""
    manifest = release / MANIFEST_FILE
    listed = read_json(manifest, "remove the folder, or name a new one").get("sha256")
    if not isinstance(listed, dict):
        raise ConfigError(f"{manifest}: not that of a released model; name a new folder")
    names = {path: path.relative_to(release).as_posix() for path in sorted(release.rglob("*")) if path.is_file()}
    own = {*listed, MANIFEST_FILE, "README.md"}
    return [path for path, name in names.items() if name not in own and not re.search(r"(^|/)\.", name)]


def _evaluate(model: Model, dataset: SlotDataset, folder: Path) -> Iterator[Stage]:
    source = None if isinstance(model, LatentAutoencoder) else model.finer_masks
    evaluator, name, index, values = Evaluator(model, dataset, weights=weights_of(folder)), "", [], []
    split = dataset.describe()["split"]
    for batch, output in outputs(model, dataset):
        evaluator.update(batch, output)
        name, scores = image_scores(batch, output, source)
        index += batch["index"].tolist()
        values += scores
        yield f"{split} images", len(index), len(dataset)
    result = evaluator.compute()
    dataclasses.replace(result, protocol=portable_facts(result.protocol)).write(folder / "metrics.json")
    examples: dict[str, Any] = {"score": name}
    for group, places in chosen(values, EXAMPLES).items():
        examples[group] = [{"image": index[place], "score": values[place]} for place in places]
        batch = dataset.batch(places)
        figure = reconstruction_grid(batch["image"].cpu(), batch_output(model, batch, 0), batch.get("mask"), cell=CELL)
        write_png(figure, folder / f"{group}.png")
    write_json(folder / EXAMPLES_FILE, examples)


def _fit_library(
    model: SlotModel, dataset: SlotDataset, folder: Path, sources: dict[str, Any]
) -> Generator[Stage, None, None]:
    fitting = fit_library.steps(model, dataset, folder, sources=sources)
    library = yield from stage("slots for the library", len(dataset), fitting)
    library.table.facts["data"] = portable_facts(library.table.facts["data"])
    library = library.rounded()
    library.save(folder)
    write_png(concept_figure(model, library, dataset), folder / PICTURE_FILE)
    with tempfile.TemporaryDirectory() as composed:
        composing = compose.steps(model, library, composed, protocol="scene", count=EXAMPLES)
        yield from stage("compositions", EXAMPLES, composing)
        write_png(contact_sheet(model, library, dataset, composed, count=EXAMPLES), folder / "compositions.png")


@in_steps
def publish(
    run: str | Path,
    to: str | Path,
    *,
    data: str | None = None,
    private: bool = False,
    device: str | torch.device = "cpu",
) -> Generator[Stage, None, str]:
    """Publishes a run, or a released model again under another name.

    Args:
        run: a run folder, see `prepare`; or the folder or name of a released model, which is
            copied unchanged but for the name on its card.
        to: a new or empty folder, or an earlier release; its name is the model's name. Or
            `hf:owner/name`, which needs a login (`hf auth login`, or `HF_TOKEN`).
        data: where the run's data is now, if it was moved.
        private: make a new repository on the hub private.
        device: where the model runs.

    Returns:
        What `slotlab.load` takes: the folder, or `owner/name`.

    Raises:
        CheckpointError: `run` is no trained run or model, has a damaged or changed file, or does
            not fit float16; the hub refuses or is offline.
        ConfigError: `to` holds something else.
        DataError: the data cannot be read.
    """
    folder = model_folder(run)
    if not str(to).startswith(HUB_PREFIX):
        out = Path(to)
        yield from prepare.steps(folder, out, name=out.resolve().name, data=data, device=device)
        return str(out)
    repository = str(to).removeprefix(HUB_PREFIX)
    with _hub(repository) as hub:  # first: it shows whether the user may write there
        hub.create_repo(repository, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "release"
        yield from prepare.steps(folder, out, name=repository, data=data, device=device)
        shutil.copy(out / CARD_FILE, out / "README.md")  # which the hub shows
        with _hub(repository) as hub:
            hub.upload_folder(repo_id=repository, folder_path=out, commit_message="slotlab publish")
    return repository


@contextmanager
def _hub(repository: str) -> Iterator[HfApi]:
    try:
        yield HfApi()
    except Exception as error:  # offline, no login, no right to write: errors of several libraries
        reason = str(error).strip().partition("\n")[0]
        remedy = "log in with: hf auth login, as someone who may write there, or publish to a folder"
        raise CheckpointError(f"{HUB_PREFIX}{repository}: not published ({reason}); {remedy}") from None
