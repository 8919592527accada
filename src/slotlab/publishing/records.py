"""How a model was trained: the commands of its run and of the runs that it began with, without a machine's paths."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from slotlab.errors import CheckpointError, ConfigError
from slotlab.presets import preset_names
from slotlab.presets.config import RUN_FILE, RunConfig, read_run_config, run_config, validated
from slotlab.released import HUB_PREFIX, is_released, model_folder, released_facts, released_names
from slotlab.training.checkpoint import TRAINING_FILE

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
