"""What a training run is made of: model, data and training settings, read from a preset and `key=value` changes."""

import ast
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from slotlab.errors import CheckpointError, ConfigError, nearest
from slotlab.models import ENCODERS, MODELS, Denoiser, LatentAutoencoder, NoiseSchedule, SlotAttention
from slotlab.models.sampling import SamplingSettings
from slotlab.models.slot_autoencoder import DECODERS

FOLDER = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names of the presets that come with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The content of a preset, by name or by the path of a YAML file of one's own.

    Raises:
        ConfigError: an unknown name (the nearest is suggested), or a file that is not a preset.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise ConfigError(f"unknown preset {name!r}{nearest(name, preset_names())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ConfigError(f"{path}: not a preset: it needs a 'model' section, and may have 'data' and 'training'")
    return content


RUN_FILE = "run.json"


class Settings(BaseModel):
    """Base of the sections: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Section = TypeVar("Section", bound=Settings)


class DataSettings(Settings):
    """Which pictures a model learns from.

    `source`: `scenes:VARIANT`, a data set folder, or `kind:PATH`. `crop`: centred crop as a fraction of the shorter
    side; none means the format's own (0.8 for CLEVRTex). `train_count`, `validation_count`: at most so many images;
    0 takes all (for scenes: never-ending fresh scenes in training, 1,000 in validation). `supersample`: samples per
    pixel and axis of rendered scenes.
    """

    source: str = "scenes:textured"
    crop: float | None = Field(default=None, gt=0, le=1)
    train_count: int = Field(default=0, ge=0)
    validation_count: int = Field(default=500, ge=0)
    min_objects: int = Field(default=3, ge=1, le=16)
    max_objects: int = Field(default=10, ge=1, le=16)
    scene_seed: int = Field(default=0, ge=0)
    supersample: int = Field(default=1, ge=1, le=4)
    skip_broken: bool = False
    workers: int = Field(default=0, ge=0, le=64)


Speedup = Literal["factored-convolution", "parts", "channels-last", "kept-memory", "fused-adam"]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class TrainingSettings(Settings):
    """How a model learns. Steps count optimiser updates; `batch_size` counts images over all processes.

    `schedule`: after `warmup_steps` of linear warm-up the learning rate follows a cosine to `final_learning_rate`, or
    halves every `half_life` steps, or stays. `ema_decay`: 0 switches the moving average of the weights off.
    `start_from`: the folder or name of a model whose parts (`encoder`, `decoder`, `denoiser`) this one's begin as, if
    they have the same form, or fewer learned slots or pixels per painted cell: to train on with other data, for more
    objects or larger images, or to decode the slots of an autoencoder by diffusion.
    `encoder_learning_rate`: of the slot encoder, in place of `learning_rate`, on the same schedule. `encoder_steps`:
    after so many updates the slot encoder stays as it is, while the rest learns on. `accumulate`:
    parts of a batch that are computed one after the other, for less memory, with the same gradient.
    `slot_noise_steps`: over so many steps the noise on bi-level slot starts falls from 1 to 0, by a half cosine.
    `mask_penalty` weighs `objectives.mask_area_penalty` from step `mask_penalty_start` on, `background_penalty` weighs
    `objectives.background_penalty` from `background_penalty_start` on, and from there goes in a straight line to
    `final_background_penalty` at the last step, where that is given: it makes slot 0 the background's. Where the first
    is 0, there is none at any step.
    `sharing_penalty` weighs `objectives.sharing_penalty` from `sharing_penalty_start` on: of two slots that share an
    object one gives way.
    `attention_loss` weighs `objectives.attention_disagreement` from `attention_loss_start` on, and `colour_loss` weighs
    `objectives.colour_error`: these four are for slot autoencoders. `cross_attention_loss`, for slot diffusion, weighs
    `objectives.cross_attention_disagreement`.
    `evaluate_every`: 0 means once per epoch, at each checkpoint where epochs are longer.
    `without`: speed-ups to leave out, a name or a list of them; none changes the result by more than rounding.
    """

    steps: int = Field(default=10_000, ge=1)
    start_from: str | None = None
    batch_size: int = Field(default=32, ge=1)
    accumulate: int = Field(default=1, ge=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(default=4e-4, gt=0)
    encoder_learning_rate: float | None = Field(default=None, gt=0)
    encoder_steps: int | None = Field(default=None, ge=0)
    final_learning_rate: float = Field(default=0.0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=500, ge=0)
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    half_life: int = Field(default=100_000, ge=1)
    clip_norm: float = Field(default=1.0, gt=0)
    slot_noise_steps: int = Field(default=0, ge=0)
    mask_penalty: float = Field(default=0.0, ge=0)
    mask_penalty_start: int = Field(default=0, ge=0)
    background_penalty: float = Field(default=0.0, ge=0)
    background_penalty_start: int = Field(default=0, ge=0)
    final_background_penalty: float | None = Field(default=None, ge=0)
    sharing_penalty: float = Field(default=0.0, ge=0)
    sharing_penalty_start: int = Field(default=0, ge=0)
    attention_loss: float = Field(default=0.0, ge=0)
    attention_loss_start: int = Field(default=0, ge=0)
    colour_loss: float = Field(default=0.0, ge=0)
    cross_attention_loss: float = Field(default=0.0, ge=0)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    without: Annotated[list[Speedup], BeforeValidator(_as_list)] = []
    seed: int = Field(default=0, ge=0, lt=2**31)
    evaluate_every: int = Field(default=0, ge=0)
    preview_every: int = Field(default=1_000, ge=1)
    checkpoint_every: int = Field(default=1_000, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)

    @property
    def freezes_encoder(self) -> bool:
        """Whether the slot encoder stops learning before the training ends."""
        return self.encoder_steps is not None and self.encoder_steps < self.steps


class RunConfig(Settings):
    """One training run, complete: what `run.json` in a run folder holds."""

    preset: str
    model: dict[str, Any]
    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()


def run_config(preset: str, overrides: Mapping[str, Any] | Iterable[str] = ()) -> RunConfig:
    """A preset with changes.

    Args:
        preset: a name from `slotlab.list_models()`, or the path of a YAML file like those.
        overrides: `{"steps": 100}` or `["steps=100"]`. A key may be shortened to any ending that only one setting
            has: `slots=7` for `model.slot_attention.slots=7`; settings of the training come before others.

    Raises:
        ConfigError: an unknown preset or key (the nearest is suggested), an ambiguous key, a value out of range.
    """
    values: dict[str, Any] = {"data": {}, "training": {}, **read_preset(preset)}
    values.pop("summary", None)
    changes = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    return validated(RunConfig, {"preset": Path(preset).stem, **changed(values, changes)})


def changed(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, which has at least a `model` section, with changes to its settings, made in place.

    Raises:
        ConfigError: an unknown key (the nearest is suggested), an ambiguous one, or one that would change nothing.
    """
    _check_sections(values)
    keys: list[str] = []
    for key, value in sorted(changes.items(), key=lambda change: not change[0].endswith("kind")):
        keys.append(_full_key(key, _known_keys(values["model"])))
        if keys[-1].split(".")[0] not in values:
            raise ConfigError(f"{keys[-1]}: no setting of a model, but of its training; leave it out")
        _set(values, keys[-1], value)
    autoencoder = values["model"].get("autoencoder", {})
    if autoencoder.get("pretrained", "") is None:
        del autoencoder["pretrained"]
    elif not isinstance(autoencoder.get("pretrained", ""), str):
        raise ConfigError(f"model.autoencoder.pretrained: a folder or name, not {autoencoder['pretrained']!r}")
    if "pretrained" in autoencoder:
        for key in keys:
            if key.startswith("model.autoencoder.") and key not in OF_PRETRAINED:
                raise ConfigError(f"{key}: of a pretrained autoencoder that stays as it is; leave it out")
    return values


def read_run_config(path: Path) -> RunConfig:
    """The config that a run folder's `run.json` holds; CheckpointError names the file if it is missing or wrong."""
    try:
        return validated(RunConfig, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; give the folder that `slotlab train ... --out FOLDER` wrote") from None
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: not a run's config: {error}") from None


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`["steps=100", "schedule=cosine"]` to a dict; values are Python literals, else text.

    Raises:
        ConfigError: a pair without `=`.
    """
    changes: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{pair!r}: changes are written key=value, e.g. steps=2000")
        changes[key.strip()] = _literal(text.strip())
    return changes


def validated(section: type[Section], values: Mapping[str, Any]) -> Section:
    """Builds a settings section, turning pydantic's errors into one ConfigError that names each key."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            lines.append(f"{key}: {problem['msg']} (got {problem['input']!r})")
        raise ConfigError("; ".join(lines)) from None


def _literal(text: str) -> Any:
    special = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in special:
        return special[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text


PARTS: dict[str, Callable[..., object]] = {
    "slot_attention": SlotAttention,
    "autoencoder": LatentAutoencoder,
    "denoiser": Denoiser,
    "schedule": NoiseSchedule,
    "sampling": SamplingSettings,
}
OF_PRETRAINED = ["model.autoencoder.pretrained", "model.autoencoder.subfolder"]
PARTS_WITH_KINDS = {"encoder": ENCODERS, "decoder": DECODERS}


def _check_sections(values: dict[str, Any]) -> None:
    """Sections without a setting become empty ones; ConfigError for what is no section."""
    places = [(values, name, name) for name in ("data", "training")]
    places += [(values["model"], name, f"model.{name}") for name in (*PARTS, *PARTS_WITH_KINDS)]
    for place, name, shown in places:
        if name in place and place[name] is None:
            place[name] = {}
        if not isinstance(place.get(name, {}), Mapping):
            raise ConfigError(f"{shown}: a section of settings, not {place[name]!r}")


def _known_keys(model: Mapping[str, Any]) -> list[str]:
    """Every key that may be set in a run whose model section is `model`."""
    keys = [f"data.{name}" for name in DataSettings.model_fields]
    keys += [f"training.{name}" for name in TrainingSettings.model_fields]
    if str(model.get("kind")) not in MODELS:
        return keys
    for name in inspect.signature(MODELS[model["kind"]]).parameters:
        if name in PARTS:
            keys += [f"model.{name}.{key}" for key in _arguments(PARTS[name])]
        elif name in PARTS_WITH_KINDS:
            registry, kind = PARTS_WITH_KINDS[name], str(model.get(name, {}).get("kind"))
            keys.append(f"model.{name}.kind")
            keys += [f"model.{name}.{key}" for key in _arguments(registry[kind])] if kind in registry else []
        else:
            keys.append(f"model.{name}")
        if name == "autoencoder":
            keys += OF_PRETRAINED
    return keys


def _arguments(constructor: Callable[..., object]) -> list[str]:
    supplied = {"feature_dim", "slot_dim", "resolution"}
    return [name for name in inspect.signature(constructor).parameters if name not in supplied]


def _full_key(key: str, known: list[str]) -> str:
    matches = [full for full in known if full == key or full.endswith(f".{key}")]
    if f"training.{key}" in matches:
        matches = [f"training.{key}"]  # `steps` are those of the training, `sampling.steps` others
    if len(matches) > 1:
        raise ConfigError(f"{key}: could mean {' or '.join(matches)}; write more of the name")
    if not matches:
        last = key.rpartition(".")[2]
        endings = {full.rpartition(".")[2]: full for full in known}
        raise ConfigError(f"unknown key {key!r}{nearest(last, list(endings))}")
    return matches[0]


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    section = values
    for name in parents:
        section = section.setdefault(name, {})
    if last == "kind" and section.get("kind") != value:
        section.clear()  # another kind has other arguments
    section[last] = value
