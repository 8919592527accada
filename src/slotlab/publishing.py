"""Releasing a trained model: rounded weights, scores, pictures, concept library and card, in a folder or on the hub."""

import dataclasses
import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from safetensors import safe_open

import slotlab
from slotlab import checkpoints
from slotlab.checkpoints import WEIGHTS_FILE
from slotlab.composition import compose, fit_library
from slotlab.composition.library import PICTURE_FILE
from slotlab.config import RUN_FILE, DataSettings, RunConfig, preset_names, read_run_config, run_config, validated
from slotlab.data import Batch, SlotDataset, open_data
from slotlab.errors import CheckpointError, ConfigError
from slotlab.evaluation import Evaluator
from slotlab.evaluation import outputs as outputs_of
from slotlab.figures.composition import concept_picture, contact_sheet
from slotlab.figures.grid import write_png
from slotlab.figures.slots import reconstruction_grid
from slotlab.files import replacing
from slotlab.metrics.functional import adjusted_rand_index, peak_signal_to_noise_ratio
from slotlab.models import LatentAutoencoder, Model, SlotAutoencoder, SlotDiffusion, SlotModel
from slotlab.released import (
    CARD_FILE,
    HUB_PREFIX,
    LIBRARY_FOLDER,
    check,
    is_released,
    machines_of,
    model_folder,
    released_facts,
    released_names,
    write_manifest,
)
from slotlab.reporting.previews import batch_output
from slotlab.reporting.tables import evaluate_command, mask_titles, protocol_line
from slotlab.training.checkpoint import TRAINING_FILE, weights_of

TEMPLATE = "card.md.jinja"
OnProgress = Callable[[str, int, int], None]  # called with what is being made, how much is done, and of how much
EXAMPLES_FILE = "examples.json"
WHAT_IT_IS = {
    SlotAutoencoder.kind: "Slot Attention with a spatial broadcast decoder "
    "([Locatello et al. 2020](https://arxiv.org/abs/2006.15055))",
    SlotDiffusion.kind: "Slot diffusion: Slot Attention, and a latent diffusion model that paints the slots "
    "([Wu et al. 2023](https://arxiv.org/abs/2305.11281)); its autoencoder is in the same file",
    LatentAutoencoder.kind: "An autoencoder whose latents slot diffusion paints in",
}


def write_card(folder: Path, name: str) -> None:
    """Writes `card.md` into a folder that holds all else, for a model that `slotlab.load` knows as `name`."""
    facts = released_facts(folder)
    config, metrics, training = facts["config"], facts["metrics"], facts["training"]
    library = folder / LIBRARY_FOLDER / "library.json"
    data = [run["train_data"] for run in training["runs"] if "train_data" in run]
    learned_from = [described.get("source", described) for described in data]
    unknown = [run["out"] for run in training["runs"] if "train_data" not in run]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["score"] = _score
    text = environment.get_template(TEMPLATE).render(
        name=name,
        what=WHAT_IT_IS[config["kind"]],
        config=config,
        metrics=metrics,
        titles=mask_titles(metrics["protocol"]),
        protocol=protocol_line(metrics["protocol"]).removeprefix("protocol: "),
        evaluate_command=evaluate_command(name, training.get("data", metrics["protocol"]["data"]), metrics["protocol"]),
        learned_from=list(dict.fromkeys(data["data"] for data in learned_from)),
        unknown=unknown,
        rendered=not unknown and all(data["kind"] == "scenes" for data in learned_from),
        examples=json.loads((folder / EXAMPLES_FILE).read_text(encoding="utf-8")),
        library=json.loads(library.read_text(encoding="utf-8")) if library.is_file() else None,
        runs=training["runs"],
        minutes=training["seconds"] / 60,
        machines=machines_of(training),
        parameters=_parameters(folder / WEIGHTS_FILE),
        megabytes=(folder / WEIGHTS_FILE).stat().st_size / 1e6,
        version=slotlab.__version__,
    )
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def _parameters(weights: Path) -> int:
    """How many numbers a safetensors file holds."""
    total = 0
    with safe_open(weights, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            size = 1
            for side in file.get_slice(name).get_shape():
                size *= side
            total += size
    return total


def _score(details: Mapping[str, Any], digits: int = 3) -> str:
    return f"{details['mean']:.{digits}f} ± {details['standard_error']:.{digits}f}"


CELL = 96


@dataclass
class ImageScores:
    """A score of each image of a data set, in its order.

    Attributes:
        source: the masks to score, a model's `finer_masks`; none for a model without slots.
        name: what is scored: FG-ARI of these masks, or the PSNR of the reconstruction where there are none, or no true
            ones.
        index: the images' numbers in their data set.
        values: their scores; more is better.
    """

    source: str | None = None
    name: str = ""
    index: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, batch: Batch, output: Any) -> None:
        """Adds the scores of a batch, given what a model made of it."""
        if self.source is not None and "mask" in batch:
            self.name = f"FG-ARI of the {output.titles.get(self.source, 'attention masks')}"
            target = batch["mask"].to(output.masks.device)
            values = adjusted_rand_index(output.segmentation(self.source), target, foreground_only=True)
        else:
            self.name = "PSNR of the reconstruction"
            images = batch["image"].to(output.reconstruction.device)
            values = peak_signal_to_noise_ratio(output.reconstruction.clamp(0, 1), images)
        self.index += batch["index"].tolist()
        self.values += values.tolist()

    def chosen(self, count: int) -> dict[str, list[int]]:
        """Places of the `first` images, of the `best` and of the `worst`, the extreme one first; equals in order."""
        scores = torch.tensor(self.values, dtype=torch.float64)
        return {
            "first": list(range(min(count, len(scores)))),
            "best": scores.argsort(descending=True, stable=True)[:count].tolist(),
            "worst": scores.argsort(stable=True)[:count].tolist(),
        }


def example_picture(model: Model, dataset: SlotDataset, places: list[int], seed: int = 0) -> Image.Image:
    """A row for each image of `dataset` at `places`: what the model makes of it, beside the truth."""
    batch = dataset.batch(places)
    return reconstruction_grid(batch["image"].cpu(), batch_output(model, batch, seed), batch.get("mask"), cell=CELL)


KEPT_OPTIONS = ("--threads", "--device", "--devices", "--nodes")


def training_records(run: str | Path) -> list[dict[str, Any]]:
    """What it took to train a run, in the order in which to do it; the run itself comes last.

    Args:
        run: a run folder.

    Returns:
        JSON values of each run: `out`, its folder in the commands; `command`; `preset`, and `preset_file` with its
        content if it does not come with slotlab; and all that its `training.json` says. Of a run that this one began
        with and that is no longer there, `out` alone. Absolute paths have become `runs/NAME` and `data/NAME`.

    Raises:
        CheckpointError: `run` is no run folder, or a file in it is damaged.
    """
    records: dict[str, dict[str, Any]] = {}
    _collect(str(run), Path(run), records, {})
    return list(records.values())


def portable(place: str, parent: str) -> str:
    """A path that says nothing of the machine: an absolute one becomes `parent/NAME`; `kind:` before it stays."""
    kind, colon, path = place.rpartition(":")
    return f"{kind}{colon}{parent}/{Path(path).name}" if Path(path).is_absolute() else place


def portable_facts(described: Mapping[str, Any]) -> dict[str, Any]:
    """What a data set says of itself (`describe`), and of the one that it was packed from, without absolute paths."""
    facts = {**described, "data": portable(str(described["data"]), "data")}
    if isinstance(facts.get("source"), Mapping):
        facts["source"] = portable_facts(facts["source"])
    return facts


def _collect(place: str, run: Path, records: dict[str, dict[str, Any]], names: dict[Path, str]) -> None:
    """Adds the records of `run`, which a config calls `place`, after those of the runs that it began with."""
    if is_released(run):
        records |= {record["out"]: record for record in released_facts(run)["training"]["runs"]}
        return
    config, training = read_run_config(run / RUN_FILE), _read(run / TRAINING_FILE)
    parents = {
        parent: _folder_of(parent)
        for parent in (config.training.start_from, config.model.get("autoencoder", {}).get("pretrained"))
        if parent and names.get(Path(parent).resolve()) not in records
    }
    # Those that are released first: their records' names stand in their commands, and others keep clear of them.
    for parent, folder in sorted(parents.items(), key=lambda one: not is_released(one[1])):
        if is_released(folder) or (folder / RUN_FILE).is_file():
            _collect(parent, folder, records, names)
        else:
            unknown = _named(parent, names, records)
            records[unknown] = {"out": unknown}
    config, out = _without_places(config, names, records), _named(place, names, records)
    record: dict[str, Any] = {"out": out, "preset": config.preset}
    changes = _changes(config)
    if changes is None:
        record["preset_file"] = yaml.safe_dump(config.model_dump(exclude={"preset"}), sort_keys=False)
        words = [f"{config.preset}.yaml"]
    else:
        words = [config.preset, *changes]
    words = ["slotlab", "train", *words, "--out", out, *_kept_options(training)]
    training = {**training, "command": shlex.join(words)}
    for split in ("train_data", "validation_data"):
        if split in training:
            training[split] = portable_facts(training[split])
    records[out] = {**record, **training}


def _folder_of(parent: str) -> Path:
    """The folder of a run or model that a config names; as it is named, where nothing is there (any more)."""
    if parent in released_names() or parent.startswith(HUB_PREFIX):
        try:
            return model_folder(parent)
        except CheckpointError:  # no longer on the hub, or the hub is out of reach
            pass
    return Path(parent)


def _named(place: str, names: dict[Path, str], records: Mapping[str, object]) -> str:
    """What stands for a run's folder in commands, another for each."""
    folder = Path(place).resolve()
    if folder not in names:
        taken, name, count = {*names.values(), *records}, portable(place, "runs"), 0
        names[folder] = name
        while names[folder] in taken:
            count += 1
            names[folder] = f"{name}-{count}"
    return names[folder]


def _without_places(config: RunConfig, names: dict[Path, str], records: Mapping[str, object]) -> RunConfig:
    values = config.model_dump()
    values["data"]["source"] = portable(values["data"]["source"], "data")
    training, autoencoder = values["training"], values["model"].get("autoencoder", {})
    for section, key in ((training, "start_from"), (autoencoder, "pretrained")):
        if section.get(key):
            section[key] = _named(section[key], names, records)
    return validated(RunConfig, values)


def _changes(config: RunConfig) -> list[str] | None:
    """The `key=value` words that make `config` of its preset; None if no preset of slotlab becomes it."""
    if config.preset not in preset_names():
        return None
    wanted, given = dict(_settings(config.model_dump())), dict(_settings(run_config(config.preset).model_dump()))
    changed = {key: value for key, value in wanted.items() if key not in given or given[key] != value}
    words = [f"{key.removeprefix('training.').removeprefix('model.')}={value}" for key, value in changed.items()]
    try:
        return words if run_config(config.preset, words) == config else None
    except ConfigError:
        return None


def _settings(values: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{section}{key}.")
        else:
            yield section + key, value


def _kept_options(training: Mapping[str, Any]) -> list[str]:
    """What was recorded of threads, device and processes, which change the last digits."""
    words, kept = shlex.split(training.get("command", "")), []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.partition("=")[0] in KEPT_OPTIONS:
            kept += [word] if "=" in word else [word, following]
    threads = re.search(r", (\d+) threads$", training.get("machine", ""))
    if threads and not any(word.startswith("--threads") for word in kept):
        kept += ["--threads", threads[1]]  # as many as the machine had cores
    return kept


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; only a run that was trained can be published") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); train on with --resume to write it") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object; train on with --resume to write it anew")
    return content


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
        model = _rounded(checkpoints.load(run), folder).to(device)
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
            _fit_library(model, name, source, opening, folder / LIBRARY_FOLDER)
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
    checkpoints.save(model, folder, half=True)
    config = model.config
    for part in (config, config.get("autoencoder", {})):
        if part.get("source"):  # where a pretrained autoencoder lay
            part["source"] = portable(part["source"], "runs")
    _write_json(folder / checkpoints.CONFIG_FILE, config)
    return checkpoints.load(folder)


def counted(on_progress: OnProgress | None, what: str, total: int) -> Callable[[int], None]:
    """A function that adds up the images done and calls `on_progress` with the sum."""
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if on_progress is not None:
            on_progress(what, done, total)

    return tell


def _evaluate(model: Model, source: str, opening: dict[str, Any], folder: Path, on_progress: OnProgress | None) -> None:
    dataset = open_data(source, resolution=model.resolution, **opening)
    scores = ImageScores(None if isinstance(model, LatentAutoencoder) else model.finer_masks)
    evaluator = Evaluator(model, dataset, weights=weights_of(folder))
    on_batch = counted(on_progress, "test images", len(dataset))
    for batch, output in outputs_of(model, dataset):
        evaluator.update(batch, output)
        scores.add(batch, output)
        on_batch(len(batch["index"]))
    result = evaluator.compute()
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
) -> None:
    dataset = open_data(source, resolution=model.resolution, **opening)
    library = fit_library(
        model,
        dataset,
        folder,
        sources={"model": name, "data": portable(source, "data"), "opening": opening},
    )
    library.table.facts["data"] = portable_facts(library.table.facts["data"])
    library = library.rounded()
    library.save(folder)
    write_png(concept_picture(model, library, dataset), folder / PICTURE_FILE)
    with tempfile.TemporaryDirectory() as composed:
        compose(model, library, composed, protocol="scene", count=EXAMPLES)
        write_png(contact_sheet(model, library, dataset, composed, count=EXAMPLES), folder / "compositions.png")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def publish(
    run: str | Path,
    to: str | Path,
    *,
    data: str | None = None,
    private: bool = False,
    device: str | torch.device = "cpu",
    on_progress: OnProgress | None = None,
) -> str:
    """Publishes a run, or a released model again under another name.

    Args:
        run: a run folder, see `prepare`; or the folder or name of a released model, which goes out as it is but for the
            name on its card.
        to: a new or empty folder, or that of an earlier release, whose last part becomes the name; or
            `hf:owner/name`, which needs a login (`hf auth login`, or `HF_TOKEN`).
        data: where the run's data is now, if not where it was.
        private: make a new repository on the hub private.
        device: where the model runs.
        on_progress: as for `prepare`.

    Returns:
        What `slotlab.load` takes: the folder, or `owner/name`.

    Raises:
        CheckpointError: as `prepare`; a released file that was changed; or the hub refuses, or cannot be reached.
        ConfigError, DataError: as `prepare`.
    """
    folder = model_folder(run)
    if not str(to).startswith(HUB_PREFIX):
        out = Path(to)
        _release(folder, out, out.resolve().name, data, device, on_progress)
        return str(out)
    repository = str(to).removeprefix(HUB_PREFIX)
    _make_repository(repository, private)  # first, as it shows whether one is logged in and may write there
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "release"
        _release(folder, out, repository, data, device, on_progress)
        shutil.copy(out / CARD_FILE, out / "README.md")  # which the hub shows
        _upload(repository, out)
    return repository


def _release(
    folder: Path, out: Path, name: str, data: str | None, device: str | torch.device, on_progress: OnProgress | None
) -> None:
    if not is_released(folder):
        prepare(folder, out, name=name, data=data, device=device, on_progress=on_progress)
        return
    check(folder)
    check_place(out)
    with replacing(out) as copy:
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("README.md"))  # the hub's copy of the old card
        write_card(copy, name)
        write_manifest(copy)


def _make_repository(repository: str, private: bool) -> None:
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(repository, private=private, exist_ok=True)
    except Exception as error:  # offline, no login, no right to write, no such owner: errors of several libraries
        raise _refused(repository, error) from None


def _upload(repository: str, folder: Path) -> None:
    from huggingface_hub import HfApi

    try:
        HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message="slotlab publish")
    except Exception as error:
        raise _refused(repository, error) from None


def _refused(repository: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().partition("\n")[0]
    return CheckpointError(
        f"{HUB_PREFIX}{repository}: not published ({reason}); log in with: hf auth login, as someone who may write "
        "there, or publish to a folder"
    )
