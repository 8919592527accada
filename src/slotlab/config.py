"""Settings of a training run (model, data, training), from a preset and `key=value` changes."""

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from slotlab.errors import CheckpointError, ConfigError, nearest
from slotlab.files import read_json

FOLDER = Path(__file__).parent / "presets"
RUN_FILE = "run.json"
Section = TypeVar("Section", bound=BaseModel)

# Sections of a model.
SECTIONS = ("features", "slot_attention", "autoencoder", "denoiser", "schedule", "sampling")
SECTIONS += ("encoder", "decoder", "texture", "video")
# arguments that the whole model decides
SUPPLIED = ("feature_dim", "slot_dim", "painting_channels", "resolution", "image_model")
OF_FEATURES = ("width", "grid")  # and of decoders of features
WORDS = {"true": True, "false": False, "null": None, "none": None}
OF_PRETRAINED = {
    "model.autoencoder.pretrained": "a trained autoencoder: a run folder, a name, or one of diffusers",
    "model.autoencoder.subfolder": "where in its folder a diffusers autoencoder is, e.g. vae",
}


class DataSettings(BaseModel, extra="forbid", frozen=True):
    """The images that a model learns from."""

    source: Annotated[str, AfterValidator(lambda source: source.rstrip("/") or source)] = Field(
        default="scenes:textured", description="`scenes:VARIANT`, a data set folder, or `kind:PATH`"
    )
    crop: float | None = Field(
        default=None, gt=0, le=1, description="centred crop, a fraction of the shorter side; none: the format's own"
    )
    train_count: int = Field(default=0, ge=0, description="most training images; 0: all, or fresh scenes without end")
    validation_count: int = Field(default=500, ge=0, description="most validation images; 0: all, or 1,000 scenes")
    min_objects: int = Field(default=3, ge=1, le=16, description="fewest objects in a scene")
    max_objects: int = Field(default=10, ge=1, le=16, description="most objects in a scene")
    frames: int | None = Field(default=None, ge=1, description="frames of a clip; none: 12 of moving scenes")
    stride: int = Field(default=1, ge=1, description="stored clips: use every so many frames")
    scene_seed: int = Field(default=0, ge=0, description="seed of the scenes")
    supersample: int = Field(default=1, ge=1, le=4, description="samples per pixel and axis of rendered scenes")
    mirror: bool = Field(
        default=False,
        description="mirror training images with a chance of 1/2; packed latents and features are not used then",
    )
    skip_broken: bool = Field(default=False, description="skip images that cannot be read")
    workers: int = Field(default=0, ge=0, le=64, description="processes that read images; 0: this one")


Speedup = Literal["factored-convolution", "parts", "channels-last", "kept-memory", "fused-adam"]
OneOrMore = BeforeValidator(lambda value: [value] if isinstance(value, str) else value or [])


class TrainingSettings(BaseModel, extra="forbid", frozen=True):
    """How a model learns. A step is one update by the optimiser."""

    steps: int = Field(default=10_000, ge=1, description="updates in all")
    start_from: str | None = Field(default=None, description="models (a comma between) whose parts to start from")
    batch_size: int = Field(default=32, ge=1, description="images per update, over all processes")
    accumulate: int = Field(default=1, ge=1, description="parts of a batch, one by one: less memory")
    optimizer: Literal["adam", "adamw"] = Field(default="adam", description="the optimiser")
    learning_rate: float = Field(default=4e-4, gt=0, description="peak learning rate")
    encoder_learning_rate: float | None = Field(
        default=None, gt=0, description="peak learning rate of the slot encoder; none: `learning_rate`"
    )
    encoder_steps: int | None = Field(
        default=None, ge=0, description="steps before the slot encoder is frozen, if ever"
    )
    final_learning_rate: float = Field(default=0.0, ge=0, description="learning rate at the end of a cosine schedule")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay")
    warmup_steps: int = Field(default=500, ge=0, description="steps in which the learning rate rises linearly from 0")
    schedule: Literal["cosine", "exponential", "constant"] = Field(default="cosine", description="after the warm-up")
    half_life: int = Field(default=100_000, ge=1, description="steps in which an exponential schedule halves")
    clip_norm: float = Field(default=1.0, gt=0, description="largest norm of the gradient; longer ones are shortened")
    slot_noise_steps: int = Field(
        default=0, ge=0, description="steps in which the noise on bi-level slot starts falls from 1 to 0"
    )
    mask_penalty: float = Field(default=0.0, ge=0, description="weight of `objectives.mask_area_penalty`")
    mask_penalty_start: int = Field(default=0, ge=0, description="first step of `mask_penalty`")
    background_penalty: float = Field(default=0.0, ge=0, description="weight of `objectives.background_penalty`")
    background_penalty_start: int = Field(default=0, ge=0, description="first step of `background_penalty`")
    final_background_penalty: float | None = Field(
        default=None, ge=0, description="`background_penalty` at the last step, reached linearly; none: constant"
    )
    sharing_penalty: float = Field(default=0.0, ge=0, description="weight of `objectives.sharing_penalty`")
    sharing_penalty_start: int = Field(default=0, ge=0, description="first step of `sharing_penalty`")
    attention_loss: float = Field(default=0.0, ge=0, description="weight of `objectives.attention_disagreement`")
    attention_loss_start: int = Field(default=0, ge=0, description="first step of `attention_loss`")
    colour_loss: float = Field(default=0.0, ge=0, description="weight of `objectives.colour_error`")
    contrast_loss: float = Field(default=0.0, ge=0, description="weight of `objectives.slot_contrast`, of clips")
    prediction_loss: float = Field(default=0.0, ge=0, description="weight of `objectives.prediction_error`, of clips")
    cross_attention_loss: float = Field(default=0.0, ge=0, description="weight of `cross_attention_disagreement`")
    teacher: str | None = Field(default=None, description="trained model whose masks slot attention learns")
    teacher_loss: float = Field(default=0.005, ge=0, description="weight of `teacher_disagreement`")
    teacher_pixels: bool = Field(default=False, description="learn the teacher's masks by pixel, not by feature")
    teacher_merged: bool = Field(default=False, description="merge the teacher's slots of one object (`merge_slots`)")
    teacher_balance: float = Field(
        default=0.0, ge=0, le=1, description="above 0: small masks of the teacher count more"
    )
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="decay of the moving average of the weights; 0: none")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="auto: bfloat16 where it is fast")
    compile: bool = Field(default=False, description="compile the heavy parts with torch.compile")
    without: Annotated[list[Speedup], OneOrMore] = Field(
        default=[], description="speed-ups to leave out: results differ by rounding only"
    )
    logger: Annotated[list[Literal["tensorboard", "wandb", "mlflow"]], OneOrMore] = Field(
        default=[], description="where rows of `history.csv` also go: tensorboard, wandb, mlflow, or a list"
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of weights, order of images, and slots")
    evaluate_every: int = Field(
        default=0, ge=0, description="steps between validations; 0: an epoch, but at most `checkpoint_every`"
    )
    preview_every: int = Field(default=1_000, ge=1, description="steps between previews")
    checkpoint_every: int = Field(default=1_000, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(default=2, ge=1, description="number of checkpoints to keep")

    @property
    def beginnings(self) -> list[str]:
        """The models in `start_from`."""
        return [name.strip() for name in (self.start_from or "").split(",") if name.strip()]

    @property
    def freezes_encoder(self) -> bool:
        """Whether the slot encoder is frozen before the training ends."""
        return self.encoder_steps is not None and self.encoder_steps < self.steps


class RunConfig(BaseModel, extra="forbid", frozen=True):
    """One training run, complete: the content of `run.json` in a run folder."""

    preset: str
    model: dict[str, Any]
    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()


def preset_names() -> list[str]:
    """Names of the bundled presets, sorted.

    Example:
        >>> "scenes-64" in preset_names()
        True
    """
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The content of a preset, by name or by the path of a YAML file."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise ConfigError(f"unknown preset {name!r}{nearest(name, preset_names())}")
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ConfigError(f"{path}: an alias (*name) may stand for very much; write what it stands for")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, a number of 5,000 digits
        raise ConfigError(f"{path}: not readable as YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not readable as YAML: nested too deeply") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ConfigError(f"{path}: not a preset: it needs a 'model' section, and may have 'data' and 'training'")
    return content


def run_config(preset: str, overrides: Mapping[str, Any] | Iterable[str] = ()) -> RunConfig:
    """A preset with changes.

    Args:
        preset: a name from `slotlab.list_models()`, or the path of a YAML file like those.
        overrides: `{"steps": 100}` or `["steps=100"]`. A key may be shortened to an ending that
            only one setting has: `slots=7` for `model.slot_attention.slots=7`. Training wins.

    Raises:
        ConfigError: an unknown preset or key (the nearest is suggested), an ambiguous key, or a
            value out of range.

    Example:
        >>> config = run_config("scenes-64", ["steps=100", "slots=5"])
        >>> config.training.steps, config.model["slot_attention"]["slots"]
        (100, 5)
    """
    content = {key: value for key, value in read_preset(preset).items() if key != "summary"}
    changes = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    values = changed({"data": {}, "training": {}, **content}, changes)
    return validated(RunConfig, {"preset": Path(preset).stem, **values})


def changed(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes settings of `values`, which has at least a `model` section, in place."""
    model = values["model"]
    places = [(values, name, name) for name in ("data", "training")]
    for place, name, shown in [*places, *((model, name, f"model.{name}") for name in SECTIONS)]:
        if name in place and place[name] is None:
            place[name] = {}  # an empty section
        if not isinstance(place.get(name, {}), Mapping):
            raise ConfigError(f"{shown}: a section of settings, not {place[name]!r}")
    keys: list[str] = []
    for short, value in sorted(changes.items(), key=lambda change: not change[0].endswith("kind")):
        keys.append(_full_key(short, settings_of(model)))
        *parents, last = keys[-1].split(".")
        if parents[0] not in values:
            raise ConfigError(f"{keys[-1]}: a setting of training, not of a model; leave it out")
        section = values
        for name in parents:
            section = section.setdefault(name, {})
        if keys[-1] == "model.kind":
            from slotlab.models import MODELS

            if str(value) not in MODELS:
                raise ConfigError(f"model.kind: unknown kind {value!r}{nearest(str(value), list(MODELS))}")
        elif last == "kind" and section.get("kind") != value:
            section.clear()  # another kind has other arguments
        section[last] = value
    autoencoder = model.get("autoencoder", {})
    if autoencoder.get("pretrained", "") is None:
        del autoencoder["pretrained"]
    if not isinstance(autoencoder.get("pretrained", ""), str):
        raise ConfigError(f"model.autoencoder.pretrained: a folder or name, not {autoencoder['pretrained']!r}")
    for key in keys:
        if "pretrained" in autoencoder and key.startswith("model.autoencoder.") and key not in OF_PRETRAINED:
            raise ConfigError(f"{key}: cannot change a pretrained autoencoder; leave it out")
    return values


def dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by their dotted keys.

    Example:
        >>> dotted({"model": {"decoder": {"channels": 32}}, "seed": 0})
        {'model.decoder.channels': 32, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": one for name, one in dotted(value).items()}
        else:
            found[key] = value
    return found


def read_run_config(path: Path) -> RunConfig:
    """The config in a run folder's `run.json`; CheckpointError if it is missing or wrong."""
    try:
        return validated(RunConfig, read_json(path, "give the folder that `slotlab train ... --out FOLDER` wrote"))
    except ConfigError as error:
        raise CheckpointError(f"{path}: not a run's config: {error}") from None


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Changes from `key=value` words; values are Python literals, else text.

    Example:
        >>> parse_overrides(["steps=100", "schedule=cosine", "crop=none"])
        {'steps': 100, 'schedule': 'cosine', 'crop': None}
    """
    changes: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{pair!r}: changes are written key=value, e.g. steps=2000")
        text = text.strip()
        try:
            value = WORDS[text.lower()] if text.lower() in WORDS else ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = text
        changes[key.strip()] = value
    return changes


def validated(section: type[Section], values: Mapping[str, Any]) -> Section:
    """Builds a settings section; ConfigError names each key that is unknown or out of range."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        problems = [(".".join(map(str, found["loc"])), found["msg"], found["input"]) for found in error.errors()]
        raise ConfigError("; ".join(f"{key}: {why} (got {value!r})" for key, why, value in problems)) from None


def settings_of(model: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Every key of a run with this model section: its default (None if it has none) and meaning.

    Meanings are the descriptions above, and those of the arguments in the docstrings of models.
    """
    from slotlab import models  # loads torch, which listing presets need not wait for
    from slotlab.models.sampling import SamplingSettings

    parts: dict[str, Callable[..., object]] = {
        "features": models.FrozenFeatures,
        "slot_attention": models.SlotAttention,
        "autoencoder": models.LatentAutoencoder,
        "denoiser": models.Denoiser,
        "schedule": models.NoiseSchedule,
        "sampling": SamplingSettings,
        "texture": models.TextureEncoder,
    }
    decoders = models.FEATURE_DECODERS if model.get("kind") == models.FeatureAutoencoder.kind else models.DECODERS
    registries: dict[str, Mapping[str, Callable[..., object]]] = {"encoder": models.ENCODERS, "decoder": decoders}
    settings: dict[str, tuple[Any, str]] = {}
    for section, fields in (("data", DataSettings.model_fields), ("training", TrainingSettings.model_fields)):
        settings |= {f"{section}.{name}": (field.default, field.description or "") for name, field in fields.items()}
    settings["model.kind"] = (None, f"one of {', '.join(models.MODELS)}")
    whole = models.MODELS.get(str(model.get("kind")))
    for name, about in _arguments(whole).items() if whole else ():
        part = parts.get(name)
        if name in registries:
            settings[f"model.{name}.kind"] = (None, f"one of {', '.join(registries[name])}")
            part = registries[name].get(str(model.get(name, {}).get("kind")))
        elif part is None:
            settings[f"model.{name}"] = about
        if part is not None:
            more = OF_FEATURES if decoders is models.FEATURE_DECODERS and name == "decoder" else ()
            supplied = {f"model.{name}.{key}" for key in (*SUPPLIED, *more)}
            found = {f"model.{name}.{key}": about for key, about in _arguments(part).items()}
            if name == "texture" and model.get(name) is None:  # left out, there is none
                found = {key: (None, meaning) for key, (_, meaning) in found.items()}
            settings |= {key: about for key, about in found.items() if key not in supplied}
        if name == "autoencoder":
            settings |= {key: (None, meaning) for key, meaning in OF_PRETRAINED.items()}
    if "video" in model:
        found = {f"model.video.{name}": about for name, about in _arguments(models.VideoModel).items()}
        settings |= {key: about for key, about in found.items() if key.rpartition(".")[2] not in SUPPLIED}
    return settings


def _arguments(constructor: Callable[..., object]) -> dict[str, tuple[Any, str]]:
    """Default of each argument, and its meaning by the docstring."""
    text = re.split(r"^(?:Args|Attributes):$", inspect.getdoc(constructor) or "", maxsplit=1, flags=re.MULTILINE)[-1]
    meanings = dict(re.findall(r"^    (\w+): ((?:.+|\n {8})+)", text, re.MULTILINE))
    return {
        name: (
            None if argument.default is argument.empty else argument.default,
            " ".join(meanings.get(name, "").split()).rstrip("."),
        )
        for name, argument in inspect.signature(constructor).parameters.items()
    }


def _full_key(key: str, settings: Mapping[str, tuple[Any, str]]) -> str:
    matches = [full for full in settings if full == key or full.endswith(f".{key}")]
    if f"training.{key}" in matches:  # `steps` are training steps; sampling has `sampling.steps`
        return f"training.{key}"
    if len(matches) > 1:
        raise ConfigError(f"{key}: could mean {' or '.join(matches)}; write more of the name")
    if not matches:
        meanings = {full.rpartition(".")[2]: meaning for full, (_, meaning) in settings.items()}
        close = difflib.get_close_matches(key.rpartition(".")[2], meanings, n=3)
        near = " or ".join(f"{name!r} ({meanings[name]})" for name in close)
        hint = f"did you mean {near}? All keys" if close else "all keys"
        raise ConfigError(f"unknown key {key!r}; {hint}: slotlab train PRESET --dry-run")
    return matches[0]
